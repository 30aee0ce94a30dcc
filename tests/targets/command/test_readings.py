"""Numbers out of what a program printed: by JSON, by regular expression, with units; and what is no reading."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from optimizer.targets.command.readings import Reading, in_json, readings
from optimizer.trial import TrialError

TIMES = Reading("latency_s", "s", pattern=r"took (?P<value>\S+) (?P<unit>\w+)")


def find(pattern: str, file: Path) -> Sequence[Mapping[str, str]]:
    return [
        {"value": m["value"], "unit": m.groupdict().get("unit") or ""} for m in re.finditer(pattern, file.read_text())
    ]


def said(folder: Path, text: str) -> Path:
    (folder / "stdout").write_text(text)
    return folder / "stdout"


def test_every_match_is_a_reading_in_its_own_unit(tmp_path: Path) -> None:
    file = said(tmp_path, "took 2 ms\nnoise\ntook 3000 us\ntook 1e-3 s\n")
    assert readings(TIMES, file, find) == pytest.approx((2e-3, 3e-3, 1e-3))


@pytest.mark.parametrize(
    ("take", "found"), [("first", 5), ("last", 2), ("max", 9), ("min", 2), ("sum", 16), ("median", 5)]
)
def test_of_several_numbers_one_may_be_taken(take: str, found: float, tmp_path: Path) -> None:
    reading = Reading("registers", "1", pattern=r"used (?P<value>\d+)", take=take)
    assert readings(reading, said(tmp_path, "used 5, used 9, used 2"), find) == (found,)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nothing", "nothing matches"),
        ("took nan s", "is nan, which is no reading"),
        ("took inf s", "is inf"),
        ("took -1 s", "below 0"),
        ("took long s", "is not a number"),
        ("took 3 MB", "'MB' is a unit of another thing"),
        ("took 3 parsec", "no unit that is known"),
    ],
)
def test_what_is_no_reading_fails_the_trial(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=re.escape(why)):
        readings(TIMES, said(tmp_path, text), find)


def test_a_file_that_was_not_written_fails_the_trial(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=r"did not write result\.json"):
        readings(Reading("latency_s", "s", path="t"), tmp_path / "result.json", find)


def test_json_is_read_by_path_and_scaled(tmp_path: Path) -> None:
    file = said(tmp_path, '{"benchmarks": [{"real_time": 1.5}, {"real_time": 2.5}]}')
    reading = Reading("latency_s", "s", path="benchmarks.*.real_time", unit="ms")
    assert readings(reading, file, find) == pytest.approx((1.5e-3, 2.5e-3))


def test_json_lines_are_readings_each_among_other_lines() -> None:
    text = 'starting\n{"t": 1}\n{"t": 2}\n{"u": 9}\n[broken\ndone'
    assert in_json(text, "t") == [1, 2]


def test_paths_lead_to_items_and_lists_or_nowhere() -> None:
    text = '{"a": {"b": [3, {"c": 4}]}, "n": [1, 2]}'
    assert in_json(text, "a.b[1].c") == [4]
    assert in_json(text, "n") == [1, 2]
    assert in_json(text, "a.x.y") == in_json(text, "a.b.7") == in_json("", "a") == []
    assert in_json("[" * 100_000, "a") == []


def test_truth_and_text_are_no_numbers(tmp_path: Path) -> None:
    for value in ("true", '"3 ms"', "null", "{}"):
        with pytest.raises(TrialError, match="is not a number"):
            readings(Reading("latency_s", "s", path="t"), said(tmp_path, f'{{"t": {value}}}'), find)
