"""The copy in MLflow: complete, each run once, finished where it broke off, right in what it says."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from optimizer.errors import ConfigError
from optimizer.journal import Study
from optimizer.listeners.mlflow import StudyCopy, no_pages
from optimizer.listeners.mlflow import send as send_with
from optimizer.listeners.pages import pages
from optimizer.readers.mlflow import experiment
from optimizer.readers.store import StoreError, store_errors
from optimizer.trial import Failed, Measured, Reason, Stage, metrics_of


def runs(uri: str, experiment: str = "x") -> tuple[Run, dict[int, Run]]:
    """The parent, and the trials by number."""
    client = MlflowClient(uri)
    known = client.get_experiment_by_name(experiment)
    assert known is not None
    found = client.search_runs([known.experiment_id], max_results=1000)
    parents = [r for r in found if "mlflow.parentRunId" not in r.data.tags]
    assert len(parents) == 1
    children = [r for r in found if "mlflow.parentRunId" in r.data.tags]
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parents[0].info.run_id}
    by_number = {int(r.data.tags["number"]): r for r in children}
    assert len(by_number) == len(children)
    return parents[0], by_number


def send(study: Study, uri: str, experiment: str, progress: Callable[[int], None]) -> StudyCopy:
    return send_with(study, uri, experiment, progress, no_pages)


def nothing(sent: int) -> None:
    pass


def test_every_trial_is_one_run_with_its_configuration_and_metrics(study: Study, uri: str) -> None:
    send(study, uri, "x", nothing)
    parent, found = runs(uri)
    assert set(found) == set(range(20))
    for trial in study.trials:
        run = found[trial.number]
        params: Mapping[str, str] = run.data.params
        for name, value in trial.point.items():
            assert params[name] == (str(value).lower() if isinstance(value, bool) else str(value))
        assert params["study.strategy"] == "random"
        assert params["study.objective"] == parent.data.params["study.objective"]
        tags = run.data.tags
        assert (tags["target"], tags["strategy"], tags["study"], tags["commit"]) == ("fake", "random", "s", "abc")
        if isinstance(trial.outcome, Failed):
            assert (run.info.status, tags["status"], tags["reason"]) == ("FAILED", "failed", trial.outcome.reason.value)
            assert "latency_s" not in run.data.metrics  # absent is absent
        else:
            assert (run.info.status, tags["status"]) == ("FINISHED", "measured")
            assert run.data.metrics["latency_s"] > 0
            assert run.data.metrics["gain"] == pytest.approx(
                found[0].data.metrics["latency_s"] / run.data.metrics["latency_s"]
            )
    assert {r.data.tags.get("breaks_limit") for r in found.values()} == {None, "peak_memory_bytes"}


def test_the_parent_tells_the_verdict_the_drift_and_the_best_so_far(study: Study, uri: str) -> None:
    send(study, uri, "x", nothing)
    parent, found = runs(uri)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["verdict"] == "better"
    assert (parent.data.metrics["ratio"], parent.data.metrics["low"]) == (2.0, 1.9)
    assert parent.data.metrics["baseline_latency_s"] == 0.003
    client = MlflowClient(uri)
    history = client.get_metric_history(parent.info.run_id, "best_latency_s")  # in no order: the store promises none
    curve = [m.value for m in sorted(history, key=lambda m: m.step)]
    assert curve == sorted(curve, reverse=True)
    assert len(curve) >= 1
    assert min(curve) >= min(r.data.metrics.get("latency_s", 1.0) for r in found.values())


def test_the_compiler_s_words_are_an_artifact(study: Study, uri: str) -> None:
    send(study, uri, "x", nothing)
    _, found = runs(uri)
    failed = next(t for t in study.trials if isinstance(t.outcome, Failed))
    run_id = found[failed.number].info.run_id
    client = MlflowClient(uri)
    assert [a.path for a in client.list_artifacts(run_id)] == ["build.log"]
    assert "does not compile" in Path(client.download_artifacts(run_id, "build.log")).read_text()


def test_sending_again_changes_nothing(study: Study, uri: str) -> None:
    send(study, uri, "x", nothing)
    before = runs(uri)
    send(study, uri, "x", nothing)
    after = runs(uri)
    assert {n: r.info.run_id for n, r in before[1].items()} == {n: r.info.run_id for n, r in after[1].items()}
    assert before[0].data.to_dictionary() == after[0].data.to_dictionary()


def test_a_copy_that_broke_off_is_finished(study: Study, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a trial: its run exists, without metrics, not terminated."""
    real, count = MlflowClient.log_batch, 0

    def breaks(self: MlflowClient, *args: object, **more: object) -> None:
        nonlocal count
        count += 1
        if count == 8:
            raise OSError("cable pulled")
        real(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "log_batch", breaks)
    with pytest.raises(StoreError, match="cable pulled"):
        send(study, uri, "x", nothing)
    monkeypatch.undo()
    _, part = runs(uri)
    assert 0 < len(part) < 20
    send(study, uri, "x", nothing)
    _, whole = runs(uri)
    assert set(whole) == set(range(20))
    assert all(whole[n].info.run_id == r.info.run_id for n, r in part.items())
    assert all("latency_s" in r.data.metrics for r in whole.values() if r.data.tags["status"] == "measured")


