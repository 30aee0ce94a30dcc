"""How does the target of a configuration become an object, for what this machine has?"""

from collections.abc import Callable, Mapping
from pathlib import Path

from optimizer.config.command import command
from optimizer.config.compose import Composed, Tree
from optimizer.config.made import Builds, Made, needed
from optimizer.config.native import native
from optimizer.device import Host
from optimizer.errors import ConfigError, nearest
from optimizer.readers.recording import recording
from optimizer.recipe import Plan
from optimizer.space import Json, Space
from optimizer.targets.replay import Replay, SimulatedClock
from optimizer.targets.synthetic import SyntheticTarget


def made_target(composed: Composed, space: Space | None, plan: Plan, builds: Builds) -> Made:
    """Raises ConfigError where the target can't work here."""
    node: Tree = composed.tree["target"]
    return made_of(node, space, plan, builds, str(composed.tree["device"]))


def made_of(node: Mapping[str, Json], space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    """The same of the target's node alone. Raises ConfigError where it can't work here."""
    kind = str(node.get("kind"))
    if kind not in KINDS:
        raise ConfigError(f"target.kind={kind} is not known.{nearest(kind, KINDS)}")
    tree = dict(node)
    return KINDS[kind](tree, space, plan, builds, device_name(device, tree))


def device_name(wanted: str, node: Tree) -> str:
    """auto: the first that the target runs on. cuda:1, cuda:GPU-…: which of several GPUs."""
    known = ("auto", "cpu", "cuda", "none")
    kind, _, which = wanted.partition(":")
    if kind not in known or (which and kind != "cuda"):
        raise ConfigError(f"device={wanted} is not known.{nearest(wanted, known)}")
    offered = [str(d) for d in node["devices"]]
    if wanted == "auto":
        return offered[0]
    if kind not in offered:
        raise ConfigError(f"target={node['name']} does not run on device={wanted}; it runs on {', '.join(offered)}.")
    return wanted


def _cuda(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    from optimizer.config.cuda import cuda  # only a search of a CUDA target asks for its compilers

    return cuda(node, space, plan, builds, device)


def _torch(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    from optimizer.config.torch import torch  # only a search of a torch model starts what imports torch

    return torch(node, space, plan, builds, device)


def _ollama(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    from optimizer.config.ollama import ollama  # only a search of a served model needs an HTTP client

    return ollama(node, space, plan, builds, device)


def _llamacpp(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    from optimizer.config.llamacpp import llamacpp  # only its search asks for llama.cpp

    return llamacpp(node, space, plan, builds, device)


def _synthetic(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    space = needed(space, node)
    target = SyntheticTarget(
        space,
        noise=float(node["noise"]),
        failing=float(node["failing"]),
        base_s=float(node["base_s"]),
        build_s=float(node["build_s"]),
        run_s=float(node["run_s"]),
        alike=bool(node["alike"]),
        shares_cpu=False,
    )
    return Made(target, space, Host(), device, {}, {})


def _replay(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    if not node["file"]:
        raise ConfigError(
            "target=replay needs a record: target.file=STUDIES_DIR/NAME/journal.jsonl, a cache file of Kernel Tuner, "
            "or a T4 results file."
        )
    if space is not None:
        raise ConfigError("target=replay brings the space of its record; leave space=[…] away.")
    record, clock = recording(Path(node["file"])), SimulatedClock()
    target = Replay(record.trials, noise=bool(node["noise"]), seed=int(node["seed"]), clock=clock)
    return Made(target, record.space, Host(), device, record.baseline, {}, clock=clock)


KINDS: Mapping[str, Callable[[Tree, Space | None, Plan, Builds, str], Made]] = {
    "native": native,
    "cuda": _cuda,
    "torch": _torch,
    "command": command,
    "ollama": _ollama,
    "llamacpp": _llamacpp,
    "synthetic": _synthetic,
    "replay": _replay,
}
"""A new kind of target is one line here, its file, and its file in conf/target."""
