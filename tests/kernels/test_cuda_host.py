"""Every CUDA kernel, at the corners of its knobs and between them: executed on the processor, its answers are right, no
access is out of bounds or misaligned, and no order of its threads matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.config import files
from optimizer.config.made import data_files, words_of
from optimizer.config.spaces import space_of
from optimizer.feasible import Feasible
from optimizer.resources import kernels_dir
from optimizer.space import Choice, Int, Knob, Point, Space, Value
from optimizer.targets.builds import knob_words
from optimizer.targets.cuda.host import HostCheck
from optimizer.targets.cuda.operation import load_operation
from optimizer.targets.cuda.plan import Operation
from optimizer.trial import TrialError

FLAGS = "cuda_flags"  # what only a GPU's compiler reads
KERNELS = sorted(path.parent.name for path in kernels_dir().glob("*/launch.py"))
DRAWN = 400  # points among which those are looked for that have most corners
FEW_ROWS = 20_000  # larger groups of knobs are drawn from value by value, which needs no table
DRAWS_OF_A_CORNER = 500


@dataclass(frozen=True)
class Target:
    """A kernel as its target's configuration describes it, without the compilers' flags."""

    name: str
    space: Space

    @property
    def source(self) -> Path:
        return kernels_dir() / self.name / f"{self.name}.cu"

    def operation(self, point: Point) -> Operation:
        node = _composed(self.name)
        return load_operation(self.source.with_name("launch.py"))(words_of(node, "options"), data_files(node), point)

    def verify(self, point: Point, check: HostCheck) -> None:
        """Raises AssertionError with the point and what was wrong there."""
        operation = self.operation(point)
        macros = [w for w in knob_words(self.space, point) if w.startswith("-D")]
        macros += [f"-D{name}={value}" for name, value in operation.macros.items()]
        try:
            checked = check.verify(self.source, kernels_dir(), macros, operation)
        except TrialError as error:
            raise AssertionError(f"{self.name} at {dict(point)}\n{error}") from error
        assert checked.errors


@cache
def _composed(name: str) -> dict[str, object]:
    return dict(_tree(name)["target"])


@cache
def _tree(name: str) -> dict[str, dict[str, object]]:
    defaults = files().text(f"target/{name}_cuda")["defaults"]
    spaces = next(line["override /space"] for line in defaults if "override /space" in line)
    own = ",".join(space for space in spaces if space != FLAGS)
    return dict(files().composed([f"target={name}_cuda", f"space=[{own}]", "device=none"]).tree)


@cache
def target(name: str) -> Target:
    return Target(name, space_of(_tree(name)["space"], {}))


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> HostCheck:
    return HostCheck.found(tmp_path_factory.mktemp("host"), 120.0)


def ends(knob: Knob) -> tuple[Value, Value]:
    domain = knob.domain
    if isinstance(domain, Choice | Int):
        return domain.at(0), domain.at(domain.size - 1)
    return domain.low, domain.high


def pinned(space: Space, knob: Knob, value: Value) -> Space:
    """Without the knob's other values."""
    one = Knob(knob.name, Choice((value,)), knob.effect, value, knob.when, knob.help)
    return Space(tuple(one if k is knob else k for k in space.knobs), space.constraints)


def corner(space: Space, knob: Knob, value: Value, rng: Random) -> Point:
    """A valid point with this value."""
    feasible = Feasible(pinned(space, knob, value), FEW_ROWS)
    drawn = (feasible.sample(rng) for _ in range(DRAWS_OF_A_CORNER))
    found = next((point for point in drawn if knob.name in point), None)
    assert found is not None, f"no valid point came up with {knob.name}={value}"
    return found


def covering(space: Space, rng: Random) -> Sequence[Point]:
    """Few valid points, in which every knob has the first and the last value of its domain."""
    feasible = Feasible(space, FEW_ROWS)
    missing = {(k.name, value) for k in space.knobs for value in ends(k)}
    drawn = [feasible.sample(rng) for _ in range(DRAWN)]
    chosen: list[Point] = []
    while missing:
        best = max(drawn, key=lambda point: len(missing & point.items()))
        if not missing & best.items():
            name, value = min(missing, key=str)
            best = corner(space, space.by_name[name], value, rng)
        chosen.append(best)
        missing -= best.items()
    return chosen


@pytest.mark.parametrize("name", KERNELS)
def test_every_corner_is_right(name: str, check: HostCheck) -> None:
    kernel = target(name)
    points = [kernel.space.baseline(), *covering(kernel.space, Random(0))]
    for point in points:
        kernel.verify(point, check)
    for knob in kernel.space.knobs:
        assert set(ends(knob)) <= {point.get(knob.name) for point in points}


@pytest.mark.parametrize("name", KERNELS)
def test_points_between_are_right(name: str, check: HostCheck) -> None:
    kernel = target(name)
    feasible = Feasible(kernel.space, FEW_ROWS)

    @settings(max_examples=10, derandomize=True, deadline=None, database=None)
    @given(seed=st.integers(0, 2**32 - 1), order=st.integers(0, 2**16))
    def right(seed: int, order: int) -> None:
        kernel.verify(feasible.sample(Random(seed)), replace(check, seed=order))

    right()
