"""How do whole studies that a store has nothing of get into it at once? As rows of its SQLite file, in one transaction.

MLflow's client asks its store four times a run and commits each time, 26 ms of CPU; a folder of benchmark files makes
thousands of runs. `Together` takes what StudyCopy tells MLflow's client, keeps it, and writes the tables that this
version of MLflow has (pyproject.toml pins it). A test compares both ways run by run. A store behind a server, and one
whose artifacts lie elsewhere, get their runs from the client.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final
from uuid import uuid4

from optimizer.journal import Study
from optimizer.listeners.mlflow import Pages, StudyCopy, experiment_id
from optimizer.readers.store import JOURNAL_TAG, sqlite_path, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag
    from sqlalchemy.engine import Engine

NAME_TAG = "mlflow.runName"
UNKNOWN = "unknown"  # the user, as the client says it
Rows = list[dict[str, Any]]


@dataclass
class _Run:
    """A run that is not written yet, with the fields that StudyCopy reads of one of MLflow's."""

    run_id: str
    experiment_id: str
    artifacts: Path
    start_ms: int
    name: str
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int, int, float], None] = field(default_factory=dict)  # name, time, step, value: once each
    status: str = "RUNNING"
    end_ms: int | None = None

    @property
    def info(self) -> "_Run":
        return self


@final
class Together:
    """Takes what MlflowClient takes of new runs; nothing is in the store before `write`."""

    def __init__(self, engine: "Engine", artifacts: Mapping[str, Path]) -> None:
        """`artifacts`: the folder of each experiment's artifacts, by its id."""
        self._engine, self._artifacts = engine, artifacts
        self._runs: dict[str, _Run] = {}
        self._files: list[tuple[Path, str]] = []
        self._experiment_tags: dict[tuple[str, str], str] = {}
        self._checked: set[tuple[str, str]] = set()

    def create_run(self, experiment_id: str, start_time: int, tags: Mapping[str, str], run_name: str) -> _Run:
        run_id = uuid4().hex
        folder = self._artifacts[experiment_id] / run_id / "artifacts"
        run = _Run(run_id, experiment_id, folder, start_time, run_name, {**tags, NAME_TAG: run_name})
        self._check("tag", run.tags)
        self._runs[run_id] = run
        return run

    def log_batch(
        self,
        run_id: str,
        metrics: "Sequence[Metric]" = (),
        params: "Sequence[Param]" = (),
        tags: "Sequence[RunTag]" = (),
    ) -> None:
        run = self._runs[run_id]
        named = {p.key: p.value for p in params}
        self._check("param", named)
        self._check("metric", [m.key for m in metrics])
        run.params |= named
        run.tags |= {t.key: t.value for t in tags}
        run.metrics |= {(m.key, m.timestamp, m.step, m.value): None for m in metrics}

    def log_metric(self, run_id: str, name: str, value: float, timestamp: int, step: int) -> None:
        self._check("metric", [name])
        self._runs[run_id].metrics[name, timestamp, step, value] = None

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self._files.append((self._runs[run_id].artifacts / artifact_file, text))

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        self._runs[run_id].tags[name] = value

    def delete_tag(self, run_id: str, name: str) -> None:
        del self._runs[run_id].tags[name]

    def update_run(self, run_id: str, name: str) -> None:
        run = self._runs[run_id]
        run.name = run.tags[NAME_TAG] = name

    def set_terminated(self, run_id: str, status: str, end_time: int | None = None) -> None:
        run = self._runs[run_id]
        run.status, run.end_ms = status, int(time.time() * 1000) if end_time is None else end_time

    def set_experiment_tag(self, experiment_id: str, name: str, value: str) -> None:
        self._experiment_tags[experiment_id, name] = value

    def _check(self, kind: str, names: Iterable[str]) -> None:
        """Raises MlflowException for a name that MLflow would refuse, as its client does."""
        from mlflow.utils import validation

        for name in names:
            if (kind, name) not in self._checked:
                getattr(validation, f"_validate_{kind}_name")(name)
                self._checked.add((kind, name))

    def write(self) -> None:
        """Files first: a run that is there has its artifacts. All rows or none."""
        from mlflow.store.tracking.dbmodels import models
        from sqlalchemy import delete, insert, tuple_

        for path, text in self._files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        tags = models.SqlExperimentTag
        told = [{"experiment_id": int(e), "key": k, "value": v} for (e, k), v in self._experiment_tags.items()]
        tables: list[tuple[Any, Rows]] = [
            (tags, told),
            (models.SqlRun, [_row(r) for r in self._runs.values()]),
            (models.SqlTag, [_pair(r, *pair) for r in self._runs.values() for pair in r.tags.items()]),
            (models.SqlParam, [_pair(r, *pair) for r in self._runs.values() for pair in r.params.items()]),
            (models.SqlMetric, [_metric(r, m) for r in self._runs.values() for m in r.metrics]),
            (models.SqlLatestMetric, [_metric(r, m) for r in self._runs.values() for m in _latest(r)]),
        ]
        with self._engine.begin() as connection:
            known = tuple_(tags.experiment_id, tags.key).in_([(row["experiment_id"], row["key"]) for row in told])
            connection.execute(delete(tags).where(known))
            for table, rows in tables:
                if rows:
                    connection.execute(insert(table.__table__), rows)


