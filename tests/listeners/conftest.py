"""A study with failures, broken limits and a verdict, and an empty store of MLflow to send it to."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from simple import MIXED, limit, recipe_of, searched, synthetic

from optimizer.journal import Journal, Settings, Study, read
from optimizer.objective import Goal, Objective
from optimizer.protocols import Ending
from optimizer.recipe import Environment
from optimizer.stats import Judgement, Verdict
from optimizer.trial import Measured, samples_of

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
