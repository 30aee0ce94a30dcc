"""Which trials stand behind a page? All of them as compact columns, for the page's table and its links.

A column of words is a list of the different ones and an index a trial; a metric has its words (rounded, with unit) and
its values, to six digits, to sort by.
"""

from collections.abc import Iterable, Mapping, Sequence

from optimizer.journal import Study
from optimizer.metrics import METRICS
from optimizer.objective import Objective
from optimizer.report.page.runs import Runs
from optimizer.space import Json
from optimizer.text import first_words, quantity, value_text
from optimizer.trial import Failed, Trial, metrics_of, samples_of

METRICS_SHOWN = 14


def study_document(study: Study, label: str, runs: Runs | None) -> Json:
    trials = study.trials
    values = [metrics_of(t) for t in trials]
    best = study.winner or study.best
    return {
        "label": label,
        "name": study.name,
        "best": best.number if best else None,
        "mlflow": None if runs is None else {"experiment": runs.experiment, "parent": runs.parent},
        "runs": [runs.trials.get(t.number, "") for t in trials] if runs and runs.trials else None,
        "n": len(trials),
        "status": coded(_status(study, t) for t in trials),
        "metrics": [*_objectives(study), *(_metric(name, values) for name in _shown(study, values))],
        "knobs": [
            {"name": k, **coded(value_text(t.point[k]) if k in t.point else "" for t in trials)} for k in knobs(study)
        ],
        "log": coded(first_words(t.outcome.log) if isinstance(t.outcome, Failed) else "" for t in trials),
    }


def coded(words: Iterable[str]) -> dict[str, Json]:
    """{"texts": the different words, "at": which of them each is}."""
    index: dict[str, int] = {}
    places = [index.setdefault(word, len(index)) for word in words]
    return {"texts": list(index), "at": places}


def knobs(study: Study) -> list[str]:
    """Those that vary; of a study in which none does, all."""
    names = [k.name for k in study.recipe.space.knobs]
    return [n for n in names if len({t.point.get(n) for t in study.trials}) > 1] or names


def _status(study: Study, trial: Trial) -> str:
    outcome = trial.outcome
    if isinstance(outcome, Failed):
        return f"failed: {outcome.reason} ({outcome.stage})"
    broken = study.recipe.goal.violations(trial, study.trials[0]) if study.baseline else {}
    text = f"breaks {', '.join(broken)}" if broken else "measured"
    return text if outcome.same_as is None else f"{text}, as {outcome.same_as}"


def _objectives(study: Study) -> list[Json]:
    """What is optimised, by its own statistic, and the gain over number 0."""
    found: list[Json] = []
    for objective in study.recipe.goal.objectives:
        values = [_value(objective, t) for t in study.trials]
        name = objective.metric if objective.statistic == "median" else f"{objective.statistic} of {objective.metric}"
        found.append(_column(name, values, [None if v is None else quantity(objective.metric, v) for v in values]))
        base = values[0] if values else None
        if objective == study.recipe.goal.first and study.baseline and base and base > 0:
            gains = [objective.gain(base, v) if v is not None and v > 0 else None for v in values]
            found.append(_column("gain", gains, [None if g is None else f"{g:.3f}×" for g in gains]))
    return found


def _value(objective: Objective, trial: Trial) -> float | None:
    samples = () if isinstance(trial.outcome, Failed) else samples_of(trial).get(objective.metric, ())
    return objective.of(samples) if samples else None


def _shown(study: Study, values: Sequence[Mapping[str, float]]) -> list[str]:
    """The metrics beside the objectives: limits first, then in the catalogue's order, then others."""
    seen = dict.fromkeys(name for v in values for name in v)
    limits = [x.metric for x in study.recipe.goal.limits]
    done = {o.metric for o in study.recipe.goal.objectives if o.statistic == "median"}
    ordered = dict.fromkeys([*limits, *METRICS, *seen])
    return [n for n in ordered if n in seen and n not in done][:METRICS_SHOWN]


def _metric(name: str, values: Sequence[Mapping[str, float]]) -> Json:
    column = [v.get(name) for v in values]
    return _column(name, column, [None if x is None else quantity(name, x) for x in column])


def _column(name: str, values: Sequence[float | None], texts: Sequence[str | None]) -> Json:
    rounded = [None if v is None else float(f"{v:.6g}") for v in values]
    return {"name": name, **coded(t or "" for t in texts), "values": rounded}
