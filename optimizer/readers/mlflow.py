"""What does an MLflow experiment hold, as studies? Our own whole, other tools' runs as far as their names say.

Our studies bring their recipe, environment and verdict as an artifact; points, metrics and failures are read from the
runs. Other runs become one study: parameters are knobs, metrics keep the names they were logged by. A metric has
the unit of this program only where it has exactly one of its names; no unit is guessed from a name.
"""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from optimizer.errors import ConfigError, nearest
from optimizer.journal import Study, read_apart
from optimizer.metrics import METRICS, better
from optimizer.objective import Goal, Objective, direction_of
from optimizer.readers.benchmark import value_of
from optimizer.readers.ingest import RECORDED
from optimizer.readers.recording import space_of
from optimizer.readers.store import (
    DERIVED,
    ERROR_TAG,
    JOURNAL_TAG,
    MORE_TAG,
    NUMBER_TAG,
    PARENT_TAG,
    STUDY_FILE,
    TAILS,
    runs_of,
    store_errors,
)
from optimizer.recipe import Confirm, Environment, Part, Plan, Recipe
from optimizer.space import Float, Int, Json, Knob, Point, Value
from optimizer.text import value_text
from optimizer.trial import Candidate, Check, Failed, Measured, Reason, Stage, Summary, Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FOREIGN = "mlflow"
ENDED = ("FINISHED", "FAILED", "KILLED")


@dataclass(frozen=True)
class Kept:
    """A study with the ids of its runs: the parent's ("" where there is none) and the trials', by number."""

    study: Study
    experiment_id: str
    parent: str
    runs: Mapping[int, str]


def experiment(uri: str, name: str, metric: str | None, direction: str | None) -> list[Kept]:
    """`name`: the experiment's, or its id. `metric` and `direction`: the objective of runs that other tools logged.

    Raises StoreError where the store does not answer, ConfigError where there is no such experiment or nothing in it.
    """
    from mlflow import MlflowClient

    with store_errors():
        client = MlflowClient(uri)
        experiment_id, title = _named(client, uri, name)
        every = list(runs_of(client, experiment_id, ""))
        own = [r for r in every if JOURNAL_TAG in r.data.tags]
        parents = [r for r in own if PARENT_TAG not in r.data.tags]
        children: dict[str, list[Run]] = {}
        for run in own:
            if (parent := run.data.tags.get(PARENT_TAG)) is not None:
                children.setdefault(parent, []).append(run)
        found = [_own(client, p, children.get(p.info.run_id, [])) for p in parents]
    others = [r for r in every if JOURNAL_TAG not in r.data.tags and r.info.status in ENDED]
    if foreign := _foreign(title, experiment_id, others, metric, direction):
        found.append(foreign)
    if not found:
        raise ConfigError(f"The MLflow experiment {title} has no run that has ended and measured something.")
    return found


def _named(client: "MlflowClient", uri: str, name: str) -> tuple[str, str]:
    every = client.search_experiments()  # the first page of them
    found = client.get_experiment_by_name(name) or next((e for e in every if e.experiment_id == name), None)
    if found is None or found.lifecycle_stage != "active":
        raise ConfigError(f"There is no MLflow experiment {name} in {uri}.{nearest(name, [e.name for e in every])}")
    return str(found.experiment_id), str(found.name)


# --- our own


def _own(client: "MlflowClient", parent: "Run", children: Iterable["Run"]) -> Kept:
    with tempfile.TemporaryDirectory() as folder:
        if not any(a.path == STUDY_FILE for a in client.list_artifacts(parent.info.run_id)):
            raise ConfigError(
                f"The study {parent.info.run_name} was not sent to its end. Send the rest (python -m optimizer track "
                f"{parent.info.run_name}), or report on its journal."
            )
        study = read_apart(Path(client.download_artifacts(parent.info.run_id, STUDY_FILE, folder)))
    knobs = {k.name: k for k in study.recipe.space.knobs}
    numbered = {int(r.data.tags[NUMBER_TAG]): r for r in children}
    runs = [numbered[n] for n in range(len(numbered)) if n in numbered]
    proved = study.ending.verdict if study.ending else None
    if len(runs) < len(numbered) or (proved is not None and proved.number >= len(runs)):
        raise ConfigError(f"Runs of the study {study.name} were deleted in MLflow: report on its journal instead.")
    trials = tuple(_trial(r, n, knobs, study.created_at_s) for n, r in enumerate(runs))
    ids = {n: str(r.info.run_id) for n, r in enumerate(runs)}
    return Kept(replace(study, trials=trials), str(parent.info.experiment_id), str(parent.info.run_id), ids)