def _row(run: _Run) -> dict[str, Any]:
    """As SqlAlchemyStore.create_run fills it."""
    return {
        "run_uuid": run.run_id, "name": run.name, "source_type": "UNKNOWN", "source_name": "", "entry_point_name": "",
        "user_id": UNKNOWN, "status": run.status, "start_time": run.start_ms, "end_time": run.end_ms,
        "deleted_time": None, "source_version": "", "lifecycle_stage": "active",
        "artifact_uri": str(run.artifacts), "experiment_id": int(run.experiment_id),
    }  # fmt: skip


def _pair(run: _Run, key: str, value: str) -> dict[str, Any]:
    return {"run_uuid": run.run_id, "key": key, "value": value}


def _metric(run: _Run, metric: tuple[str, int, int, float]) -> dict[str, Any]:
    key, timestamp, step, value = metric
    return {"run_uuid": run.run_id, "key": key, "value": value, "timestamp": timestamp, "step": step, "is_nan": False}


def _latest(run: _Run) -> Iterator[tuple[str, int, int, float]]:
    """Of each metric the value of the last step, then of the last time, as MLflow keeps it."""
    found: dict[str, tuple[str, int, int, float]] = {}
    for metric in run.metrics:
        name, at_ms, step, value = metric
        known = found.get(name)
        if known is None or (step, at_ms, value) > (known[2], known[1], known[3]):
            found[name] = metric
    yield from found.values()


@contextmanager
def _open(uri: str) -> "Iterator[Engine]":
    from sqlalchemy import create_engine

    engine = create_engine(uri)
    try:
        yield engine
    finally:
        engine.dispose()


def send_together(
    studies: Mapping[str, Sequence[Study]], uri: str, progress: Callable[[int], None], pages: Pages
) -> dict[str, StudyCopy]:
    """Sends those of these studies (by experiment) that a SQLite store has nothing of, all or none; their copies by the
    studies' ids. What it has something of, and every study for another store, is left to `send`. Raises StoreError."""
    from mlflow import MlflowClient

    if sqlite_path(uri) is None:
        return {}
    with store_errors(), _open(uri) as engine:
        client = MlflowClient(uri)
        places = {experiment: experiment_id(client, uri, experiment) for experiment in studies}
        artifacts = {place: folder for place in places.values() if (folder := _folder_of(client, place)) is not None}
        known, together = _known(engine), Together(engine, artifacts)
        copies: dict[str, StudyCopy] = {}
        for experiment, place in places.items():
            for study in studies[experiment]:
                if place in artifacts and study.id not in known:
                    copy = StudyCopy.new(together, uri, place, study)
                    copy.whole(study, progress, pages)
                    copies[study.id] = copy
        together.write()
    return copies


def _folder_of(client: "MlflowClient", place: str) -> Path | None:
    """Where an experiment's artifacts lie; None where that is not on this machine."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    location = str(client.get_experiment(place).artifact_location)
    local = is_local_uri(location)  # type: ignore[no-untyped-call]
    return Path(local_file_uri_to_path(location)) if local else None  # type: ignore[no-untyped-call]


def _known(engine: "Engine") -> set[str]:
    """The ids of the studies that have a run here, a deleted one too."""
    from mlflow.store.tracking.dbmodels.models import SqlTag
    from sqlalchemy import select

    with engine.connect() as connection:
        return set(connection.scalars(select(SqlTag.value).where(SqlTag.key == JOURNAL_TAG).distinct()))
