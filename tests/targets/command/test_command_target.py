"""Somebody's program as a target: what is built, what is kept, what tells two points apart, and bad manners."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from own_program import KNOBS, RUN, setup

from optimizer.space import Point
from optimizer.targets.command.target import CommandTarget
from optimizer.trial import Artifact, Check, Reason, Samples, TrialError

POINT = Point({"size": 2, "mode": "b", "turn": 1})
PRINTED = {"latency_s": {"regex": r"took (\S+)", "unit": "ms"}}
BUILD = ["sh", "-c", 'mkdir -p sub; printf "#!/bin/sh\necho $0\n" > sub/program; chmod +x sub/program', "{mode}"]


def made(folder: Path, target: Mapping[str, Any], *words: str, knobs: Mapping[str, Any] = KNOBS) -> CommandTarget:
    found = setup(folder, {"run": RUN, **target}, *words, knobs=knobs).made.target
    assert isinstance(found, CommandTarget)
    return found


def ran(target: CommandTarget, point: Point = POINT, n: int = 1) -> tuple[Check, Samples]:
    with target.open(target.build(point)) as runner:
        return runner.verify(), runner.run(n)


def failed(target: CommandTarget, point: Point = POINT) -> TrialError:
    with pytest.raises(TrialError) as error:
        ran(target, point)
    return error.value


def shell(text: str) -> dict[str, Any]:
    return {"run": ["sh", "-c", text, "{mode}", "{options}"]}


def test_knobs_reach_the_program_as_words_options_and_variables(tmp_path: Path) -> None:
    target = made(tmp_path, {"check": {"text": "b --size=2 1\n"}})
    check, samples = ran(target, n=3)
    assert check.errors == {"max_rel_error": 0.0}
    assert {name: len(values) for name, values in samples.items()} == {
        "latency_s": 3, "peak_memory_bytes": 3, "cpu_time_s": 3,
    }  # fmt: skip
    assert failed(target, Point({**POINT, "turn": 2})).reason is Reason.WRONG


def test_a_program_whose_answer_nothing_checks_says_so(tmp_path: Path) -> None:
    assert ran(made(tmp_path, {}))[0].quality == {"unverified": 1.0}


def test_a_program_may_print_several_readings(tmp_path: Path) -> None:
    target = made(tmp_path, {**shell("for i in 1 2 3 4; do echo took $i; done"), "metrics": PRINTED})
    assert ran(target)[1]["latency_s"] == pytest.approx((1e-3, 2e-3, 3e-3, 4e-3))


def test_readings_may_be_in_a_file_that_each_run_writes(tmp_path: Path) -> None:
    spec = {"json": "t", "from": "{scratch}/r.json"}
    writes = made(tmp_path / "1", {**shell("echo '{\"t\": 2}' > r.json"), "metrics": {"latency_s": spec}})
    assert ran(writes, n=2)[1]["latency_s"] == (2.0, 2.0)
    once = made(
        tmp_path / "2",
        {**shell("test -e mark || echo '{\"t\": 2}' > r.json; touch mark"), "metrics": {"latency_s": spec}},
    )
    assert "did not write r.json" in failed(once).log  # that of the first run is no reading of the second


@pytest.mark.parametrize(
    ("text", "why"),
    [("echo hello there", "hello there"), ("echo took nan", "is nan"), ("echo took -2; echo bye >&2", "bye")],
)
def test_a_run_without_a_reading_fails_with_the_end_of_what_it_printed(text: str, why: str, tmp_path: Path) -> None:
    error = failed(made(tmp_path, {**shell(text), "metrics": PRINTED}))
    assert error.reason is Reason.CRASH
    assert "latency_s" in error.log
    assert why in error.log


def test_a_check_of_its_own_decides_by_its_status(tmp_path: Path) -> None:
    check = {"command": ["grep", "-q", "b", "{scratch}/answer"]}
    target = made(tmp_path, {**shell("echo $0 > answer"), "check": check})
    assert ran(target)[0].errors == {"max_rel_error": 0.0}
    wrong = failed(target, Point({**POINT, "mode": "a"}))
    assert wrong.reason is Reason.WRONG
    assert "grep ended with status 1" in wrong.log


def test_an_answer_in_a_file_is_compared_with_one(tmp_path: Path) -> None:
    tmp_path.joinpath("expected.txt").write_text("3.001 4\n")
    check = {"expected": "expected.txt", "from": "{scratch}/answer", "tolerance": 1e-3}
    target = made(tmp_path, {**shell("echo 3 4 > answer"), "check": check})
    assert ran(target)[0].errors["max_rel_error"] == pytest.approx(2.5e-4)


def test_a_build_is_kept_where_it_was_made_and_made_once(tmp_path: Path) -> None:
    count = tmp_path / "count"
    build = [BUILD, ["sh", "-c", f"echo x >> {count}; pwd > where"]]
    target = made(tmp_path, {"build": build, "run": ["{out}/sub/program", "{options}"]})
    artifact = target.build(POINT)
    out = Path(artifact.path).parents[1]
    assert (out / "where").read_text().strip() == str(out)
    assert target.build(Point({**POINT, "size": 3})).key == artifact.key  # a knob of the run alone
    assert target.build(POINT) == artifact
    assert count.read_text() == "x\n"
    assert artifact.facts["binary_bytes"] == Path(artifact.path).stat().st_size
    assert artifact.facts["compile_time_s"] > 0
    assert target.build(POINT, fresh=True).path == artifact.path
    assert count.read_text() == "x\nx\n"
    assert Path(artifact.path).exists()


def test_a_build_that_was_interrupted_is_made_anew(tmp_path: Path) -> None:
    target = made(tmp_path, {"build": BUILD, "run": ["{out}/sub/program", "{options}"]})
    artifact = target.build(POINT)
    record = Path(artifact.path).parents[2] / "artifact.json"
    record.write_text(record.read_text()[:40])
    (Path(artifact.path).parents[1] / "left").touch()
    assert target.build(POINT).code_key == artifact.code_key
    assert not (Path(artifact.path).parents[1] / "left").exists()


def test_the_same_product_run_in_the_same_way_is_the_same(tmp_path: Path) -> None:
    same = ["sh", "-c", 'printf "#!/bin/sh\n" > program; chmod +x program', "{mode}"]
    target = made(tmp_path, {"build": same, "run": ["{out}/program", "{options}"]})
    a, b = target.build(POINT), target.build(Point({**POINT, "mode": "a"}))
    assert a.key != b.key
    assert a.identity == b.identity
    assert target.build(Point({**POINT, "size": 3})).identity != a.identity
    assert target.build(Point({**POINT, "turn": 2})).identity != a.identity


def test_what_the_record_says_repeats_the_build_and_the_run(tmp_path: Path) -> None:
    environment = {"build_environment": {"LEVEL": "{mode}"}}
    target = made(tmp_path, {"build": BUILD, "run": ["{out}/sub/program", "{options}"], **environment})
    artifact = target.build(POINT)
    assert artifact.command[:5] == ("cd", str(Path(artifact.path).parents[1]), "&&", "LEVEL=b", "sh")
    assert artifact.arguments == ("{out}/sub/program", "--size=2")
    assert artifact.environment == {"TURN": "1"}


def test_what_a_build_prints_may_be_metrics(tmp_path: Path) -> None:
    build = ["sh", "-c", "echo used 12 registers; echo used 40 registers >&2; touch thing", "{mode}"]
    metrics = {"registers": {"regex": r"used (\d+) registers", "from": "build", "take": "max"}}
    target = made(tmp_path, {"build": build, "program": "{out}/thing", "run": RUN, "metrics": metrics})
    assert target.build(POINT).facts["registers"] == 40.0


@pytest.mark.parametrize(
    ("build", "reason", "why"),
    [
        (["sh", "-c", "echo error: no such thing >&2; exit 2", "{mode}"], Reason.COMPILE, "error: no such thing"),
        (["true", "{mode}"], Reason.COMPILE, "left no program"),
        (["sh", "-c", "exec yes", "{mode}"], Reason.CRASH, "printed more than"),
    ],
)
def test_a_build_that_fails_fails_its_trial(build: list[str], reason: Reason, why: str, tmp_path: Path) -> None:
    error = failed(made(tmp_path, {"build": build, "run": ["{out}/program", "{options}"]}))
    assert error.reason is reason
    assert why in error.log


def test_a_build_that_hangs_is_ended(tmp_path: Path) -> None:
    target = made(tmp_path, {"build": ["sh", "-c", "sleep 600", "{mode}"]}, "measure.timeout_s=0.3")
    assert failed(target).reason is Reason.TIMEOUT


def sources(folder: Path, **files: str) -> Path:
    place = folder / "my söurces"
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / name).write_text(text)
    return place


def test_sources_with_any_name_are_hashed(tmp_path: Path) -> None:
    place = sources(tmp_path, a="1")
    target = {"source": "my söurces", **shell("cat '{source}/a'")}
    before = made(tmp_path, target).fingerprint()
    assert made(tmp_path, target).fingerprint() == before
    (place / ".git").write_text("ignored")
    assert made(tmp_path, target).fingerprint() == before
    (place / "a").write_text("2")
    assert made(tmp_path, target).fingerprint() != before
    assert ran(made(tmp_path, target))


def test_who_writes_into_the_sources_is_told_and_may_have_a_copy(tmp_path: Path) -> None:
    place = sources(tmp_path, a="1")
    target = {"source": "my söurces", "build": ["cp", "{source}/a", "{source}/{mode}.o"], "run": RUN}
    error = failed(made(tmp_path, target))
    assert "wrote into its source folder (b.o)" in error.log
    (place / "b.o").unlink()
    assert ran(made(tmp_path, {**target, "copy_source": True}))
    assert ran(made(tmp_path, {**target, "ignore": ["*.o"]}))
    (place / "b.o").unlink()
    run = {"source": "my söurces", **shell("date > '{source}/log'")}
    assert "(log)" in failed(made(tmp_path, run)).log


def test_a_build_folder_and_a_run_folder_may_be_named(tmp_path: Path) -> None:
    sources(tmp_path, a="1")
    target = {
        "source": "my söurces",
        "copy_source": True,
        "build": ["cp", "a", "{mode}"],
        "build_folder": "{source}",
        "folder": "{source}",
        **shell("test $(cat $0) = 1"),
    }
    assert ran(made(tmp_path, target))


def test_points_may_share_a_folder_of_the_pool(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    count = tmp_path / "count"
    slow = ["sh", "-c", f"sleep 0.2; echo x >> {count}; touch program", "{mode}"]
    target = made(tmp_path, {"build": slow, "program": "{out}/program"})
    with ThreadPoolExecutor(4) as pool:
        artifacts: list[Artifact] = list(pool.map(target.build, [POINT] * 4))
    assert len({a.key for a in artifacts}) == 1
    assert count.read_text() == "x\n"


def test_where_nothing_runs_the_build_is_all(tmp_path: Path) -> None:
    build = ["sh", "-c", "touch thing", "{mode}", "{options}"]
    found = setup(tmp_path, {"build": build, "program": "{out}/thing", "run": []}, "device=none")
    assert not found.made.runs
    artifact = found.made.target.build(POINT)
    with found.made.target.open(artifact) as runner:
        assert runner.verify() == Check()
        assert runner.facts == {"unverified": 1.0}
