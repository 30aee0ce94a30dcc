"""Is every trial in MLflow exactly once when its server was down for half of them?"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos import PROGRAM, Server, environment
from mlflow import MlflowClient
from mlflow.entities import Run
from postgres import Cluster

from optimizer.journal import Study, read
from optimizer.listeners.mlflow import trial_metrics
from optimizer.listeners.tracker import read_status
from optimizer.readers.store import PAGE, runs_of
from optimizer.trial import Failed, Trial

STUDY = "scale"


def run(folder: Path, cluster: Cluster, trials: int, build_s: float) -> dict[str, Any]:
    """Raises AssertionError where a trial is missing, twice or different, or sending again changes anything."""
    artifacts = folder / "artifacts"
    server = Server(folder, "--backend-store-uri", cluster.uri, "--artifacts-destination", str(artifacts))
    try:
        _healthy(server)
        empty_bytes = cluster.size_bytes()
        search_s, killed_at, missed = _searched(folder, server, trials, build_s)
        sent = _sent(folder)
        sent_s = _tracked(folder, server.uri)
        study = read(_journal(folder))
        assert len(study.trials) == trials
        start_s = time.monotonic()
        found = runs(server.uri, study)
        read_s = time.monotonic() - start_s
        same(study, found)
        again_s = _tracked(folder, server.uri)
        assert _contents(runs(server.uri, study)) == _contents(found), "sending again changes nothing"
        return {
            "trials": trials,
            "failed trials": sum(isinstance(t.outcome, Failed) for t in study.trials),
            "trials made while the server was down": missed,
            "sent when the server was killed": killed_at,
            "sent when the search had ended": sent,
            "search, with its flush, s": round(search_s, 1),
            "sending the rest, s": round(sent_s, 1),
            "sending all again, s": round(again_s, 1),
            f"reading all back, {PAGE} a request, s": round(read_s, 1),
            "database, bytes a trial": round((cluster.size_bytes() - empty_bytes) / trials),
            "artifacts, files": sum(path.is_file() for path in artifacts.rglob("*")),
        }
    finally:
        server.kill()


def _searched(folder: Path, server: Server, trials: int, build_s: float) -> tuple[float, int, int]:
    """Seconds of the search, the trials that were sent when the server was killed, and those made while it was down.

    A search of a quarter of the trials, whose server is killed while it is sent to; then it is resumed for the rest,
    and the server is started again while it runs, when half the trials were made without it.
    """
    start_s = time.monotonic()
    roomy = ("space.unroll=range(1,1001)", "space.constraints.budget=null")  # more configurations than trials
    words = ("target=synthetic", "strategy=random", "measure=quick", f"target.build_s={build_s}", *roomy)
    with _search(folder, server.uri, trials // 4, *words) as first:
        _wait(first, folder, lambda: _sent(folder) >= trials // 8)
        server.kill()
        sent, down = _sent(folder), _written(folder)
    with _search(folder, server.uri, trials, "--resume") as second:
        _wait(second, folder, lambda: _written(folder) >= down + trials // 2)
        missed = _written(folder) - down
        server.start()
        _healthy(server)
    return time.monotonic() - start_s, sent, missed


@contextmanager
def _search(folder: Path, uri: str, trials: int, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs until its end, which is waited for at the exit."""
    words = (*words, f"study={STUDY}", f"budget.trials={trials}", f"tracking.uri={uri}")
    with (folder / "search.log").open("ab") as log:
        search = subprocess.Popen(
            [*PROGRAM, "search", *words], cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield search
        assert search.wait() == 0, (folder / "search.log").read_text()
    finally:
        search.kill()
        search.wait()


def _wait(search: "subprocess.Popen[bytes]", folder: Path, reached: Callable[[], bool]) -> None:
    while not reached():
        assert search.poll() is None, (folder / "search.log").read_text()
        time.sleep(0.1)


def _written(folder: Path) -> int:
    journal = _journal(folder)
    return journal.read_bytes().count(b'"kind":"trial"') if journal.exists() else 0


def _sent(folder: Path) -> int:
    status = read_status(_journal(folder))
    return status.sent if status else 0


def _tracked(folder: Path, uri: str) -> float:
    start_s = time.monotonic()
    words = [*PROGRAM, "track", STUDY, f"tracking.uri={uri}"]
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - start_s


def _healthy(server: Server) -> None:
    """Its port is open before it can answer."""
    server.ready()
    MlflowClient(server.uri).search_experiments(max_results=1)


def _journal(folder: Path) -> Path:
    return folder / "studies" / STUDY / "journal.jsonl"


def runs(uri: str, study: Study) -> Sequence[Run]:
    """All runs of the experiment, by number; the parent first."""
    client = MlflowClient(uri)
    known = client.get_experiment_by_name(study.recipe.target.name)
    assert known is not None
    found = runs_of(client, known.experiment_id, "")
    return sorted(found, key=lambda run: int(run.data.tags.get("number", -1)))


def same(study: Study, found: Sequence[Run]) -> None:
    """The parent, and each trial once, complete, with what the journal says of it."""
    parent, *children = found
    assert parent.data.tags["trials"] == str(len(study.trials))
    assert parent.info.status == "FINISHED"
    assert [int(run.data.tags["number"]) for run in children] == [t.number for t in study.trials]
    for trial, run in zip(study.trials, children, strict=True):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        _same_trial(trial, study, run)


def _same_trial(trial: Trial, study: Study, run: Run) -> None:
    for name, value in trial.point.items():
        word = str(value)
        assert run.data.params[name] == (word.lower() if isinstance(value, bool) else word), (trial.number, name)
    assert run.data.metrics == trial_metrics(trial, study), trial.number
    tags = run.data.tags
    assert (tags["study"], tags["target"], tags["optimizer.journal"]) == (STUDY, "synthetic", study.id)
    if isinstance(trial.outcome, Failed):
        assert (run.info.status, tags["status"]) == ("FAILED", "failed")
        assert tags["reason"] == trial.outcome.reason.value
    else:
        assert (run.info.status, tags["status"]) == ("FINISHED", "measured")


def _contents(found: Sequence[Run]) -> Sequence[object]:
    return [(run.info.run_id, run.info.status, json.dumps(run.data.to_dictionary(), sort_keys=True)) for run in found]
