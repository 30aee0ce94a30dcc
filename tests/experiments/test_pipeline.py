"""The comparison with peers goes on where it broke off; its ratios say who is faster; code is told by what runs."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import script

FOLDER = Path(__file__).parents[2] / "experiments" / "pipeline"


def repeat(**rounds_s: list[float]) -> dict[str, Any]:
    return {"again": {name: {"median_s": 0.0, "rounds_s": values} for name, values in rounds_s.items()}}


def test_a_run_that_was_interrupted_goes_on_and_another_comparison_begins_anew(tmp_path: Path) -> None:
    peers, path = script(FOLDER / "peers.py"), tmp_path / "peers.json"
    compared = {"hardware": "x", "budget_s": 60.0}
    assert peers.known_repeats(path, compared) == []
    path.write_text(json.dumps({**compared, "repeats": [{"n": 0}, {"n": 1}]}))
    assert peers.known_repeats(path, compared) == [{"n": 0}, {"n": 1}]
    assert peers.known_repeats(path, {**compared, "budget_s": 300.0}) == []
    assert peers.known_repeats(path, {**compared, "measure": "quick"}) == []


def test_a_ratio_above_one_says_that_ours_is_faster() -> None:
    peers = script(FOLDER / "peers.py")
    found = peers.ratios([
        repeat(ours=[1.0, 2.0], ours_half_time=[2.0, 2.0], kernel_tuner=[2.0, 4.0], baseline=[1.0, 1.0]),
        repeat(ours=[1.0, 1.0], ours_half_time=[1.0, 1.0], kernel_tuner=[2.0, 2.0], baseline=[1.0, 1.0]),
    ])  # fmt: skip
    assert found["kernel_tuner_to_ours"]["repeats"] == [2.0, 2.0]
    assert found["kernel_tuner_to_ours"]["interval_95"] == [2.0, 2.0]
    assert found["kernel_tuner_to_ours_half_time"]["repeats"] == [1.5, 2.0]
    assert found["baseline_to_ours"]["repeats"] == [0.75, 1.0]
    assert not any("opentuner" in name for name in found), "a tool that did not run has no ratio"


@pytest.mark.extra
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_instructions_are_told_apart_and_data_is_not(tmp_path: Path) -> None:
    same_code = script(FOLDER / "same_code.py")

    def built(text: str, *flags: str) -> str:
        (tmp_path / "x.cpp").write_text(text)
        subprocess.run(["g++", *flags, tmp_path / "x.cpp", "-o", tmp_path / "x"], check=True)
        return str(same_code.instructions_of(tmp_path / "x"))

    first = built("int a = 1; int main() { return a; }", "-O1")
    assert built("int a = 2; int main() { return a; }", "-O1") == first
    assert built("int a = 1; int main() { return a + 1; }", "-O1") != first
