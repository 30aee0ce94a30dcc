"""What does MLflow get of a study? One parent run, one child run a trial, each once.

The journal is the record and MLflow a copy of it. A child run carries its trial's number as a tag and is complete when
it is terminated: sending again changes nothing, and a copy that broke off is finished.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optimizer.errors import ConfigError
from optimizer.journal import Study, journal_bytes
from optimizer.listeners.layout import divided, experiment_tags, layout_tags, objective_of, run_name
from optimizer.readers.store import (
    BEST_TAG,
    JOURNAL_TAG,
    NUMBER_TAG,
    OBJECTIVE,
    PARENT_TAG,
    STUDY_FILE,
    runs_of,
    sqlite_path,
    store_errors,
)
from optimizer.stats import quantile
from optimizer.trial import Failed, Trial, metrics_of, quality_loss_pct, samples_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run

    from optimizer.listeners.together import Together

MAX_PARAM, MAX_TAG = 6000, 5000  # characters that MLflow takes


Pages = Callable[[Study, "StudyCopy"], Mapping[str, str]]
"""Makes the files that stand with a study's run: name → text."""


def no_pages(study: Study, copy: "StudyCopy") -> Mapping[str, str]:
    return {}


def send(study: Study, uri: str, experiment: str, progress: Callable[[int], None], pages: Pages) -> "StudyCopy":
    """Sends all of a study that the store lacks. Raises StoreError; sending again goes on where it broke off."""
    with store_errors():
        copy = StudyCopy.opened(uri, experiment, study)
        copy.whole(study, progress, pages)
    return copy


