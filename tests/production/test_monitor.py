"""monitor: a history that survives, alarms that are told once, what changed, and how the command ends."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from commands import command, error, started
from exports import shipped_at

from optimizer.cli.monitor import seconds_of
from optimizer.errors import ConfigError
from optimizer.export.exported import Exported, exported_in
from optimizer.production.history import HISTORY, IMPROVEMENT, REGRESSION, Check, history_of
from optimizer.production.monitor import check_of, level_of, suspects
from optimizer.production.picture import picture
from optimizer.production.verify import Finding, Verification
from optimizer.recipe import Environment
from optimizer.stats import Judgement, Verdict

QUICK = ("--rounds", "6", "--seconds", "1")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return shipped_at(tmp_path, 1.0)


@pytest.fixture
def exported(place: Path) -> Exported:
    return exported_in(place)


def found(ratio: float, environment: Environment, finding: Finding = Finding.KEPT) -> Verification:
    verdict = Verdict("latency_s", ratio, ratio * 0.99, ratio * 1.01, Judgement.BETTER, 1, 6)
    return Verification(finding, "latency_s", verdict, (), (), environment)


def checks(exported: Exported, ratios: list[float], new: Environment | None = None, at: int = 0) -> list[Check]:
    """One check after the other; from number `at` on in another environment."""
    made: list[Check] = []
    for i, ratio in enumerate(ratios):
        place = new if new is not None and i >= at else exported.environment
        made.append(check_of(exported, made, found(ratio, place), 3600.0 * i))
    return made


def wobbling(level: float, count: int) -> list[float]:
    return [level * (1 + 0.004 * ((i * 7) % 5 - 2)) for i in range(count)]


def test_a_regression_is_told_once_with_what_changed_then(exported: Exported) -> None:
    newer = replace(exported.environment, driver="999.1", compilers={"g++": "13.1"})
    made = checks(exported, wobbling(2.0, 14) + wobbling(1.8, 14), newer, 14)
    alarms = [c for c in made if c.level]
    assert len(alarms) == 1
    assert alarms[0].level == REGRESSION
    assert alarms[0].regressed
    assert alarms[0].since == 14
    assert alarms[0].before == pytest.approx(2.0, rel=0.01)
    assert alarms[0].after == pytest.approx(1.8, rel=0.01)
    assert alarms[0].number < 24, "within ten checks"
    before = exported.environment.driver
    assert suspects(made, 14) == ([f"driver: {before!r} → '999.1'"] if before else [])


def test_what_changed_is_named_by_driver_compiler_and_package(exported: Exported) -> None:
    old = replace(exported.environment, driver="1", compilers={"g++": "12"}, host={"packages": {"torch": "2.12"}})
    new = replace(old, driver="2", compilers={"g++": "13"}, host={"packages": {"torch": "2.13"}, "load_1min": 9.0})
    first = check_of(exported, [], found(2.0, old), 0.0)
    second = check_of(exported, [first], found(2.0, new), 1.0)
    assert second.changed == ("driver: '1' → '2'", "compiler g++: '12' → '13'", "package torch: '2.12' → '2.13'")


def test_an_improvement_is_no_regression(exported: Exported) -> None:
    alarms = [c for c in checks(exported, wobbling(2.0, 14) + wobbling(2.3, 10)) if c.level]
    assert [c.level for c in alarms] == [IMPROVEMENT]
    assert not alarms[0].regressed


def test_a_change_too_small_to_matter_is_none(exported: Exported) -> None:
    made = checks(exported, [2.0] * 0 + wobbling(2.0, 20))
    tiny = [replace(c, ratio=2.0 + 1e-6 * i + (0.002 if i > 10 else 0.0)) for i, c in enumerate(made)]
    assert level_of(tiny, 0.0) is not None
    assert level_of(tiny, 0.01) is None


def test_a_broken_promise_is_a_regression_at_once(exported: Exported) -> None:
    assert check_of(exported, [], found(0.5, exported.environment, Finding.BROKEN), 0.0).regressed


def test_a_history_is_read_as_it_was_written_and_drawn(exported: Exported, tmp_path: Path) -> None:
    made = checks(exported, wobbling(2.0, 14) + wobbling(1.8, 8))
    with history_of(exported, tmp_path / "m") as history:
        for check in made:
            history.add(check)
        history.add_research("here")
    with history_of(exported, tmp_path / "m") as again:
        assert again.checks == made
        assert again.researched == ["here"]
        drawn = picture(exported, again.checks)
    assert drawn.startswith(b"\x89PNG")
    assert drawn == picture(exported, made)


def test_a_torn_line_is_cut_off_and_a_damaged_one_is_told(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / HISTORY
    with history_of(exported, tmp_path) as history:
        for check in checks(exported, [2.0, 2.0]):
            history.add(check)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind":"check","numb')
    with history_of(exported, tmp_path) as history:
        assert len(history.checks) == 2
        history.add(checks(exported, [2.0, 2.0, 2.0])[2])
    assert path.read_bytes().startswith(whole + b'{"kind":"check"')
    path.write_bytes(whole + b"rubbish\n")
    with pytest.raises(ConfigError, match="line 4"), history_of(exported, tmp_path):
        pass


def test_another_exports_history_and_a_held_one_are_refused(exported: Exported, tmp_path: Path) -> None:
    with history_of(exported, tmp_path), pytest.raises(ConfigError, match="Another monitor"):
        history_of(exported, tmp_path).__enter__()
    other = replace(exported, point=exported.baseline)
    with pytest.raises(ConfigError, match="another export"), history_of(other, tmp_path):
        pass


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800.0), ("6h", 21600.0), ("1.5d", 129600.0), ("2s", 2.0)])
def test_a_schedule_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["6", "h", "-1h", "0h", "6 weeks"])
def test_what_is_no_schedule_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="30m"):
        seconds_of(text)


# --- the command


def test_once_keeps_a_history_and_tells_mlflow(place: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    for number in (0, 1):
        done = command("monitor", str(place), "--once", *QUICK, "--json", cwd=tmp_path)
        told = json.loads(done.stdout)
        assert told["number"] == number
        assert told["finding"] == "kept"
    assert (tmp_path / "monitoring/s/history.png").read_bytes().startswith(b"\x89PNG")
    client = MlflowClient(f"sqlite:///{tmp_path}/studies/mlflow.db")
    history = client.get_metric_history(told["tracking"], "ratio")
    assert [m.step for m in history] == [0, 1], "each check is there once"
    assert client.get_run(told["tracking"]).data.tags["checks"] == "2"


def test_a_regression_ends_with_1_and_a_schedule_with_it(tmp_path: Path) -> None:
    place = shipped_at(tmp_path, 1.4)
    done = command("monitor", str(place), "--every", "1h", "tracking=none", *QUICK, cwd=tmp_path, status=1)
    assert "broken" in done.stdout
    assert "promised were" in done.stdout
    assert "less at most 5 %" in done.stdout


def test_ctrl_c_between_two_checks_and_kill_while_one_runs(place: Path, tmp_path: Path) -> None:
    process = started("monitor", str(place), "--every", "1h", "tracking=none", *QUICK, cwd=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "next check" in line:
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    process.communicate()
    killed = started("monitor", str(place), "--every", "1s", "tracking=none", *QUICK, cwd=tmp_path)
    history = tmp_path / "monitoring/s" / HISTORY
    deadline = time.monotonic() + 60
    while len(history.read_bytes().splitlines()) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = len([x for x in history.read_bytes().splitlines(keepends=True) if x.endswith(b"\n")])
    done = command("monitor", str(place), "tracking=none", *QUICK, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["number"] == before - 1, "nothing lost, nothing twice"


def test_a_changed_environment_starts_a_search_from_the_champion_once(place: Path, tmp_path: Path) -> None:
    path = place / "provenance.json"
    document = json.loads(path.read_text())
    document["environment"] |= {"device": "another processor"}
    document["settings"]["words"] += ["budget.trials=6", "measure=quick"]
    path.write_text(json.dumps(document))
    words = ("monitor", str(place), "--research", "tracking=none", *QUICK)
    said = command(*words, cwd=tmp_path)
    assert "another processor" in said.stdout
    assert "searching anew" in said.stderr
    (journal,) = (tmp_path / "studies").glob("synthetic-*/journal.jsonl")
    lines = [json.loads(x) for x in journal.read_text().splitlines()]
    assert lines[2]["point"] == document["point"], "the champion comes right after the baseline"
    assert "searching anew" not in command(*words, cwd=tmp_path).stderr


def test_wrong_requests(tmp_path: Path, place: Path) -> None:
    assert "exclude each other" in error("monitor", str(place), "--once", "--every", "1h", cwd=tmp_path)
    assert "no study nowhere" in error("monitor", "nowhere", cwd=tmp_path)
    (tmp_path / "empty").mkdir()
    assert "neither an export" in error("monitor", "empty", cwd=tmp_path)


def test_a_study_is_monitored_by_its_name(tmp_path: Path) -> None:
    command(
        "search", "target=synthetic", "measure=quick", "budget.trials=12", "study=won", "tracking=none", cwd=tmp_path
    )
    done = command("monitor", "won", "tracking=none", *QUICK, "--json", cwd=tmp_path, status=None)
    assert json.loads(done.stdout)["number"] == 0, done.stderr
    assert (tmp_path / "monitoring/won/export/provenance.json").is_file()
