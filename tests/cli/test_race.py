"""python -m optimizer race: its JSON, its files, going on, racers of somebody else's, wrong words."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import command, error

RACER = """
import random

def shuffled(course, seed):
    points = sorted(course.track.trials, key=lambda p: p.key)
    random.Random(seed).shuffle(points)
    for point in points:
        course.evaluate(point)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    cache = {
        f"{a},{b}": {"a": a, "b": b, "time": 1.0 + (a - 5) ** 2 + b, "times": [1.0], "compile_time": 10.0}
        for a in range(1, 11)
        for b in range(4)
    }
    cache["1,3"]["time"] = "CompilationFailedConfig"
    document = {"tune_params_keys": ["a", "b"], "tune_params": {"a": list(range(1, 11)), "b": list(range(4))}}
    (tmp_path / "kernel-GPU.json").write_text(json.dumps({**document, "cache": cache}))
    (tmp_path / "mine.py").write_text(RACER)
    return tmp_path


def raced(place: Path, *words: str) -> dict[str, Any]:
    found = json.loads(command("race", "kernel-GPU.json", *words, "--json", cwd=place).stdout)
    assert isinstance(found, dict)
    return found


def test_a_race_is_told_drawn_and_kept(place: Path) -> None:
    words = ("--strategies", "auto,random,mine.py:shuffled", "--budget", "30", "--repeats", "3")
    found = raced(place, *words)
    assert set(found) == {"kernel-GPU"}
    assert set(found["kernel-GPU"]) == {"auto", "random", "mine.py:shuffled"}
    auto = found["kernel-GPU"]["auto"]
    assert {"repeats", "ratio", "within_5pct", "within_1pct", "ask_ms"} <= set(auto)
    assert auto["repeats"] == 3
    assert set(auto["ratio"]) == {"25"}
    assert auto["ratio"]["25"] == 1.0
    assert auto["ask_ms"] > 0
    assert json.loads((place / "race/result.json").read_text()) == found
    assert (place / "race/curves.svg").read_text().startswith("<?xml")
    assert (place / "race/curves.png").read_bytes().startswith(b"\x89PNG")
    before = (place / "race/runs.jsonl").read_text()
    assert len(before.splitlines()) == 9
    again = raced(place, *words)
    assert again == found
    assert (place / "race/runs.jsonl").read_text() == before, "nothing is run twice"
    more = raced(place, "--strategies", "random", "--budget", "30", "--repeats", "4")
    assert more["kernel-GPU"]["random"]["repeats"] == 4
    assert len((place / "race/runs.jsonl").read_text().splitlines()) == 10


def test_a_line_torn_by_a_kill_is_run_again(place: Path) -> None:
    words = ("--strategies", "random", "--budget", "10", "--repeats", "2")
    found = raced(place, *words)
    runs = place / "race/runs.jsonl"
    runs.write_text(runs.read_text()[:-40])
    again = raced(place, *words)
    assert again["kernel-GPU"]["random"]["ratio"] == found["kernel-GPU"]["random"]["ratio"]


def test_runs_of_another_recording_or_racer_are_not_taken_over(place: Path) -> None:
    words = ("--strategies", "mine.py:shuffled", "--budget", "10", "--repeats", "1")
    raced(place, *words)
    runs = place / "race/runs.jsonl"
    (place / "mine.py").write_text(RACER.replace("shuffle(points)", "shuffle(points[:4])"))
    raced(place, *words)
    assert len(runs.read_text().splitlines()) == 2
    (place / "kernel-GPU.json").write_text((place / "kernel-GPU.json").read_text().replace("10.0", "20.0"))
    raced(place, *words)
    assert len(runs.read_text().splitlines()) == 3


def test_a_table_for_people(place: Path) -> None:
    said = command("race", "kernel-GPU.json", "--strategies", "random", "--budget", "25", "--repeats", "2", cwd=place)
    assert "| kernel-GPU | random |" in said.stdout
    assert "geometric mean" in said.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["kernel-GPU.json", "--strategies", "autto"], ["autto", "auto"]),
        (["missing.json"], ["missing.json"]),
        (["kernel-GPU.json", "--strategies", "none.py:x"], ["none.py"]),
        (["kernel-GPU.json", "--strategies", "mine.py:shufled"], ["shufled"]),
        (["kernel-GPU.json", "kernel-GPU.json"], ["same name"]),
        (["mine.py", "--strategies", "random"], ["mine.py"]),
    ],
    ids=str,
)
def test_a_wrong_word_is_told(words: list[str], says: list[str], place: Path) -> None:
    said = error("race", *words, cwd=place)
    assert all(part in said for part in says), said
    assert not (place / "race").exists()
