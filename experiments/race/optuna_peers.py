"""What do plain Optuna samplers find on a course, as people use them who do not know the valid configurations?

    python -m optimizer race KERNEL.json.gz --strategies experiments/race/optuna_peers.py:tpe_ordinal

Samplers have Optuna's defaults. Every parameter is suggested on its own; a configuration that is not in the recording
raises TrialPruned, as the documentation advises for what is infeasible (TPE learns from it, the others ignore it); one
that failed raises an error, which `catch` turns into a failed trial (all samplers ignore it). With `_constrained` both
are told in Optuna's other way, by `constraints_func`: violated, with the worst value so far.

Such proposals and repeats are free but not endless: a run is given up after 20 proposals for each evaluation of the
budget, and with GPSampler, whose proposals take seconds, after 50 in a row that bring nothing new: it ignores what was
pruned or failed, so it proposes the same configuration for ever.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from time import perf_counter

import optuna
from optuna.samplers import CmaEsSampler, GPSampler, NSGAIISampler, TPESampler

from optimizer.race import Course, FinishedRace, Racer
from optimizer.space import Point, Value, is_number

PROPOSALS = 20  # for each evaluation of the budget
PATIENCE = 50  # GPSampler's proposals in a row that bring nothing new
VIOLATED = "violated"


class FailedConfigurationError(Exception):
    """What a user's objective raises where a build or a run fails."""


def categorical(trial: optuna.Trial, name: str, values: Sequence[Value]) -> Value:
    return values[trial.suggest_categorical(name, range(len(values)))]


def ordinal(trial: optuna.Trial, name: str, values: Sequence[Value]) -> Value:
    """The place in the list of values where they are numbers: what is near in the list is near for the sampler."""
    if not all(is_number(v) for v in values):
        return categorical(trial, name, values)
    return values[trial.suggest_int(name, 0, len(values) - 1)]


@dataclass(frozen=True)
class Peer:
    """`patience`: so many proposals in a row may bring nothing new."""

    make: Callable[[int], optuna.samplers.BaseSampler]
    suggest: Callable[[optuna.Trial, str, Sequence[Value]], Value]
    constrained: bool = False
    patience: float = inf


def violation(trial: optuna.trial.FrozenTrial) -> tuple[float]:
    """Optuna's convention: above 0 is infeasible."""
    return (float(trial.user_attrs[VIOLATED]),)


PEERS = {
    "tpe_categorical": Peer(lambda seed: TPESampler(seed=seed), categorical),
    "tpe_ordinal": Peer(lambda seed: TPESampler(seed=seed), ordinal),
    "tpe_constrained": Peer(lambda seed: TPESampler(seed=seed, constraints_func=violation), ordinal, constrained=True),
    "gp": Peer(lambda seed: GPSampler(seed=seed), ordinal, patience=PATIENCE),
    "gp_constrained": Peer(
        lambda seed: GPSampler(seed=seed, constraints_func=violation), ordinal, constrained=True, patience=PATIENCE
    ),
    "cmaes": Peer(lambda seed: CmaEsSampler(seed=seed), ordinal),
    "nsga2": Peer(lambda seed: NSGAIISampler(seed=seed), ordinal),
}


class Objective:
    """A course as an objective that a user writes; it stops the study when the course is done or goes nowhere."""

    def __init__(self, course: Course, peer: Peer) -> None:
        self.evaluating_s = 0.0
        self._choices = course.track.choices()
        self._course, self._peer, self._nothing_new = course, peer, 0

    def __call__(self, trial: optuna.Trial) -> float:
        values = {name: self._peer.suggest(trial, name, known) for name, known in self._choices.items()}
        before, known = perf_counter(), len(self._course.curve)
        point = Point(values)
        value = self._course.evaluate(point)
        self.evaluating_s += perf_counter() - before
        self._nothing_new = 0 if len(self._course.curve) > known else self._nothing_new + 1
        if self._course.done or self._nothing_new >= self._peer.patience:
            trial.study.stop()
        trial.set_user_attr(VIOLATED, value is None)
        if value is not None:
            return value
        measured = [v for v in self._course.known.values() if v is not None]
        if self._peer.constrained and measured:
            return max(measured)
        if point in self._course.known:
            raise FailedConfigurationError
        raise optuna.TrialPruned


def _run(name: str, course: Course, seed: int) -> None:
    peer = PEERS[name]
    objective = Objective(course, peer)
    told = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # every failed trial is a warning with a stack
    before = perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental samplers; parameters of one value
            study = optuna.create_study(sampler=peer.make(seed))
            study.optimize(objective, n_trials=PROPOSALS * course.budget, catch=(FailedConfigurationError,))
    except FinishedRace:
        return
    finally:
        optuna.logging.set_verbosity(told)
        course.asked_s += perf_counter() - before - objective.evaluating_s


RACERS: dict[str, Racer] = {name: partial(_run, name) for name in PEERS}
