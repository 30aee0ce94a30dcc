"""Whole studies in a SQLite store at once: the same runs as one after another, all or none, each once."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from optimizer.journal import Study
from optimizer.listeners.mlflow import StudyCopy, no_pages, send
from optimizer.listeners.pages import pages
from optimizer.listeners.together import Together, send_together
from optimizer.readers.store import PARENT_TAG, StoreError
from optimizer.trial import Failed

CURVES = ("best_latency_s", "baseline_latency_s", "ratio")


def nothing(sent: int) -> None:
    pass


def told(client: MlflowClient) -> Sequence[object]:
    """All that the store says of the experiment's runs, but for what no two runs share: ids, and when one was ended."""
    known = client.get_experiment_by_name("x")
    assert known is not None
    runs = client.search_runs([known.experiment_id], max_results=1000)
    return [sorted(known.tags.items()), *sorted(map(_told, runs), key=str)]


def _told(run: Run) -> object:
    info, tags = run.info, {n: v for n, v in run.data.tags.items() if n != PARENT_TAG}
    ended = info.end_time if PARENT_TAG in run.data.tags else info.end_time is not None
    kept = (info.run_name, info.status, info.lifecycle_stage, info.user_id, info.start_time, ended)
    return kept, sorted(tags.items()), sorted(run.data.params.items()), sorted(run.data.metrics.items())


def test_both_ways_say_the_same(study: Study, uri: str, tmp_path: Path) -> None:
    (tmp_path / "other.db").write_bytes(Path(uri.removeprefix("sqlite:///")).read_bytes())
    other = f"sqlite:///{tmp_path}/other.db"
    one, two = MlflowClient(uri), MlflowClient(other)
    (mine,) = send_together({"x": [study]}, uri, nothing, no_pages).values()
    theirs = send(study, other, "x", nothing, no_pages)
    assert told(one) == told(two)
    for name in CURVES:
        curves = [c.get_metric_history(s.parent, name) for c, s in ((one, mine), (two, theirs))]
        assert [(m.step, m.value) for m in curves[0]] == [(m.step, m.value) for m in curves[1]] != []
    failed = next(t.number for t in study.trials if isinstance(t.outcome, Failed))
    logs = [c.download_artifacts(s.runs[failed], "build.log") for c, s in ((one, mine), (two, theirs))]
    assert Path(logs[0]).read_text() == Path(logs[1]).read_text()


def test_what_is_there_is_left_to_the_other_way(study: Study, uri: str) -> None:
    (copy,) = send_together({"x": [study]}, uri, nothing, pages).values()
    assert send_together({"x": [study]}, uri, nothing, pages) == {}
    again = send(study, uri, "x", nothing, no_pages)
    assert (again.parent, again.runs) == (copy.parent, copy.runs), "sending again changes nothing"
    assert "report.html" in [a.path for a in MlflowClient(uri).list_artifacts(copy.parent)]


def test_a_failure_leaves_nothing(study: Study, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: StudyCopy, *_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(StudyCopy, "ending", full)
    with pytest.raises(StoreError, match="no space"):
        send_together({"x": [study]}, uri, nothing, no_pages)
    known = MlflowClient(uri).get_experiment_by_name("x")
    assert known is not None
    assert MlflowClient(uri).search_runs([known.experiment_id]) == []


def test_a_server_gets_its_runs_one_by_one(study: Study) -> None:
    assert send_together({"x": [study]}, "http://127.0.0.1:9", nothing, no_pages) == {}


def test_a_name_that_the_client_refuses_is_refused() -> None:
    from mlflow.exceptions import MlflowException
    from sqlalchemy import create_engine

    together = Together(create_engine("sqlite://"), {"1": Path("x")})
    with pytest.raises(MlflowException, match="Invalid value"):
        together.create_run("1", 0, {"a\x00b": "x"}, "name")
