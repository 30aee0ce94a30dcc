"""Points of the CUDA kernels' spaces, read from conf/ as a search reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from optimizer.config.spaces import space_of
from optimizer.feasible import Feasible
from optimizer.resources import conf_dir, kernels_dir
from optimizer.space import Point, Space, Value
from optimizer.targets.builds import knob_words
from optimizer.targets.cuda.operation import load_operation
from optimizer.targets.cuda.plan import Operation

OPERATIONS = ("gemm", "conv", "mlp")
SCENARIO: Mapping[str, Mapping[str, str]] = {  # small enough to be made in no time
    "gemm": {"m": "70", "n": "90", "k": "50"},
    "conv": {"n": "2", "c": "6", "h": "12", "w": "9", "o": "20"},
    "mlp": {"rows": "40", "in": "30", "hidden": "70", "out": "50"},
}


@dataclass(frozen=True)
class Placed:
    """A point of a kernel's space, and how it is launched."""

    kernel: str
    point: Mapping[str, Value]
    operation: Operation
    words: tuple[str, ...]  # -D for each macro of the point

    def value(self, knob: str, default: int) -> int:
        return int(self.point.get(knob, default))


def _file(group: str, name: str) -> Any:
    return yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def space(kernel: str) -> Space:
    return space_of(_file("space", f"{kernel}_cuda"), {})


@cache
def feasible(kernel: str) -> Feasible:
    return Feasible(space(kernel))


def placed(kernel: str, point: Point, options: Mapping[str, str] | None = None) -> Placed:
    made = load_operation(kernels_dir() / kernel / "launch.py")
    operation = made(SCENARIO[kernel] if options is None else options, {}, point)
    words = (*knob_words(space(kernel), point), *(f"-D{name}={v}" for name, v in operation.macros.items()))
    return Placed(kernel, point, operation, words)


def drawn(kernel: str, seed: int) -> Placed:
    return placed(kernel, feasible(kernel).sample(Random(seed)))


def corner(kernel: str, changes: Mapping[str, Value]) -> Placed:
    """The baseline with some knobs changed."""
    known = space(kernel)
    point = known.active({k.name: k.default for k in known.knobs} | dict(changes))
    assert point in known, f"{changes} is no point of {kernel}'s space"
    return placed(kernel, point)


def corners(kernel: str) -> list[Placed]:
    """The baseline and the points that the target's file calls good."""
    good = _file("target", f"{kernel}_cuda")["known_good"]
    return [corner(kernel, changes) for changes in ({}, *good)]


def source(kernel: str) -> Path:
    return kernels_dir() / kernel / f"{kernel}.cu"
