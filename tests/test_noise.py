"""A program against itself: what the floor is, and who is told of it."""

import json
import platform
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
from simple import bench_of, recipe_of, synthetic

from optimizer.errors import ConfigError
from optimizer.executors.local import InlineExecutor
from optimizer.noise import LATEST_S, Floor, kept, known, measured
from optimizer.protocols import Target
from optimizer.recipe import Confirm
from optimizer.space import Point
from optimizer.trial import Artifact, Reason, TrialError

FLOOR = Floor(platform.node(), "a processor", "gemm_cpu", "latency_s", (0.99, 0.995, 1.0, 1.0, 1.001, 1.02), 1.0, 1e6)


def test_the_floor_is_the_farther_end_of_the_interval() -> None:
    assert FLOOR.pct == pytest.approx(2.0)
    assert replace(FLOOR, gains=tuple(1 / g for g in FLOOR.gains)).pct == pytest.approx(2.0)
    assert replace(FLOOR, gains=(1.0, 1.0)).pct == float("inf"), "two rounds give no interval"


def test_a_program_is_measured_against_itself() -> None:
    recipe = replace(recipe_of(), confirm=Confirm(rounds=10, max_seconds=5.0))
    steady, unsteady = (measured(recipe, bench_of(synthetic(noise=n), recipe)) for n in (0.001, 0.2))
    assert len(steady.gains) == 10
    assert steady.estimate.low <= 1 <= steady.estimate.high
    assert steady.pct < unsteady.pct


class Refusing(InlineExecutor):
    """A compiler that takes nothing."""

    def build(self, target: Target, point: Point, *, fresh: bool = False) -> Future[tuple[Artifact, float]]:
        future: Future[tuple[Artifact, float]] = Future()
        future.set_exception(TrialError(Reason.COMPILE, "no"))
        return future


def test_what_does_not_build_has_no_floor() -> None:
    recipe = recipe_of()
    with pytest.raises(ConfigError, match="does not build"):
        measured(recipe, replace(bench_of(synthetic(), recipe), executor=Refusing()))


def test_each_device_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "noise.json"
    other = replace(FLOOR, device="another", gains=(1.0,) * 6)
    kept(path, FLOOR)
    kept(path, other)
    kept(path, replace(FLOOR, measured_at_s=1e6 + 60))
    assert known(path, "a processor", "gemm_cpu", 1e6 + 61)["pct"] == pytest.approx(2.0)
    assert known(path, "another", "mine", 1e6 + 61)["pct"] == 0.0
    assert known(path, "a third", "gemm_cpu", 1e6 + 61) == {}


def test_a_target_s_own_floor_goes_before_the_machine_s(tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    kept(path, replace(FLOOR, target="mine", gains=(1.0,) * 6))
    assert known(path, "a processor", "yours", 1e6) == {}, "another's says little"
    kept(path, FLOOR)
    assert known(path, "a processor", "yours", 1e6)["target"] == "gemm_cpu"
    assert known(path, "a processor", "mine", 1e6)["target"] == "mine"


def test_an_old_one_and_one_of_another_machine_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    kept(path, FLOOR)
    assert known(path, "a processor", "gemm_cpu", 1e6 + LATEST_S + 1) == {}
    assert known(path, "a processor", "gemm_cpu", 1e6 - 1) == {}, "the clock went back"
    kept(path, replace(FLOOR, host="elsewhere", device="b"))
    assert known(path, "b", "gemm_cpu", 1e6 + 1) == {}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', '{"format": 9, "floors": {}}'])
def test_a_file_that_is_not_whole_says_nothing_and_is_written_anew(text: str, tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    path.write_text(text, encoding="utf-8")
    assert known(path, "a processor", "gemm_cpu", 1e6) == {}
    kept(path, FLOOR)
    assert known(path, "a processor", "gemm_cpu", 1e6)["rounds"] == 6


def test_an_entry_of_another_shape_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    kept(path, FLOOR)
    document = json.loads(path.read_text(encoding="utf-8"))
    for gains in ([], ["x"], None, [0.0] * 6):
        document["floors"][f"{platform.node()}: a processor: gemm_cpu"]["gains"] = gains
        path.write_text(json.dumps(document), encoding="utf-8")
        assert known(path, "a processor", "gemm_cpu", 1e6).get("pct", float("inf")) == float("inf")