def test_a_study_without_an_ending_is_marked_as_killed(study: Study, uri: str) -> None:
    send(replace(study, ending=None), uri, "x", nothing)
    parent, _ = runs(uri)
    assert parent.info.status == "KILLED"
    send(study, uri, "x", nothing)
    assert runs(uri)[0].info.status == "FINISHED"


def test_a_deleted_experiment_is_told_with_its_remedy(study: Study, uri: str) -> None:
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("x"))
    with pytest.raises(ConfigError, match=r"restore.*tracking\.experiment"):
        StudyCopy.opened(uri, "x", study)


def test_long_values_are_cut_not_refused(study: Study, uri: str) -> None:
    first = study.trials[0]
    long = replace(
        study, trials=(replace(first, outcome=Failed(Stage.BUILD, Reason.COMPILE, "x" * 10**6)),), ending=None
    )
    send(long, uri, "x", nothing)
    assert set(runs(uri)[1]) == {0}


def test_a_store_s_own_errors_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreError) as caught, store_errors():
        MlflowClient("http://127.0.0.1:9").get_experiment_by_name("x")
    asked = "API request to http://127.0.0.1:9/api/2.0/mlflow/experiments/get-by-name"
    assert str(caught.value) == f"{asked} failed: [Errno 111] Connection refused"


def test_the_table_ranks_by_objective_and_the_best_is_marked(study: Study, uri: str) -> None:
    send(study, uri, "x", nothing)
    _, found = runs(uri)
    broken = [r for r in found.values() if "breaks_limit" in r.data.tags]
    assert broken
    assert all("objective" not in r.data.metrics for r in broken)
    ranked = study.recipe.goal.ranked(study.trials, study.trials[0])
    listed = sorted((r.data.metrics["objective"], n) for n, r in found.items() if "objective" in r.data.metrics)
    assert [n for _, n in listed] == [t.number for t in ranked]
    best = study.winner
    assert best is not None
    assert [n for n, r in found.items() if r.data.tags.get("best") == "yes"] == [best.number]
    assert found[best.number].info.run_name == f"{best.number:04d} ★"
    assert found[0].info.run_name.startswith("0000 baseline")
    failed = next(r for r in found.values() if r.data.tags["status"] == "failed")
    assert "does not compile" in failed.data.tags["error"]


def test_the_star_moves_when_a_search_goes_on(study: Study, uri: str) -> None:
    send(study, uri, "x", nothing)
    assert study.ending is not None
    assert study.ending.verdict is not None
    other = next(t.number for t in reversed(study.trials) if isinstance(t.outcome, Measured) and t is not study.winner)
    verdict = replace(study.ending.verdict, number=other)
    send(replace(study, ending=replace(study.ending, verdict=verdict)), uri, "x", nothing)
    _, found = runs(uri)
    assert [n for n, r in found.items() if r.data.tags.get("best") == "yes"] == [other]
    assert [n for n, r in found.items() if "★" in r.info.run_name] == [other]


