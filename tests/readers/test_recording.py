"""Other people's recordings: every format to the same trials, and files that are none."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from commands import error, search_json
from simple import MIXED, recipe_of, searched, synthetic

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.journal import Journal, Settings
from optimizer.readers.recording import key_of, recording
from optimizer.recipe import Environment
from optimizer.space import space_from
from optimizer.targets.replay import PlayedMeter, Replay, SimulatedClock
from optimizer.trial import Failed, Reason, Stage, TrialError, metrics_of, samples_of

CONFIGURATIONS: list[dict[str, Any]] = [
    {"tile": 8, "method": 0, "layout": "row"},
    {"tile": 16, "method": 0, "layout": "col"},
    {"tile": 16, "method": 1, "layout": "row"},
    {"tile": 4, "method": 1, "layout": "row"},
]
READINGS = [[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]  # ms


def kernel_tuner() -> dict[str, Any]:
    times: list[dict[str, Any]] = [
        {"time": 2.0, "times": READINGS[0], "compile_time": 100.0, "benchmark_time": 50.0},
        {"time": 8.0, "times": READINGS[1], "compile_time": 200.0, "benchmark_time": 60.0},
        {"time": "CompilationFailedConfig", "times": None, "compile_time": 300.0},
        {"time": "RuntimeFailedConfig"},
    ]
    names = list(CONFIGURATIONS[0])
    cache = {",".join(map(str, c.values())): {**c, **t} for c, t in zip(CONFIGURATIONS, times, strict=True)}
    tune = {n: list(dict.fromkeys(c[n] for c in CONFIGURATIONS)) for n in names}
    return {"device_name": "a GPU", "tune_params_keys": names, "tune_params": tune, "cache": cache}


def t4() -> dict[str, Any]:
    told: list[tuple[str, dict[str, Any], Any]] = [
        ("correct", {"compilation": 100.0, "runtimes": READINGS[0]}, 2.0),
        ("correct", {"compilation": 200.0, "runtimes": READINGS[1]}, 8.0),
        ("compile", {"compilation": 300.0}, "CompilationFailedConfig"),
        ("runtime", {}, "RuntimeFailedConfig"),
    ]
    results = [
        {"configuration": c, "times": times, "invalidity": why, "measurements": [{"name": "time", "value": value}]}
        for c, (why, times, value) in zip(CONFIGURATIONS, told, strict=True)
    ]
    return {"schema_version": "1.0.0", "metadata": {"timeunit": "miliseconds"}, "results": results}


@pytest.fixture(params=["kernel tuner", "t4", "kernel tuner, gzip", "kernel tuner, cut short"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    text = json.dumps(t4() if request.param == "t4" else kernel_tuner())
    if "cut short" in request.param:
        text = text.removesuffix("}}") + ",\n"
    path = tmp_path / ("a.json.gz" if "gzip" in request.param else "a.json")
    path.write_bytes(gzip.compress(text.encode()) if "gzip" in request.param else text.encode())
    return path


def test_every_format_says_the_same(file: Path) -> None:
    found = recording(file)
    assert [dict(t.point) for t in found.trials] == [dict(sorted(c.items())) for c in CONFIGURATIONS]
    first, second, third, fourth = found.trials
    assert metrics_of(first)["latency_s"] == pytest.approx(0.002)
    assert metrics_of(second)["latency_s"] == pytest.approx(0.008)
    assert isinstance(third.outcome, Failed)
    assert (third.outcome.stage, third.outcome.reason) == (Stage.BUILD, Reason.COMPILE)
    assert isinstance(fourth.outcome, Failed)
    assert (fourth.outcome.stage, fourth.outcome.reason) == (Stage.MEASURE, Reason.CRASH)
    assert first.seconds[Stage.BUILD] == pytest.approx(0.1)
    assert found.baseline == first.point


def test_the_space_has_the_recorded_points_and_no_others(file: Path) -> None:
    found = recording(file)
    feasible = Feasible(found.space)
    assert feasible.count == 4
    assert set(feasible.points()) == {t.point for t in found.trials}
    assert found.space.by_name["tile"].domain.ordered
    assert not found.space.by_name["layout"].domain.ordered
    assert dict(CONFIGURATIONS[0], tile=4) not in found.space
    again = space_from(json.loads(json.dumps(found.space.document())))
    assert again == found.space


def test_readings_are_of_the_recorded_time(file: Path) -> None:
    """The second's readings have the mean 4 ms, its recorded time is 8: the tool added what the readings leave out."""
    second = recording(file).trials[1]
    assert samples_of(second)["recorded_latency_s"] == pytest.approx((0.008, 0.008, 0.008))


