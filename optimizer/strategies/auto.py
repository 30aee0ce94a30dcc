"""Our default strategy for people who use Optuna: optuna.create_study(sampler=AutoSampler()).

    from optimizer.strategies.auto import AutoSampler

    study = optuna.create_study(sampler=AutoSampler(seed=1))
    study.optimize(objective, n_trials=100)

The search space is the parameters that all finished trials have in common, as for Optuna's own relative samplers; what
is suggested beside it is drawn at random. A choice among numbers is taken as ordered. Pruned and failed trials count as
failures. Several objectives are weighed anew at each trial.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.objective import Score
from optimizer.space import Choice, Domain, Effect, Float, Int, Knob, Point, Space, Value, is_number
from optimizer.strategies.model import ModelProposer

Constraints = Callable[[FrozenTrial], Sequence[float]]


class AutoSampler(BaseSampler):
    """`constraints_func`: of a finished trial, numbers that are at most 0 where its limits hold, as Optuna's samplers
    take it. `startup`, `refit`: see ModelProposer."""

    def __init__(
        self,
        *,
        seed: int | None = None,
        startup: int = 8,
        refit: float = 0.06,
        constraints_func: Constraints | None = None,
    ) -> None:
        self._seed = Random().randrange(2**31) if seed is None else seed
        self._startup, self._refit, self._constraints = startup, refit, constraints_func
        self._random = RandomSampler(seed=self._seed)
        self._common = IntersectionSearchSpace()
        self._searched: dict[str, BaseDistribution] = {}
        self._proposer: ModelProposer | None = None
        self._points: dict[int, Point] = {}  # trial number → what the proposer knows it as
        self._told: set[int] = set()

    def reseed_rng(self) -> None:
        """Optuna calls this in each worker of a study that runs in parallel."""
        self._seed = Random().randrange(2**31)
        self._random.reseed_rng()
        self._proposer = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        found = self._common.calculate(study)
        return {name: d for name, d in found.items() if not d.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        if self._proposer is None or search_space != self._searched:
            self._begin(study, search_space)
        self._catch_up(study, trial)
        assert self._proposer is not None
        point = self._proposer.propose()
        if point is None:  # all have been tried
            return {}
        self._proposer.accept(point)
        self._points[trial.number] = point
        return {name: _told(d, point[name]) for name, d in search_space.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _begin(self, study: Study, search_space: dict[str, BaseDistribution]) -> None:
        knobs = tuple(_knob(name, d) for name, d in search_space.items())
        self._searched = dict(search_space)
        self._proposer = ModelProposer(
            Feasible(Space(knobs)), len(study.directions), self._seed, startup=self._startup, refit=self._refit
        )
        self._points, self._told = {}, set()

    def _catch_up(self, study: Study, current: FrozenTrial) -> None:
        """Tells the proposer of every trial that it does not know yet."""
        assert self._proposer is not None
        known = set(self._points.values())
        for trial in study.get_trials(deepcopy=False):
            if trial.number == current.number or not self._searched.keys() <= trial.params.keys():
                continue
            if trial.number not in self._points:
                point = Point({n: _ours(d, trial.params[n]) for n, d in self._searched.items()})
                if point in known:
                    continue
                self._proposer.accept(point)
                self._points[trial.number] = point
                known.add(point)
            if trial.state.is_finished() and trial.number not in self._told:
                self._told.add(trial.number)
                self._proposer.learn(self._points[trial.number], self._score(study, trial))

    def _score(self, study: Study, trial: FrozenTrial) -> Score:
        if trial.state != TrialState.COMPLETE or trial.values is None:
            return Score(None, 1.0)
        signs = [1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in study.directions]
        broken = self._constraints(trial) if self._constraints else ()
        losses = tuple(s * v for s, v in zip(signs, trial.values, strict=True))
        return Score(losses, sum(max(0.0, b) for b in broken))


def _knob(name: str, distribution: BaseDistribution) -> Knob:
    domain = _domain(distribution)
    first = domain.low if isinstance(domain, Float) else domain.at(0)
    return Knob(name, domain, Effect("setting", name), first)


def _domain(distribution: BaseDistribution) -> Domain:
    if isinstance(distribution, IntDistribution):
        return Int(distribution.low, distribution.high, distribution.step, distribution.log)
    if isinstance(distribution, FloatDistribution):
        if distribution.step is None:
            return Float(distribution.low, distribution.high, distribution.log)
        steps = round((distribution.high - distribution.low) / distribution.step)
        return Choice(tuple(distribution.low + i * distribution.step for i in range(steps + 1)), ordered=True)
    if isinstance(distribution, CategoricalDistribution):
        values = distribution.choices
        if all(v is not None and is_number(v) for v in values):
            return Choice(tuple(v for v in values if v is not None), ordered=True)
        return Choice(tuple(range(len(values))))
    raise ConfigError(f"AutoSampler knows no {type(distribution).__name__}.")


def _ours(distribution: BaseDistribution, value: Any) -> Value:
    """A choice that is no number is known by its place; a stepped number by the nearest step."""
    domain = _domain(distribution)
    if isinstance(distribution, CategoricalDistribution) and not (isinstance(domain, Choice) and domain.ordered):
        return distribution.choices.index(value)
    if isinstance(distribution, FloatDistribution):
        number = float(value)
        if isinstance(domain, Choice):
            return min((v for v in domain.values if is_number(v)), key=lambda v: abs(float(v) - number))
        return number
    found: Value = value
    return found


def _told(distribution: BaseDistribution, value: Value) -> Any:
    domain = _domain(distribution)
    if isinstance(distribution, CategoricalDistribution) and not (isinstance(domain, Choice) and domain.ordered):
        assert isinstance(value, int)
        return distribution.choices[value]
    return value
