"""Searches that are interrupted, killed, or can't reach their tracking server: nothing recorded is lost."""

import json
import signal
import time
from pathlib import Path
from subprocess import Popen

import pytest
from commands import command, lines, search_json, started

SLOW = (
    "target=synthetic",
    "target.run_s=0.002",
    "target.build_s=0.05",
    "measure=quick",
    "tracking=none",
    "measure.confirm.max_seconds=2",
)


def trials(folder: Path, name: str) -> list[dict[str, object]]:
    return [x for x in lines(folder / "studies" / name / "journal.jsonl") if x.get("kind") == "trial"]


def wait_for_trials(folder: Path, name: str, count: int, process: Popen[str]) -> None:
    until = time.monotonic() + 60
    while len(trials(folder, name)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_in_order_with_the_best_so_far_confirmed(number: signal.Signals, tmp_path: Path) -> None:
    process = started("search", *SLOW, "study=cut", "--json", cwd=tmp_path)
    wait_for_trials(tmp_path, "cut", 4, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Interrupted" in err
    found = json.loads(out)
    assert found["trials"] == len(trials(tmp_path, "cut")) >= 4
    assert found["verdict"] is not None


def test_a_second_interrupt_leaves_it_unconfirmed_and_says_so(tmp_path: Path) -> None:
    words = (*SLOW, "study=twice", "measure.confirm.max_seconds=120", "measure.confirm.rounds=4000")
    process = started("search", *words, "target.run_s=0.01", cwd=tmp_path)
    wait_for_trials(tmp_path, "twice", 4, process)
    process.send_signal(signal.SIGINT)
    time.sleep(2.0)
    assert process.poll() is None  # it is confirming
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "nconfirmed" in out
    assert "confirm" in command("report", "twice", cwd=tmp_path).stdout
    done = command("export", "twice", cwd=tmp_path, status=2)
    assert "--force" in done.stderr


def test_a_killed_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """kill -9: every trial that was told of is there, and the result is that of a search never killed."""
    words = (
        "target=synthetic",
        "target.run_s=0.0003",
        "target.noise=0",
        "measure=quick",
        "tracking=none",
        "budget.trials=30",
    )
    process = started("search", *words, "study=killed", cwd=tmp_path)
    wait_for_trials(tmp_path, "killed", 7, process)
    process.kill()
    process.communicate()
    kept = trials(tmp_path, "killed")
    resumed = search_json("study=killed", "--resume", cwd=tmp_path)
    assert resumed["trials"] == 30
    assert [t["point"] for t in trials(tmp_path, "killed")][: len(kept)] == [t["point"] for t in kept]
    search_json(*words, "study=whole", cwd=tmp_path)
    whole = [t["point"] for t in trials(tmp_path, "whole")]
    assert [t["point"] for t in trials(tmp_path, "killed")] == whole


def test_two_searches_do_not_write_one_journal(tmp_path: Path) -> None:
    process = started("search", *SLOW, "study=busy", cwd=tmp_path)
    wait_for_trials(tmp_path, "busy", 2, process)
    done = command("search", "study=busy", "--resume", cwd=tmp_path, status=2)
    assert "Traceback" not in done.stderr
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_a_server_that_does_not_answer_costs_a_warning(tmp_path: Path) -> None:
    """And what it missed is sent when it is there."""
    words = ("target=synthetic", "measure=quick", "budget.trials=8", "study=far", "tracking.uri=http://127.0.0.1:9")
    done = command("search", *words, "--json", cwd=tmp_path)
    assert "does not answer" in done.stderr
    assert "optimizer track" in done.stderr
    found = json.loads(done.stdout)
    assert found["trials"] == 8
    assert found["tracking"]["run_id"] is None
    command("track", "far", cwd=tmp_path)  # into the default store

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/studies/mlflow.db")
    experiment = client.get_experiment_by_name("synthetic")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 9
    failed = command("track", "far", "tracking.uri=http://127.0.0.1:9", cwd=tmp_path, status=1)
    assert "Traceback" not in failed.stderr
