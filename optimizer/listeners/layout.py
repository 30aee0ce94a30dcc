"""How is a study laid out so that MLflow's table, charts and comparison are useful as they open?

Every trial has the metric `objective`: the first objective's value where every limit holds, so that sorting by it ranks
what may win. The experiment carries a saved view, as MLflow's "share" makes one, with the columns that matter, the best
first. Its chart view draws the first ten runs of the table: the study's own and its nine best.
"""

import json
from collections.abc import Mapping

from optimizer.journal import Study
from optimizer.metrics import METRICS
from optimizer.objective import Direction
from optimizer.readers.store import DERIVED, ERROR_TAG, MORE_TAG, OBJECTIVE
from optimizer.text import first_words
from optimizer.trial import Failed, Trial, samples_of

MOST = 20  # metrics of a run: each costs the table a column and the store a row
VIEW = "optimizer"
KNOBS_SHOWN, METRICS_SHOWN = 8, 4


def objective_of(trial: Trial, study: Study) -> float | None:
    """None where the trial failed or breaks a limit."""
    baseline, objective = study.baseline, study.recipe.goal.first
    if baseline is None or not study.recipe.goal.score(trial, baseline).feasible:
        return None
    return objective.of(samples_of(trial)[objective.metric])


def divided(metrics: Mapping[str, float], study: Study) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics that are logged as such, and those that go into a tag since a run has enough."""
    goal = study.recipe.goal
    wanted = [*DERIVED, *(o.metric for o in goal.objectives), *(x.metric for x in goal.limits)]
    ordered = dict.fromkeys([*wanted, "latency_s", "latency_s_p95", "latency_s_p99", *METRICS, *metrics])
    names = [n for n in ordered if n in metrics]
    return {n: metrics[n] for n in names[:MOST]}, {n: metrics[n] for n in names[MOST:]}


def layout_tags(trial: Trial, more: Mapping[str, float]) -> dict[str, str]:
    """What a trial's run is filtered and explained by, beside its status."""
    log = trial.outcome.log if isinstance(trial.outcome, Failed) else ""
    return {ERROR_TAG: first_words(log), MORE_TAG: json.dumps(dict(more)) if more else ""}


def run_name(number: int, *, best: bool) -> str:
    name = f"{number:04d}" if number else "0000 baseline"
    return f"{name} ★" if best else name


def experiment_tags(study: Study, experiment_id: str) -> dict[str, str]:
    """Its description with a link to the view, the view, and what makes the UI open it on its runs."""
    objective = study.recipe.goal.first
    best = f"{'largest' if objective.direction is Direction.MAXIMIZE else 'smallest'} `objective`"
    note = (
        f"Searches of `{study.recipe.target.name}`. A run without a parent is a study, those below it its trials; "
        f"`objective` is {objective.metric} where every limit holds.\n\n"
        f"[The trials as a table, {best} first](#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW})\n\n"
        "Filters: `tags.status = 'failed'`, `tags.reason = 'compile'`, `tags.best = 'yes'`, `tags.study = '…'`, "
        "`metrics.gain > 1`."
    )
    return {
        "mlflow.note.content": note,
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view(study)),
    }


def view(study: Study) -> dict[str, object]:
    """The state of the table as MLflow's UI saves it when a view is shared."""
    goal = study.recipe.goal
    beside = [o.metric for o in goal.objectives] + [x.metric for x in goal.limits] + ["latency_s", "compile_time_s"]
    metrics = list(dict.fromkeys(beside))[:METRICS_SHOWN]
    names = [k.name for k in study.recipe.space.knobs][:KNOBS_SHOWN]
    columns = [f"metrics.`{m}`" for m in (OBJECTIVE, "gain", *metrics)]
    columns += [f"tags.`{t}`" for t in ("status", "reason", "breaks_limit")] + [f"params.`{n}`" for n in names]
    return {
        "orderByKey": f"metrics.`{OBJECTIVE}`",
        "orderByAsc": goal.first.direction is Direction.MINIMIZE,
        "selectedColumns": columns,
        "runsHiddenMode": "FIRST_10_RUNS",
    }
