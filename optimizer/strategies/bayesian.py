"""Optuna's samplers as proposers: TPE, Gaussian process, CMA-ES and NSGA-II.

Failures are told as violated constraints, because Optuna ignores a trial that is merely told as failed. A sampler that
has no constraints (CMA-ES) gets losses beyond the worst instead. Knobs become distributions over their own numbers, or
over the places of their values; CMA-ES has no categories, so there every choice is a place. The study lives in memory:
the journal is the record.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from optimizer.objective import Score
from optimizer.space import Float, Int, Knob, Point, Space, Value

optuna.logging.set_verbosity(optuna.logging.WARNING)

MARGIN = 0.1  # how far within its bounds a feasible trial is said to be: Optuna wants a number below 0


@dataclass(frozen=True, slots=True)
class Traits:
    """What a sampler can't do by itself."""

    constraints: bool = True  # else infeasible trials get losses beyond the worst
    categories: bool = True  # else they become places in a list
    objectives: bool = True  # several; else it is told the first alone
    one_thread: bool = False  # torch on matrices so small that threads only wait for each other


def tpe(seed: int, **options: Any) -> tuple[BaseSampler, Traits]:
    """Tree-structured Parzen estimator (Bergstra et al. 2011; multivariate: Falkner et al. 2018)."""
    return TPESampler(seed=seed, **options), Traits()


def gp(seed: int, **options: Any) -> tuple[BaseSampler, Traits]:
    """Gaussian process with log expected improvement; about 1 s of CPU an ask after 20 trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = GPSampler(seed=seed, **options)
    return sampler, Traits(one_thread=True)


def cmaes(seed: int, **options: Any) -> tuple[BaseSampler, Traits]:
    """Covariance matrix adaptation with margin for integers (Hamano et al. 2022)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = CmaEsSampler(seed=seed, with_margin=True, **options)
    return sampler, Traits(constraints=False, categories=False, objectives=False)


def nsga2(seed: int, **options: Any) -> tuple[BaseSampler, Traits]:
    """NSGA-II (Deb et al. 2002)."""
    return NSGAIISampler(seed=seed, **options), Traits()


class OptunaProposer:
    """Any Optuna sampler as a proposer. `objectives`: how many losses a score has."""

    def __init__(self, space: Space, objectives: int, sampler: BaseSampler, traits: Traits) -> None:
        self._space, self._traits = space, traits
        self._distributions = {k.name: _distribution(k, traits) for k in space.knobs if k.domain.size != 1}
        directions = [StudyDirection.MINIMIZE] * (objectives if traits.objectives else 1)
        self._study = optuna.create_study(sampler=sampler, directions=directions)
        self._asked: tuple[optuna.Trial, Point] | None = None
        self._own: dict[str, optuna.Trial] = {}  # accepted as proposed, by point key
        self._placed: dict[str, int] = {}  # accepted otherwise: numbers of the running trials that stand for them
        self._best: tuple[float, ...] | None = None
        self._worst: tuple[float, ...] | None = None

    def propose(self) -> Mapping[str, Value]:
        with warnings.catch_warnings(), _one_thread() if self._traits.one_thread else nullcontext():
            warnings.simplefilter("ignore")  # samplers warn of what this file handles
            trial = self._study.ask(self._distributions)
        values = {k.name: _value(k, trial.params.get(k.name)) for k in self._space.knobs}
        self._asked = (trial, self._space.active(values))
        return values

    def refuse(self) -> None:
        if self._asked is not None:
            self._study.tell(self._asked[0], state=TrialState.FAIL)  # to Optuna it means: ignore
            self._asked = None

    def accept(self, point: Point) -> None:
        if self._asked is not None and self._asked[1] == point:
            self._own[point.key] = self._asked[0]
            self._asked = None
            return
        notes = self._notes(self._asked[0].number) if self._asked else {}
        self.refuse()
        self._add(point, TrialState.RUNNING, system_attrs=notes)
        self._placed[point.key] = len(self._study.get_trials(deepcopy=False)) - 1

    def learn(self, point: Point, score: Score) -> None:
        values, constraints = self._told(score)
        if (own := self._own.pop(point.key, None)) is not None:
            for name, value in constraints.items():
                own.set_constraint(name, value)
            self._study.tell(own, values)
            return
        placed = self._placed.pop(point.key)
        self._study.tell(placed, state=TrialState.FAIL)
        self._add(point, TrialState.COMPLETE, values=values, constraints=constraints, system_attrs=self._notes(placed))

    def _add(self, point: Point, state: TrialState, **told: Any) -> None:
        names = self._distributions
        params = {
            k.name: _param(k, point.get(k.name, k.default), names[k.name]) for k in self._space.knobs if k.name in names
        }
        self._study.add_trial(create_trial(state=state, params=params, distributions=self._distributions, **told))

    def _notes(self, number: int) -> dict[str, Any]:
        """What the sampler noted on a trial (its generation): it goes over to the trial that stands for it."""
        return dict(self._study.get_trials(deepcopy=False)[number].system_attrs)

    def _told(self, score: Score) -> tuple[list[float], dict[str, float]]:
        """The losses and constraints (above 0: violated) that Optuna is told."""
        losses = score.losses if self._traits.objectives or score.losses is None else score.losses[:1]
        if losses is not None and score.feasible:
            self._best = losses if self._best is None else tuple(map(min, self._best, losses))
        if losses is not None:
            self._worst = losses if self._worst is None else tuple(map(max, self._worst, losses))
        count = len(self._study.directions)
        best, worst = self._best or (0.0,) * count, self._worst or (0.0,) * count
        if not self._traits.constraints:
            if score.feasible and losses is not None:
                return list(losses), {}
            beyond = 1.0 + score.violation
            return [w + beyond * ((w - b) or 1.0) for b, w in zip(best, worst, strict=True)], {}
        constraints = {
            "failed": 1.0 if losses is None else -MARGIN,
            "limits": score.violation if losses is not None and score.violation > 0 else -MARGIN,
        }
        return list(losses if losses is not None else worst), constraints


@contextmanager
def _one_thread() -> Iterator[None]:
    """Beside builds and other searches, threads that wait for each other cost several times the time of one alone."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _by_place(knob: Knob) -> bool:
    """Whether a knob is searched by the place of its value: lists, and steps on a logarithmic scale."""
    return not isinstance(knob.domain, Float | Int) or (
        isinstance(knob.domain, Int) and knob.domain.log and knob.domain.step != 1
    )


def _distribution(knob: Knob, traits: Traits) -> BaseDistribution:
    domain = knob.domain
    if isinstance(domain, Float):
        return FloatDistribution(domain.low, domain.high, log=domain.log)
    if isinstance(domain, Int) and not _by_place(knob):
        high = domain.at(domain.size - 1)
        return IntDistribution(domain.low, high, log=domain.log, step=domain.step)
    if domain.ordered or not traits.categories:
        return IntDistribution(0, domain.size - 1)
    return CategoricalDistribution(tuple(range(domain.size)))


def _value(knob: Knob, param: Any) -> Value:
    domain = knob.domain
    if isinstance(domain, Float):
        return float(param)
    if param is None:  # the only value there is
        return domain.at(0)
    return domain.at(param) if _by_place(knob) else int(param)


def _param(knob: Knob, value: Value, distribution: BaseDistribution) -> Any:
    domain = knob.domain
    if isinstance(domain, Float):
        return float(value)
    try:
        index = domain.index(value)
    except ValueError:  # a knob that is not active and whose default lies outside its domain
        return distribution.low if isinstance(distribution, IntDistribution) else 0
    return index if _by_place(knob) else domain.at(index)