def _trial(run: "Run", number: int, knobs: Mapping[str, Knob], began_s: float) -> Trial:
    tags = run.data.tags
    point = Point({n: _value(knobs[n], text) for n, text in run.data.params.items() if n in knobs})
    start_s, end_s = run.info.start_time / 1000, (run.info.end_time or run.info.start_time) / 1000
    same_as = int(tags["same_as"]) if "same_as" in tags else None
    more: dict[str, float] = json.loads(tags.get(MORE_TAG, "{}"))
    outcome: Measured | Failed
    if tags.get("status") == "failed":
        outcome = Failed(Stage(tags["stage"]), Reason(tags["reason"]), tags.get(ERROR_TAG, ""), same_as)
    else:
        outcome = Measured(Check(), {}, same_as, _summaries({**run.data.metrics, **more}))
    return Trial(Candidate(number, point), outcome, started_at_s=start_s, elapsed_s=max(0.0, end_s - began_s))


def _summaries(metrics: Mapping[str, float]) -> dict[str, Summary]:
    """Of each metric its median, as logged, and the tail that stands beside it."""
    tails = {f"{name}_{tail}" for name in metrics for tail in TAILS}
    names = [n for n in metrics if n not in DERIVED and n not in tails]
    return {n: Summary(median=metrics[n], p95=metrics.get(f"{n}_p95")) for n in names}


def _value(knob: Knob, text: str) -> Value:
    """What a knob's value was, from its text."""
    domain = knob.domain
    if isinstance(domain, Float):
        return float(text)
    if isinstance(domain, Int):
        return int(text)
    for i in range(domain.size):
        if value_text(domain.at(i)) == text:
            return domain.at(i)
    return text


# --- other tools'


def _foreign(
    title: str, experiment_id: str, runs: Sequence["Run"], metric: str | None, direction: str | None
) -> Kept | None:
    """One study of all runs that have a metric or failed; None where there is none."""
    runs = sorted((r for r in runs if r.data.metrics or r.info.status == "FAILED"), key=lambda r: r.info.start_time)
    if not any(r.data.metrics for r in runs):
        return None
    names = list(dict.fromkeys(n for r in runs for n in r.data.params))
    trials = [_foreign_trial(r, i, names) for i, r in enumerate(runs)]
    objective = _objective(title, runs, metric, direction)
    first = next(t.point for t in trials if isinstance(t.outcome, Measured))
    source: dict[str, Json] = {"file": f"MLflow experiment {title}", "date_from": "stated in the file"}
    recipe = Recipe(
        Part(FOREIGN, {"work": f"MLflow experiment {title}", "work_knobs": [], "facts": {}, "source": source}),
        space_of(trials), Part(RECORDED), Goal((objective,)), Plan(), Confirm(), 0, 1, (first,), "not stated",
    )  # fmt: skip
    created_s = runs[0].info.start_time / 1000
    place, known_as = Environment("not stated"), f"mlflow-{experiment_id}"
    study = Study(title, recipe, place, tuple(trials), id=known_as, created_at_s=created_s)
    return Kept(study, experiment_id, "", {i: str(r.info.run_id) for i, r in enumerate(runs)})


def _foreign_trial(run: "Run", number: int, names: Sequence[str]) -> Trial:
    point = Point({n: _read_value(run.data.params.get(n, "")) for n in names})
    told = {n: Summary(median=v) for n, v in run.data.metrics.items() if math.isfinite(v)}
    outcome: Measured | Failed = Measured(Check(), {}, None, told)
    if run.info.status != "FINISHED" or not told:
        outcome = Failed(Stage.MEASURE, Reason.CRASH, f"MLflow has it as {run.info.status}")
    return Trial(Candidate(number, point), outcome, started_at_s=run.info.start_time / 1000)


def _read_value(text: str) -> Value:
    return {"true": True, "false": False}.get(text.lower(), value_of(text))


def _objective(title: str, runs: Sequence["Run"], metric: str | None, direction: str | None) -> Objective:
    """As asked for, or the metric of this program's own that most runs have. Another's direction is not guessed."""
    counts = Counter(n for r in runs for n in r.data.metrics)
    if metric is not None:
        if metric not in counts:
            raise ConfigError(f"No run of {title} has the metric {metric}.{nearest(metric, counts)}")
        return Objective(metric, direction_of(metric, direction))
    known = [n for n, _ in counts.most_common() if n in METRICS and better(n) is not None]
    if not known:
        raise ConfigError(
            f"None of the metrics of {title} is known here ({', '.join(list(counts)[:8])}), so which way is better is "
            "not either. Say what to judge by: metric=NAME direction=minimize (or maximize)."
        )
    return Objective(known[0], direction_of(known[0], None))