def test_replay_answers_with_the_mean_or_with_one_reading(file: Path) -> None:
    found = recording(file)
    first = found.trials[0].point

    def answer(replay: Replay) -> float:
        with replay.open(replay.build(first)) as runner:
            return runner.run(1)["latency_s"][0]

    assert answer(Replay(found.trials)) == pytest.approx(0.002)
    drawn = {round(answer(Replay(found.trials, noise=True, seed=seed)), 6) for seed in range(40)}
    assert drawn == {0.001, 0.002, 0.003}
    assert answer(Replay(found.trials, noise=True, seed=3)) == answer(Replay(found.trials, noise=True, seed=3))


def test_replay_charges_what_was_recorded(file: Path) -> None:
    found, clock = recording(file), SimulatedClock()
    replay = Replay(found.trials, clock=clock)
    artifact = replay.build(found.trials[0].point)
    assert clock() == pytest.approx(0.1)
    with replay.open(artifact) as runner:
        runner.run(1)
    assert clock() == pytest.approx(0.1 + found.trials[0].seconds[Stage.MEASURE])
    before = clock()
    with pytest.raises(TrialError):
        replay.build(found.trials[2].point)
    assert clock() == pytest.approx(before + 0.3)


def test_a_journal_is_a_recording(tmp_path: Path) -> None:
    recipe = recipe_of(MIXED)
    trials, _ = searched(recipe, synthetic(failing=0.3), 30)
    path = tmp_path / "s" / "journal.jsonl"
    with Journal.create(path, "s", recipe, Environment("here"), Settings()) as journal:
        for trial in trials:
            journal.on_trial(trial)
    found = recording(path)
    assert Feasible(found.space).count == 30
    again, _ = searched(recipe_of(found.space), Replay(found.trials), 30, meter=PlayedMeter())
    outcomes = {t.point: metrics_of(t).get("latency_s") for t in trials}
    assert {t.point: metrics_of(t).get("latency_s") for t in again} == outcomes
    packed = tmp_path / "journal.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert recording(packed).trials == found.trials


def test_files_that_are_no_recording_are_told(tmp_path: Path) -> None:
    texts = {
        "empty": b"",
        "words": b"hello",
        "list": b"[1, 2]",
        "other": b'{"a": 1}',
        "damaged": b'{"cache": {"a": 3}, "tune_params": {"x": [1]}}',
        "truncated": gzip.compress(b'{"cache": {}}')[:12],
        "nothing measured": json.dumps({"tune_params": {"a": [1]}, "cache": {"1": {"a": 1, "time": "x"}}}).encode(),
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
        with pytest.raises(ConfigError, match=name.replace(" ", ".")):
            recording(tmp_path / name)
    with pytest.raises(ConfigError, match="no file"):
        recording(tmp_path / "missing")


def test_a_recording_is_searched_like_any_target(tmp_path: Path) -> None:
    (tmp_path / "kernel.json").write_text(json.dumps(kernel_tuner()))
    words = ("target=replay", "target.file=kernel.json", "tracking=none", "study=r")
    found = search_json(*words, "strategy=random", "budget.trials=4", cwd=tmp_path)
    assert found["trials"] == 4
    assert found["failed"] == {"compile": 1, "crash": 1}
    assert found["seconds"]["total"] > 0.6, "simulated seconds: the compilers' alone are 0.6"
    assert "target.file" in error("search", "target=replay", cwd=tmp_path)
    assert "missing.json" in error("search", "target=replay", "target.file=missing.json", cwd=tmp_path)


def test_a_budget_of_seconds_is_one_of_simulated_seconds(tmp_path: Path) -> None:
    (tmp_path / "kernel.json").write_text(json.dumps(kernel_tuner()))
    words = ("target=replay", "target.file=kernel.json", "tracking=none", "study=r", "strategy=grid", "ahead=1")
    found = search_json(*words, "budget.seconds=0.2", cwd=tmp_path)
    assert found["trials"] == 2


def test_a_space_is_called_by_its_files_name() -> None:
    assert key_of(Path("x/conv-RTX_2080_Ti.json.gz")) == "conv-RTX_2080_Ti"
    assert key_of(Path("conv_milo-A4000.T4.json.gz")) == "conv_milo-A4000.T4"
    assert key_of(Path("a.jsonl")) == "a"
