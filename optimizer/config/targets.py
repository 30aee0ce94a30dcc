"""How does the target of a configuration become an object, for what this machine has?"""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from optimizer.config.compose import Composed, Tree
from optimizer.device import Host
from optimizer.errors import ConfigError, nearest
from optimizer.protocols import Device, Target
from optimizer.readers.recording import recording
from optimizer.recipe import Plan
from optimizer.resources import kernels_dir
from optimizer.space import Choice, Knob, Space, Value, closest
from optimizer.targets.native import BASE_FLAGS, Compiler, Limits, NativeTarget
from optimizer.targets.replay import Replay, SimulatedClock
from optimizer.targets.synthetic import SyntheticTarget

COMPILERS = {"g++": "gcc (Debian: apt install g++)", "clang++": "clang (Debian: apt install clang libomp-dev)"}


@dataclass(frozen=True)
class Machine:
    """What this machine has. Probed when asked for, once."""

    artifacts: Path  # where builds go

    @cached_property
    def compilers(self) -> Mapping[str, Compiler]:
        return found_compilers()


@dataclass(frozen=True)
class Made:
    """A target ready to be searched, with what came of the space on this machine."""

    target: Target
    space: Space
    device: Device
    device_name: str
    baseline: Mapping[str, Value]  # what the target says number 0 is, over the knobs' defaults
    missing: Mapping[str, str]  # what is left out of the space here → why, and how to get it
    clock: SimulatedClock | None = None  # its samples are a record and so is the time that they took

    def prepare(self) -> None:
        """What must be done once before the first trial."""
        if isinstance(self.target, NativeTarget):
            self.target.prepare()


def made_target(composed: Composed, space: Space | None, plan: Plan, machine: Machine) -> Made:
    """Raises ConfigError where the target can't work here."""
    node: Tree = composed.tree["target"]
    kind = str(node.get("kind"))
    if kind not in KINDS:
        raise ConfigError(f"target.kind={kind} is not known.{nearest(kind, KINDS)}")
    device = _device_name(str(composed.tree["device"]), node)
    return KINDS[kind](node, space, plan, machine, device)


def _device_name(wanted: str, node: Tree) -> str:
    """auto: the first that the target runs on."""
    known = ("auto", "cpu", "cuda", "none")
    if wanted not in known:
        raise ConfigError(f"device={wanted} is not known.{nearest(wanted, known)}")
    offered = [str(d) for d in node["devices"]]
    if wanted == "auto":
        return offered[0]
    if wanted not in offered:
        raise ConfigError(f"target={node['name']} does not run on device={wanted}; it runs on {', '.join(offered)}.")
    return wanted


def _native(node: Tree, space: Space | None, plan: Plan, machine: Machine, device: str) -> Made:
    space = _needed(space, node)
    space, missing = _with_compilers_here(space, machine)
    used = _compilers_used(space, machine)
    kernels = kernels_dir()
    files = {str(option): _file(path, kernels, node) for option, path in (node.get("files") or {}).items()}
    target = NativeTarget(
        source=kernels / node["source"],
        support=tuple(kernels / s for s in node["support"]),
        include=kernels,
        options={str(k): str(v) for k, v in (node.get("options") or {}).items()},
        space=space,
        compilers=used,
        folder=machine.artifacts,
        limits=Limits(plan.timeout_s, plan.memory_bytes),
        flags=tuple(node.get("flags") or BASE_FLAGS),
        files=files,
    )
    host = Host({c.name: c.version for c in used.values()})
    return Made(target, space, host, device, {}, missing)


def _synthetic(node: Tree, space: Space | None, plan: Plan, machine: Machine, device: str) -> Made:
    space = _needed(space, node)
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


def _replay(node: Tree, space: Space | None, plan: Plan, machine: Machine, device: str) -> Made:
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


KINDS: Mapping[str, Callable[[Tree, Space | None, Plan, Machine, str], Made]] = {
    "native": _native,
    "synthetic": _synthetic,
    "replay": _replay,
}
"""A new kind of target is one line here, its file, and its file in conf/target."""


def _needed(space: Space | None, node: Tree) -> Space:
    if space is None:
        raise ConfigError(
            f"target={node['name']} needs knobs: name files with space=[…]; `optimizer spaces` lists them."
        )
    return space


def _file(path: Any, kernels: Path, node: Tree) -> Path:
    """A data file: as given, or beside the kernels."""
    for place in (Path(str(path)), kernels / str(path)):
        if place.is_file():
            return place.resolve()
    raise ConfigError(f"target={node['name']}: there is no file {path}.")


# --- compilers


def found_compilers() -> Mapping[str, Compiler]:
    """The C++ compilers on the PATH, by name."""
    paths = {name: shutil.which(name) for name in COMPILERS}
    return {name: Compiler(name, path, _version(path)) for name, path in paths.items() if path is not None}


def _with_compilers_here(space: Space, machine: Machine) -> tuple[Space, Mapping[str, str]]:
    """The space without the compilers that this machine lacks."""
    knob = space.by_name.get("compiler")
    wanted = [v for v in knob.domain.values if isinstance(v, str)] if knob and isinstance(knob.domain, Choice) else []
    absent = {name: _advice(name) for name in wanted if name not in machine.compilers}
    if not machine.compilers or (wanted and len(absent) == len(wanted)):
        lacking = " ".join(absent.values()) or " ".join(_advice(name) for name in COMPILERS)
        raise ConfigError(
            f"There is no compiler for this space. {lacking} `optimizer doctor` shows what this machine has; "
            "target=synthetic needs no compiler."
        )
    if knob is None or not absent:
        return space, absent
    kept = Choice(tuple(v for v in wanted if v not in absent))
    narrowed = replace(knob, domain=kept, default=closest(kept, knob.default))
    return Space(tuple(narrowed if k is knob else k for k in space.knobs), space.constraints), absent


def _compilers_used(space: Space, machine: Machine) -> Mapping[str, Compiler]:
    knob: Knob | None = space.by_name.get("compiler")
    if knob is None or not isinstance(knob.domain, Choice):
        first = next(iter(machine.compilers.values()))
        return {first.name: first}
    return {str(v): machine.compilers[str(v)] for v in knob.domain.values}


def _advice(name: str) -> str:
    return f"{name} is not installed: install {COMPILERS.get(name, name)}."


def _version(path: str) -> str:
    """The first line of --version, or "" where it says nothing."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.stdout else ""
