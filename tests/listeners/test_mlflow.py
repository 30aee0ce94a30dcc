"""The copy in MLflow: complete, each run once, finished where it broke off, right in what it says."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from simple import MIXED, limit, recipe_of, searched, synthetic

from optimizer.errors import ConfigError
from optimizer.journal import Journal, Settings, Study, read
from optimizer.listeners.mlflow import StoreError, StudyCopy, send, store_errors
from optimizer.objective import Goal, Objective
from optimizer.protocols import Ending
from optimizer.recipe import Environment
from optimizer.stats import Judgement, Verdict
from optimizer.trial import Failed, Measured, Reason, Stage, samples_of

HERE = Environment("a processor", "driver 1", {"g++": "g++ 12.2.0"}, {"cores": 2, "name": "host"}, "abc")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Twenty trials, some failed, some beyond a limit, with a verdict."""
    goal = Goal((Objective("latency_s"),), (limit("peak_memory_bytes", "max_degradation_pct", -20.0),))
    recipe = recipe_of(MIXED, goal=goal)
    trials, _ = searched(recipe, synthetic(failing=0.3), 20)
    best = min((t for t in trials if isinstance(t.outcome, Measured)), key=lambda t: samples_of(t)["latency_s"])
    path = tmp_path_factory.mktemp("study") / "s" / "journal.jsonl"
    with Journal.create(path, "s", recipe, HERE, Settings()) as journal:
        for trial in trials:
            journal.on_trial(trial)
        journal.on_drift(10, {"latency_s": (0.002, 0.003, 0.004)})
        journal.on_end(Ending(Verdict("latency_s", 2.0, 1.9, 2.1, Judgement.BETTER, best.number, 10)))
    return read(path)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with its schema, which takes seconds to make, to be copied."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/empty.db"
    MlflowClient(uri).search_experiments()
    return uri


@pytest.fixture
def uri(database: str, tmp_path: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes(Path(database.removeprefix("sqlite:///")).read_bytes())
    return f"sqlite:///{tmp_path}/mlflow.db"


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
    curve = [m.value for m in client.get_metric_history(parent.info.run_id, "best_latency_s")]
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
    with pytest.raises(StoreError), store_errors():
        MlflowClient("http://127.0.0.1:9").get_experiment_by_name("x")