class StudyCopy:
    """One study's runs in one store; `client`: told each run as it is made, or all of them together."""

    def __init__(self, client: "MlflowClient | Together", uri: str, experiment_id: str, parent: str) -> None:
        self._client, self.uri, self.experiment_id, self.parent = client, uri, experiment_id, parent
        self.runs: dict[int, str] = {}  # the ids of the complete ones, by number
        self._starred: set[int] = set()
        self._broken_off: dict[int, str] = {}
        self._best: float | None = None

    @classmethod
    def opened(cls, uri: str, experiment: str, study: Study) -> "StudyCopy":
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        place = experiment_id(client, uri, experiment)
        parent = _known_parent(client, place, study)
        if parent is None:
            return cls.new(client, uri, place, study)
        copy = cls(client, uri, place, parent)
        copy._tell_experiment(study)
        for number, runs in _by_number(runs_of(client, place, f"tags.`{PARENT_TAG}` = '{parent}'")).items():
            kept = min(runs, key=lambda run: (run.info.status == "RUNNING", run.info.start_time, run.info.run_id))
            for twin in runs:  # of a request that was carried out after all
                if twin is not kept:
                    client.delete_run(twin.info.run_id)
            if kept.info.status == "RUNNING":
                copy._broken_off[number] = kept.info.run_id
            else:
                copy.runs[number] = kept.info.run_id
                if BEST_TAG in kept.data.tags:
                    copy._starred.add(number)
        return copy

    def has(self, trial: Trial) -> bool:
        """Whether the store has it whole."""
        return trial.number in self.runs

    @classmethod
    def new(cls, client: "MlflowClient | Together", uri: str, experiment_id: str, study: Study) -> "StudyCopy":
        """In a store that has nothing of this study."""
        copy = cls(client, uri, experiment_id, _new_parent(client, experiment_id, study))
        copy._tell_experiment(study)
        return copy

    def _tell_experiment(self, study: Study) -> None:
        for name, value in experiment_tags(study, self.experiment_id).items():
            self._client.set_experiment_tag(self.experiment_id, name, value)

    def whole(self, study: Study, progress: Callable[[int], None], pages: Pages) -> None:
        for trial in study.trials:
            self.trial(trial, study)
            progress(trial.number + 1)
        self.ending(study, pages(study, self))

    def trial(self, trial: Trial, study: Study) -> None:
        """One run; nothing where the store has it already."""
        if self.has(trial):
            self._improved(trial, study)
            return
        start_ms, end_ms = _times_ms(trial)
        metrics, more = divided(trial_metrics(trial, study), study)
        if (run_id := self._broken_off.get(trial.number)) is None:
            tags = {**_study_tags(study), PARENT_TAG: self.parent, **_trial_tags(trial, study, more)}
            name = run_name(trial.number, best=False)
            run_id = self._client.create_run(self.experiment_id, start_ms, tags, name).info.run_id
        entities = _entities(metrics, end_ms)
        self._client.log_batch(run_id, metrics=entities, params=_params({**dict(trial.point), **_study_params(study)}))
        if log := _log(trial):
            self._client.log_text(run_id, log, "build.log")
        failed = isinstance(trial.outcome, Failed)
        self._client.set_terminated(run_id, "FAILED" if failed else "FINISHED", end_ms)
        self.runs[trial.number] = run_id
        self._progress(trial, study, end_ms)

    def _progress(self, trial: Trial, study: Study, end_ms: int) -> None:
        """The best so far, on the parent, step by step: the UI draws it as a curve."""
        if self._improved(trial, study):
            objective = study.recipe.goal.first
            value = objective.of(samples_of(trial)[objective.metric])
            self._client.log_metric(self.parent, f"best_{objective.metric}", value, end_ms, trial.number)

    def _improved(self, trial: Trial, study: Study) -> bool:
        score = study.recipe.goal.score(trial, study.trials[0])
        if not score.feasible or not score.losses or (self._best is not None and score.losses[0] >= self._best):
            return False
        self._best = score.losses[0]
        return True

    def system(self, readings: Mapping[str, float], step: int) -> None:
        """What the machine did meanwhile, on the parent: the UI has a page of its own for these names."""
        now_ms = int(time.time() * 1000)
        self._client.log_batch(self.parent, metrics=[_metric(n, v, now_ms, step) for n, v in readings.items()])

    def ending(self, study: Study, pages: Mapping[str, str]) -> None:
        """Verdict and status of the parent run, its files, the best marked; drift readings as a curve."""
        from mlflow.entities import RunTag

        objective, now_ms = study.recipe.goal.first, int(time.time() * 1000)
        drift = [(after, samples[objective.metric]) for after, samples in study.drift if samples.get(objective.metric)]
        metrics = [_metric(f"baseline_{objective.metric}", objective.of(v), now_ms, after) for after, v in drift]
        tags = {"trials": str(len(study.trials))}
        best = study.winner or study.best
        if best is not None and (value := objective_of(best, study)) is not None:
            metrics.append(_metric(OBJECTIVE, value, now_ms))
        if study.ending and (verdict := study.ending.verdict):
            winner = study.winner
            metrics += [_metric(n, getattr(verdict, n), now_ms) for n in ("ratio", "low", "high")]
            tags |= {"verdict": verdict.judgement.value, "best": str(winner.number if winner else 0)}
        self._client.log_batch(self.parent, metrics=metrics, tags=[RunTag(n, v) for n, v in _tags(tags).items()])
        self._star(best.number if best else None)
        whole = journal_bytes(replace(study, trials=())).decode()
        for name, text in {**pages, STUDY_FILE: whole}.items():
            self._client.log_text(self.parent, text, name)
        interrupted = study.ending is None or study.ending.interrupted
        self._client.set_terminated(self.parent, "KILLED" if interrupted else "FINISHED")

    def _star(self, number: int | None) -> None:
        """Marks the best and unmarks what was the best before the search was continued."""
        for old in self._starred - {number}:
            self._client.delete_tag(self.runs[old], BEST_TAG)
            self._client.update_run(self.runs[old], name=run_name(old, best=False))
        self._starred = set()
        if number is not None and number in self.runs:
            self._client.set_tag(self.runs[number], BEST_TAG, "yes")
            self._client.update_run(self.runs[number], name=run_name(number, best=True))
            self._starred.add(number)


def trial_metrics(trial: Trial, study: Study) -> dict[str, float]:
    """What the store gets of a trial: medians, the tail of the latency, quality lost, the gain over number 0, and
    `objective`, what the table is sorted by."""
    metrics = metrics_of(trial)
    if len(latencies := samples_of(trial).get("latency_s", ())) > 1:
        metrics |= {"latency_s_p95": quantile(latencies, 0.95), "latency_s_p99": quantile(latencies, 0.99)}
    baseline = study.baseline
    if baseline is not None and not isinstance(trial.outcome, Failed):
        if (loss := quality_loss_pct(trial, baseline)) is not None:
            metrics["quality_loss_pct"] = loss
        if (gain := study.recipe.goal.first.gain_of(trial, baseline)) is not None:
            metrics["gain"] = gain
    if (value := objective_of(trial, study)) is not None:
        metrics[OBJECTIVE] = value
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def experiment_id(client: "MlflowClient", uri: str, name: str) -> str:
    """The experiment of this name, made where there is none. Raises ConfigError where it was deleted."""
    from mlflow.exceptions import MlflowException

    if (known := client.get_experiment_by_name(name)) is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifacts(uri)))
        except MlflowException:  # another search was faster
            known = client.get_experiment_by_name(name)
    if known is None or known.lifecycle_stage != "active":
        raise ConfigError(
            f"The MLflow experiment {name} is deleted in {uri}. Restore it (mlflow experiments restore), or name "
            "another with tracking.experiment=NAME."
        )
    return str(known.experiment_id)


