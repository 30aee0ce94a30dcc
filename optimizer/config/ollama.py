"""How does a model behind Ollama become a target? All that is wrong with it is told before trial 0."""

import shutil
from collections.abc import Mapping
from urllib.parse import urlsplit

from optimizer.config.compose import Tree
from optimizer.config.made import COMMON, Builds, Made, known_keys, names_of, needed, work_of
from optimizer.device import Host, chosen_gpus
from optimizer.errors import ConfigError, nearest
from optimizer.protocols import Device
from optimizer.recipe import Plan
from optimizer.space import Choice, Space
from optimizer.targets.ollama.server import LOOPBACK
from optimizer.targets.ollama.target import OllamaTarget
from optimizer.targets.ollama.work import FIXED, SETTINGS, Work

KEYS = (*COMMON, "model", "server", "program", *names_of(Work))
OPTIONS = (
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "use_mmap", "use_mlock", "low_vram",
    "num_keep", "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty",
    "presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline",
)  # fmt: skip
"""What a request may set (docs/api.md of ollama/ollama, read 2026-11-28), less what the work sets."""


def ollama(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    space = needed(space, node)
    known_keys("target", node, KEYS)
    if not node["model"]:
        raise ConfigError("target=ollama needs a model: target.model=NAME, as `ollama list` names it.")
    program, url = _where(node)
    _knobs(space, running=program is None)
    kind = device.partition(":")[0]
    gpus = chosen_gpus(device, {}) if kind == "cuda" else ()
    target = OllamaTarget(
        model=str(node["model"]),
        space=space,
        work=work_of(node, Work, {"seed": 0}),
        program=program,
        url=url,
        variables={"CUDA_VISIBLE_DEVICES": gpus[0].uuid if gpus else "-1"},  # -1: the processor (docs/gpu.md)
        folder=builds.folder,
        timeout_s=plan.timeout_s,
    )
    version, _ = target.known
    host: Device = gpus[0] if gpus else Host({"ollama": version})
    warnings = [text for gpu in gpus[:1] for text in gpu.warnings]
    if program is None:
        warnings.append(f"{url} was started by somebody else: whether it uses a GPU is its choice, not device={device}")
    prepare, preview = target.prepare, target.preview
    return Made(target, space, host, kind, {}, {}, prepare=prepare, preview=preview, warnings=tuple(warnings))


def _where(node: Tree) -> tuple[str | None, str]:
    """The program, or None and where a server runs."""
    if node["server"]:
        url = str(node["server"])
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"target.server={url} is no address; write http://127.0.0.1:11434.")
        if parts.hostname not in LOOPBACK:
            raise ConfigError(
                f"target.server={url} is another machine: what is recorded of this one would not be of what is "
                "measured. Run the search there, with target.server=http://127.0.0.1:11434."
            )
        return None, f"{parts.scheme}://{parts.netloc}"
    program = str(node["program"])
    if (path := shutil.which(program)) is None:
        raise ConfigError(
            f"There is no program '{program}' on the PATH. Install it (https://ollama.com/download), write its path "
            "into target.program, or name a server that runs: target.server=http://127.0.0.1:11434."
        )
    return path, ""


def _knobs(space: Space, *, running: bool) -> None:
    """Raises ConfigError for a knob that neither a request nor a server knows, and for one that can't act here."""
    for knob in space.knobs:
        name, kind = knob.effect.name, knob.effect.kind
        if name in FIXED:
            raise ConfigError(
                f"The knob {knob.name} sets {name}, which the target fixes so that every point does the same work: "
                "target.generate_tokens and target.seed set it."
            )
        if kind == "setting" and name in SETTINGS:
            if running and not _single(knob.domain):
                raise ConfigError(
                    f"The knob {knob.name} is read by a server when it starts ({SETTINGS[name]}), and target.server "
                    f"names one that runs. Set space.{knob.name} to the one value that it has, as in "
                    f"space.{knob.name}=choice({knob.default}), or leave target.server out."
                )
        elif kind != "option" or name not in OPTIONS:
            known: Mapping[str, str] = {**dict.fromkeys(OPTIONS, "option"), **dict.fromkeys(SETTINGS, "setting")}
            if name in known and known[name] != kind:
                raise ConfigError(f"The knob {knob.name} acts on {kind}; {name} is told by {known[name]}: {name}.")
            raise ConfigError(f"The knob {knob.name}: Ollama has no {kind} '{name}'.{nearest(name, known)}")


def _single(domain: object) -> bool:
    return isinstance(domain, Choice) and len(domain.values) == 1
