"""What is told of a processor's conditions, and what of them is unsteady."""

from pathlib import Path

import pytest

from optimizer.conditions import conditions, listed, processors, unsteady


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_clocks_that_follow_the_load_and_turbo_are_seen_with_the_remedy(tmp_path: Path) -> None:
    files = {
        "cpu0/cpufreq/scaling_governor": "schedutil\n", "cpu1/cpufreq/scaling_governor": "performance\n",
        "intel_pstate/no_turbo": "0\n", "smt/active": "1\n", "info": "model name : x\nflags\t\t: fpu hypervisor sse\n",
    }  # fmt: skip
    found = conditions(written(tmp_path, files), tmp_path / "info")
    assert found["governor"] == "performance, schedutil"
    assert found["turbo"] is True and found["smt"] is True and found["virtual"] is True
    assert isinstance(found["cpus"], str) and processors(found["cpus"])
    told = list(unsteady(found))
    assert len(told) == 3
    assert "cpupower frequency-set -g performance" in told[0] and "no_turbo" in told[1] and "virtual" in told[2]


def test_a_steady_machine_gets_no_advice(tmp_path: Path) -> None:
    files = {"cpu0/cpufreq/scaling_governor": "performance", "cpufreq/boost": "0", "info": "flags : fpu\n"}
    found = conditions(written(tmp_path, files), tmp_path / "info")
    assert found["turbo"] is False and found["virtual"] is False
    assert list(unsteady({**found, "nice": 0})) == []
    assert "nice 5" in next(iter(unsteady({**found, "nice": 5})))


def test_what_the_system_does_not_tell_is_not_made_up(tmp_path: Path) -> None:
    found = conditions(tmp_path, tmp_path / "info")
    assert (found["governor"], found["turbo"], found["smt"]) == (None, None, None)
    assert list(unsteady({})) == []


@pytest.mark.parametrize(("text", "numbers"), [("0-3,6", {0, 1, 2, 3, 6}), ("5", {5}), ("", set())])
def test_processors_are_listed_as_taskset_takes_them(text: str, numbers: set[int]) -> None:
    assert processors(text) == numbers
    assert listed(numbers) == text


@pytest.mark.parametrize("text", ["a", "1-", "-1", "1-2-3", "0x1"])
def test_other_lists_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        processors(text)
