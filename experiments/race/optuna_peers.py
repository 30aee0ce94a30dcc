"""What do plain Optuna samplers find on a course, as people use them who do not know the valid configurations?

    python -m optimizer race KERNEL.json.gz --strategies experiments/race/optuna_peers.py:tpe_ordinal

Samplers have Optuna's defaults. Every parameter is suggested on its own; a configuration that is not in the recording
raises TrialPruned, as the documentation advises for what is infeasible (TPE learns from it, the others ignore it); one
that failed raises an error, which `catch` turns into a failed trial (all samplers ignore it). Such proposals and repeats
are free but not endless: a run is given up after 20 proposals for each evaluation of the budget, or after 200 in a row
that bring nothing new (a sampler that learns nothing from a refusal may propose the same for ever; GPSampler takes
seconds for each).
"""

import warnings
from collections.abc import Callable
from functools import partial
from time import perf_counter

import optuna

from optimizer.race import Course, FinishedRace, Racer
from optimizer.space import Choice, Json, Knob, Point, Value

PROPOSALS = 20  # for each evaluation of the budget
PATIENCE = 200  # proposals in a row that bring nothing new


class FailedConfigurationError(Exception):
    """What a user's objective raises where a build or a run fails."""


def categorical(trial: optuna.Trial, knob: Knob) -> Value:
    value: Value = trial.suggest_categorical(knob.name, [knob.domain.at(i) for i in range(knob.domain.size)])
    return value


def ordinal(trial: optuna.Trial, knob: Knob) -> Value:
    """The place in the list of values where they are numbers: what is near in the list is near for the sampler."""
    if not (isinstance(knob.domain, Choice) and knob.domain.ordered):
        return categorical(trial, knob)
    return knob.domain.at(trial.suggest_int(knob.name, 0, knob.domain.size - 1))


Suggest = Callable[[optuna.Trial, Knob], Value]
Make = Callable[[int], optuna.samplers.BaseSampler]
SAMPLERS: dict[str, tuple[Make, Suggest]] = {
    "tpe_categorical": (lambda seed: optuna.samplers.TPESampler(seed=seed), categorical),
    "tpe_ordinal": (lambda seed: optuna.samplers.TPESampler(seed=seed), ordinal),
    "gp": (lambda seed: optuna.samplers.GPSampler(seed=seed), ordinal),
    "cmaes": (lambda seed: optuna.samplers.CmaEsSampler(seed=seed), ordinal),
    "nsga2": (lambda seed: optuna.samplers.NSGAIISampler(seed=seed), ordinal),
}


class Objective:
    """A course as an objective that a user writes; it stops the study when the course is done or goes nowhere."""

    def __init__(self, course: Course, suggest: Suggest) -> None:
        self.evaluating_s = 0.0
        self._course, self._suggest, self._nothing_new = course, suggest, 0

    def __call__(self, trial: optuna.Trial) -> float:
        values: Json = {k.name: self._suggest(trial, k) for k in self._course.track.recording.space.knobs}
        before, known = perf_counter(), len(self._course.curve)
        point = Point(values)
        value = self._course.evaluate(point)
        self.evaluating_s += perf_counter() - before
        self._nothing_new = 0 if len(self._course.curve) > known else self._nothing_new + 1
        if self._course.done or self._nothing_new >= PATIENCE:
            trial.study.stop()
        if point not in self._course.known:
            raise optuna.TrialPruned
        if value is None:
            raise FailedConfigurationError
        return value


def _run(name: str, course: Course, seed: int) -> None:
    make, suggest = SAMPLERS[name]
    objective = Objective(course, suggest)
    told = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # every failed trial is a warning with a stack
    before = perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental samplers; parameters of one value
            study = optuna.create_study(sampler=make(seed))
            study.optimize(objective, n_trials=PROPOSALS * course.budget, catch=(FailedConfigurationError,))
    except FinishedRace:
        return
    finally:
        optuna.logging.set_verbosity(told)
        course.asked_s += perf_counter() - before - objective.evaluating_s


RACERS: dict[str, Racer] = {name: partial(_run, name) for name in SAMPLERS}