def _artifacts(uri: str) -> str | None:
    """Beside a SQLite file; a server decides for itself."""
    path = sqlite_path(uri)
    return str(path.parent / "mlartifacts") if path else None


def _known_parent(client: "MlflowClient", experiment_id: str, study: Study) -> str | None:
    mine = runs_of(client, experiment_id, f"tags.`{JOURNAL_TAG}` = '{study.id}' AND tags.`status` = 'study'")
    if known := sorted(mine, key=lambda run: (run.info.start_time, run.info.run_id)):
        client.update_run(known[0].info.run_id, status="RUNNING")
        for twin in known[1:]:
            client.delete_run(twin.info.run_id)
        return str(known[0].info.run_id)
    return None


def _new_parent(client: "MlflowClient | Together", experiment_id: str, study: Study) -> str:
    goal = "\n".join(f"- {line}" for line in study.recipe.goal.formulas())
    tags = {
        **_study_tags(study),
        "status": "study",
        "mlflow.note.content": f"A search of `{study.recipe.target.name}` by `{study.recipe.strategy.name}`.\n\n"
        f"{goal}\n\nNumber 0 is the baseline; `gain` is above 1 where a trial beats it. Recipe `{study.recipe.key}`.",
    }
    run = client.create_run(experiment_id, int(study.created_at_s * 1000), tags, study.name)
    client.log_batch(run.info.run_id, params=_params(_study_params(study)))
    return str(run.info.run_id)


def _by_number(runs: "Iterable[Run]") -> "dict[int, list[Run]]":
    found: dict[int, list[Run]] = {}
    for run in runs:
        found.setdefault(int(run.data.tags[NUMBER_TAG]), []).append(run)
    return found


def _study_tags(study: Study) -> dict[str, str]:
    """What people filter on, on the parent and on every trial."""
    environment = study.environment
    compilers = "; ".join(environment.compilers.values())
    return _tags(
        {
            JOURNAL_TAG: study.id,
            "study": study.name,
            "target": study.recipe.target.name,
            "strategy": study.recipe.strategy.name,
            "device": environment.device,
            "driver": environment.driver,
            "compilers": compilers,
            "host": str(environment.host.get("name", "")),
            "commit": environment.commit,
        }
    )


def _study_params(study: Study) -> dict[str, Any]:
    """The study's own parameters; on every trial too, since the UI filters by a run's own parameters only."""
    recipe = study.recipe
    return {
        "study.target": recipe.target.name,
        "study.strategy": recipe.strategy.name,
        "study.seed": recipe.seed,
        "study.objective": "; ".join(map(str, recipe.goal.objectives)),
        "study.limits": "; ".join(x.formula() for x in recipe.goal.limits),
        "study.recipe": recipe.key,
        **{f"study.strategy.{name}": value for name, value in recipe.strategy.options.items()},
    }


def _trial_tags(trial: Trial, study: Study, more: Mapping[str, float]) -> dict[str, str]:
    outcome = trial.outcome
    tags = {
        **layout_tags(trial, more),
        NUMBER_TAG: str(trial.number),
        "same_as": "" if outcome.same_as is None else str(outcome.same_as),
    }
    if isinstance(outcome, Failed):
        return _tags(tags | {"status": "failed", "stage": outcome.stage.value, "reason": outcome.reason.value})
    broken = study.recipe.goal.violations(trial, study.trials[0])
    return _tags(tags | {"status": "measured", "breaks_limit": ", ".join(broken)})


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value[:MAX_TAG] for name, value in tags.items() if value}


def _params(values: Mapping[str, Any]) -> "Sequence[Param]":
    from mlflow.entities import Param

    known = {name: value for name, value in values.items() if value not in (None, "")}
    words = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in known.items()}
    return [Param(name, word[:MAX_PARAM]) for name, word in words.items()]


def _metric(name: str, value: float, timestamp_ms: int, step: int = 0) -> "Metric":
    from mlflow.entities import Metric

    return Metric(name, value, timestamp_ms, step)


def _entities(metrics: Mapping[str, float], timestamp_ms: int) -> "Sequence[Metric]":
    return [_metric(name, value, timestamp_ms) for name, value in metrics.items()]


def _times_ms(trial: Trial) -> tuple[int, int]:
    start = int(trial.started_at_s * 1000)
    spent = sum(s for stage, s in trial.seconds.items() if stage != "ask")
    return start, start + int(spent * 1000)


def _log(trial: Trial) -> str:
    """The build's command and the compiler's words, or why the trial failed."""
    if isinstance(trial.outcome, Failed):
        return trial.outcome.log
    artifact = trial.artifact
    return f"$ {' '.join(artifact.command)}\n{artifact.log}" if artifact and artifact.command else ""
