"""The command doctor --noise: how far a program is from itself on this machine, and what makes it so."""

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import date
from pathlib import Path

from optimizer.conditions import processors, unsteady
from optimizer.config import Setup, load
from optimizer.errors import ConfigError
from optimizer.measure import LiveMeter
from optimizer.noise import REFERENCES, Floor, kept, measured
from optimizer.process import place
from optimizer.report.verdict import LOAD_PCT
from optimizer.study import Bench


def command(words: Sequence[str], folders: Sequence[Path], *, as_json: bool) -> None:
    """Raises ConfigError where nothing can be measured here."""
    with tempfile.TemporaryDirectory(prefix="optimizer-noise-") as folder:
        own = [f"studies_dir={folder}", "study=noise", "tracking=none"]
        named = any(word.startswith("target=") for word in words)
        setup = load([*own, *([] if named else [f"target={REFERENCES[0]}"]), *words], folders, date.today())
        floor = _measured(setup)
    advice = [*_busy(floor), *unsteady(setup.made.device.describe().host)]
    print(json.dumps(_document(floor, setup, advice)) if as_json else _text(floor, advice))
    kept(setup.noise_file, floor)
    if not as_json:
        print(f"kept in {setup.noise_file}: the reports of later searches on this machine say it")


def _measured(setup: Setup) -> Floor:
    made = setup.made
    if not made.measured_here:
        raise ConfigError(f"target={setup.recipe.target.name} does not run on this machine, so it has no noise here.")
    place(processors(setup.recipe.plan.cpus), setup.recipe.plan.nice)
    made.prepare()
    executor = setup.executor()
    meter = LiveMeter(made.device, setup.recipe.plan, setup.recipe.goal, time.perf_counter)
    with closing(executor):
        return measured(setup.recipe, Bench(made.target, made.device, executor, meter))


def _busy(floor: Floor) -> list[str]:
    if floor.load_pct <= LOAD_PCT:
        return []
    return [f"Others used {floor.load_pct:.0f} % of the machine meanwhile: close what runs, and measure again."]


def _document(floor: Floor, setup: Setup, advice: Sequence[str]) -> dict[str, object]:
    gain = floor.estimate
    told = {"ratio": gain.median, "low": gain.low, "high": gain.high, "rounds": gain.n, "floor_pct": floor.pct}
    return {**asdict(floor), **told, "kept": str(setup.noise_file), "advice": list(advice)}


def _text(floor: Floor, advice: Sequence[str]) -> str:
    gain = floor.estimate
    lines = [
        f"{floor.target} against itself on {floor.device}: {gain.median:.4f}× in {floor.metric} "
        f"(95% interval {gain.low:.4f} to {gain.high:.4f}, {gain.n} interleaved rounds)",
        f"Two configurations that differ by less than {floor.pct:.2g} % can't be told apart here in so many rounds.",
        *(f"  {line}" for line in advice),
    ]
    return "\n".join(lines)
