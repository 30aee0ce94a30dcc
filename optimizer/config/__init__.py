"""YAML and command-line words in, the objects of a search out: the only room that knows Hydra and OmegaConf."""

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from optimizer.config.compose import Composed, Files, nested, sorted_words
from optimizer.config.native import COMPILERS, found_compilers
from optimizer.config.objects import Setup, setup_of, strategy_for
from optimizer.device import physical_cores
from optimizer.feasible import Feasible
from optimizer.nvml import architecture
from optimizer.protocols import Strategy
from optimizer.race import GOAL, Racer, ask_and_tell
from optimizer.recipe import Part

DEFAULT_ARCH = "sm_90"  # what is built for where there is no GPU to ask
RESOLVERS = {
    "physical_cores": physical_cores,
    "thread_counts": lambda: _thread_counts(physical_cores()),
    "torch_threads": lambda: _thread_counts(physical_cores()).replace("(", "(0, "),
    "user_cache": lambda: os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
    "cuda_arch": lambda: architecture() or DEFAULT_ARCH,
    "cuda_archs": lambda: f"choice({architecture() or DEFAULT_ARCH})",
}
"""What a configuration file may ask of the machine: ${physical_cores:}, ${thread_counts:}, the same with 0 for torch's
own choice, ${torch_threads:}, the folder for the user's caches, ${user_cache:}, ${cuda_arch:} and the domain of what is
built for, ${cuda_archs:}."""


def files(folders: Sequence[Path] = ()) -> Files:
    """The packaged configuration files and those of a user's folders."""
    return Files(folders, RESOLVERS)


def load(words: Sequence[str], folders: Sequence[Path], today: date) -> Setup:
    """Raises ConfigError for whatever can't work, before anything is built, run or written."""
    return setup_of(composed(words, folders), today)


def composed(words: Sequence[str], folders: Sequence[Path]) -> Composed:
    """The configuration with the three rules that no YAML file can state.

    A budget that is given stands alone: budget.trials lifts the default limit in seconds. Where g++ is missing but
    clang++ is there, a target's own space takes the flags of clang++. And a target may name another objective for a
    device (target.objectives), as where there is none and nothing can be timed.
    """
    made = files(folders).composed(words)
    given = sorted_words(words)
    objective = (made.tree["target"].get("objectives") or {}).get(str(made.tree["device"]))
    if objective and not given.sets("objective"):
        words = [*words, f"objective={objective}"]
        made = files(folders).composed(words)
    if not given.sets("space") and "gxx" in made.spaces:
        compilers = found_compilers()
        if "g++" not in compilers and "clang++" in compilers:
            spaces = ",".join("clangxx" if s == "gxx" else s for s in made.spaces)
            made = files(folders).composed([*words, f"space=[{spaces}]"])
    if (given.sets("budget.trials") or given.sets("budget.patience")) and not given.sets("budget.seconds"):
        made.tree["budget"]["seconds"] = None
    return made


def strategy_names() -> Sequence[str]:
    return files().options("strategy")


def options_of(name: str) -> dict[str, Any]:
    """A strategy's configured options; of NAME@N those of NAME."""
    return {k: v for k, v in files().text(f"strategy/{name.partition('@')[0]}").items() if k != "name"}


def racer_of(name: str) -> Racer:
    """A strategy on a race course, with its configured options. NAME@N asks for N points before it is told of them."""
    plain, _, batch = name.partition("@")
    options = options_of(plain)

    def make(feasible: Feasible, seed: int) -> Strategy:
        return strategy_for(Part(plain, options), GOAL, seed, feasible, ())

    return ask_and_tell(make, int(batch or 1))


def _thread_counts(cores: int) -> str:
    """choice(1, 2, 4, …) up to all physical cores."""
    counts = {2**i for i in range(cores.bit_length()) if 2**i <= cores} | {cores}
    return f"choice({', '.join(map(str, sorted(counts)))})"


__all__ = [
    "COMPILERS", "Composed", "Files", "Setup", "composed", "files", "load", "nested", "options_of", "racer_of",
    "strategy_names",
]  # fmt: skip