def test_the_experiment_has_a_view_and_says_how_to_read_it(study: Study, uri: str) -> None:
    send(study, uri, "x", nothing)
    known = MlflowClient(uri).get_experiment_by_name("x")
    assert known is not None
    view = json.loads(known.tags["mlflow.sharedViewState.optimizer"])
    assert view["orderByKey"] == "metrics.`objective`"
    assert view["orderByAsc"] is True
    assert "metrics.`peak_memory_bytes`" in view["selectedColumns"]
    assert "viewStateShareKey=optimizer" in known.tags["mlflow.note.content"]


def test_a_run_has_twenty_metrics_at_most_and_the_rest_as_a_tag(study: Study, uri: str) -> None:
    first = study.trials[0]
    assert isinstance(first.outcome, Measured)
    many = {f"instructions_{i}": (float(i),) for i in range(30)}
    crowded = replace(first, outcome=replace(first.outcome, samples={**first.outcome.samples, **many}))
    send(replace(study, trials=(crowded,), ending=None), uri, "x", nothing)
    run = runs(uri)[1][0]
    assert len(run.data.metrics) == 20
    more = json.loads(run.data.tags["metrics.more"])
    assert {*run.data.metrics, *more} >= {*many, "latency_s", "gain"}


def test_the_pages_stand_with_the_study(study: Study, uri: str) -> None:
    copy = send_with(study, uri, "x", nothing, pages)
    html = Path(MlflowClient(uri).download_artifacts(copy.parent, "report.html")).read_text()
    assert f"/runs/{copy.parent}" not in html.split("<script type")[0]
    assert copy.runs[3] in html
    assert '"parent":"' + copy.parent in html


def test_a_study_comes_back_whole(study: Study, uri: str) -> None:
    send(study, uri, "x", nothing)
    (kept,) = experiment(uri, "x", None, None)
    assert kept.study.recipe == study.recipe
    assert kept.study.ending == study.ending
    assert len(kept.runs) == 20
    for mine, theirs in zip(kept.study.trials, study.trials, strict=True):
        assert mine.point == theirs.point
        if isinstance(theirs.outcome, Failed):
            assert isinstance(mine.outcome, Failed)
            assert (mine.outcome.stage, mine.outcome.reason) == (theirs.outcome.stage, theirs.outcome.reason)
        else:
            assert metrics_of(mine) == pytest.approx(metrics_of(theirs))
    assert kept.study.winner is not None
    assert study.winner is not None
    assert kept.study.winner.number == study.winner.number


def test_other_tools_runs_are_one_study_without_a_guess(uri: str) -> None:
    client = MlflowClient(uri)
    known = client.create_experiment("theirs")
    for i in range(12):
        run = client.create_run(known).info.run_id
        client.log_param(run, "lr", 10**-i)
        client.log_param(run, "net", "conv" if i % 2 else "mlp")
        if i != 5:
            client.log_metric(run, "val_loss", 1.0 / (i + 1))
            client.log_metric(run, "ms_per_step", 3.0 + i)
        client.set_terminated(run, "FAILED" if i == 5 else "FINISHED")
    with pytest.raises(ConfigError, match=r"None of the metrics.*metric=NAME direction"):
        experiment(uri, "theirs", None, None)
    with pytest.raises(ConfigError, match="Which way is val_loss better"):
        experiment(uri, "theirs", "val_loss", None)
    (kept,) = experiment(uri, known, "val_loss", "minimize")
    assert [t.point["net"] for t in kept.study.trials][:2] == ["mlp", "conv"]
    assert kept.study.trials[0].point["lr"] == 1
    assert isinstance(kept.study.trials[5].outcome, Failed)
    assert metrics_of(kept.study.trials[3])["ms_per_step"] == 6.0  # by its name, not as seconds
    assert kept.study.best is not None
    assert kept.study.best.number == 11
    with pytest.raises(ConfigError, match="theirs"):
        experiment(uri, "thers", None, None)


def test_runs_are_read_page_by_page(study: Study, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send(study, uri, "x", nothing)
    monkeypatch.setattr("optimizer.readers.store.PAGE", 6)
    (kept,) = experiment(uri, "x", None, None)
    assert len(kept.study.trials) == 20
