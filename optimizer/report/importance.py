"""Which knobs matter? The share of the variation that each explains.

Functional ANOVA of a random forest fitted to the measured trials (Hutter, Hoos and Leyton-Brown 2014), as Optuna
implements it. A knob that is not active counts as one more value. The shares add up to 1 and say how much of what was
seen varies with a knob, not which value is best.
"""

import math
import warnings
from collections.abc import Mapping, Sequence

from optimizer.journal import Study
from optimizer.objective import Objective
from optimizer.space import Float, Knob, Point, Space, contains
from optimizer.trial import Measured, Trial, samples_of

FEWEST = 12  # trials; of fewer a forest says nothing
TREES = 64
MOST = 200  # trials; of more the forest sees so many, spread evenly: it grows faster than they do and says no more


def shares_of(study: Study) -> Mapping[str, float]:
    """Of a study's first objective; empty where nothing was compared with a baseline."""
    return importance(study.recipe.space, study.recipe.goal.first, study.trials) if study.baseline else {}


def importance(space: Space, objective: Objective, trials: Sequence[Trial]) -> Mapping[str, float]:
    """Knob → share, largest first; empty where too few trials were measured or none differ."""
    known = [t for t in trials if isinstance(t.outcome, Measured) and samples_of(t).get(objective.metric)]
    if len(known) > MOST:
        known = [known[i * len(known) // MOST] for i in range(MOST)]
    values = [objective.of(samples_of(t)[objective.metric]) for t in known]
    varied = [k for k in space.knobs if len({t.point.get(k.name) for t in known}) > 1]
    if len(known) < FEWEST or len(set(values)) < 2 or not varied:
        return {}
    if len(varied) == 1:
        return {varied[0].name: 1.0}
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    def distribution(knob: Knob) -> BaseDistribution:
        if isinstance(knob.domain, Float):
            return FloatDistribution(knob.domain.low, knob.domain.high, log=knob.domain.log)
        if knob.domain.ordered:
            return IntDistribution(-1, knob.domain.size - 1)
        return CategoricalDistribution(tuple(range(-1, knob.domain.size)))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    distributions = {k.name: distribution(k) for k in varied}
    for trial, value in zip(known, values, strict=True):
        params = {k.name: _place(k, trial.point) for k in varied}
        loss = math.log(value) if value > 0 else value  # a factor counts alike wherever it acts
        study.add_trial(optuna.trial.create_trial(value=loss, params=params, distributions=distributions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn's own making
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=TREES, seed=0))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _place(knob: Knob, point: Point) -> float | int:
    """The index of its value; -1 where the knob is not active."""
    if isinstance(knob.domain, Float):
        return float(point.get(knob.name, knob.domain.low))
    value = point.get(knob.name)
    return knob.domain.index(value) if value is not None and contains(knob.domain, value) else -1
