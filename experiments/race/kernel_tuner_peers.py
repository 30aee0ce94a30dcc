"""What do Kernel Tuner's strategies find on a course? Their own code, with Kernel Tuner's defaults, at `FILE.py:NAME`.

    python -m optimizer race KERNEL.json.gz --strategies experiments/race/kernel_tuner_peers.py:genetic_algorithm

Kernel Tuner's search space is built from the recorded configurations (its `from_cache`), so that its strategies know
which are valid; its cost function asks a runner of ours, which answers in milliseconds, as Kernel Tuner's do, and tells
failures as Kernel Tuner's own ErrorConfigs. What differs from a run on a device:

- A strategy that proposes nothing new 20000 times in a row is given up; one that ends early is not started again.
- Clocks: `bayes_opt` fits its model anew as soon as the last evaluations took five times as long as the prediction. A
  recording answers at once, which would leave its model stale; it is given a clock of evaluations instead of seconds.
- Seeds: Python's and NumPy's global generators are seeded, and SciPy's Latin hypercube, which asks the system for one.
- A strategy that crashes keeps what it has; the crash is told as a warning. One that crashes before its first
  evaluation can't race.
"""

import copy
import random
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from io import StringIO
from time import perf_counter
from traceback import walk_tb
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from scipy.stats import qmc

from optimizer.errors import ConfigError
from optimizer.race import Course, FinishedRace, Racer, Track
from optimizer.space import Json, Point, Value
from optimizer.trial import Failed, Stage

try:
    from kernel_tuner import util
    from kernel_tuner.interface import Options, strategy_map
    from kernel_tuner.runners.runner import Runner
    from kernel_tuner.searchspace import Searchspace, supported_neighbor_methods
    from kernel_tuner.strategies import bayes_opt as bayesian  # bayes_opt is the name of a racer here
    from kernel_tuner.strategies.common import CostFunc
except ImportError as error:
    raise ConfigError(f"Kernel Tuner can't be imported ({error}): pip install 'inference-optimizer[race]'.") from error

PATIENCE = 20_000  # cost calls in a row that bring nothing new
MS = 1e3
INVALID = 1e20  # bayes_opt's invalid_value
STRATEGIES = (
    "random_sample",
    "minimize",
    "basinhopping",
    "diff_evo",
    "genetic_algorithm",
    "greedy_mls",
    "ordered_greedy_mls",
    "greedy_ils",
    "mls",
    "dual_annealing",
    "pso",
    "simulated_annealing",
    "firefly_algorithm",
    "bayes_opt",
    "bayes_opt_repaired",
    "skopt",
    "pyatf_strategies",
    "hybrid_vndx",
    "adaptive_tabu_greywolf",
    "nsga2",
    "nsga3",
)  # all but brute_force, which searches nothing
NEEDS = {  # what a strategy imports → the distribution that has it
    "bayes_opt": ("sklearn", "scikit-learn"),
    "bayes_opt_repaired": ("sklearn", "scikit-learn"),
    "skopt": ("skopt", "scikit-optimize"),
    "nsga2": ("pymoo", "pymoo"),
    "nsga3": ("pymoo", "pymoo"),
}


class GivenUp(Exception):  # noqa: N818 - it is no error, and the strategies catch Kernel Tuner's StopCriterionReached
    """The strategy goes on proposing what is known."""


@dataclass(frozen=True)
class Replay:
    """A track as Kernel Tuner sees it."""

    track: Track
    searchspace: Any
    points: dict[tuple[Value, ...], Point]

    @classmethod
    def of(cls, track: Track) -> "Replay":
        tune_params = {name: list(values) for name, values in track.choices().items()}
        points = {tuple(point[name] for name in tune_params): point for point in track.trials}
        cache = {n: dict(zip(tune_params, values, strict=True)) for n, values in enumerate(points)}
        space = Searchspace(None, None, None, from_cache={"tune_params": tune_params, "cache": cache})
        space.get_list_param_indices_numpy()  # shared by all runs: it depends on the configurations alone
        return cls(track, space, points)

    def fresh(self) -> Any:
        """The search space with empty caches of neighbours: Kernel Tuner draws from them, so a run would depend on the
        runs before it."""
        space = copy.copy(self.searchspace)
        space._Searchspace__neighbor_cache = {m: {} for m in supported_neighbor_methods}
        space._Searchspace__neighbor_partial_cache = {m: defaultdict(list) for m in supported_neighbor_methods}
        return space


_replays: dict[int, Replay] = {}  # by the track's id: a Replay keeps its track, so that no other gets the same


def replay_of(track: Track) -> Replay:
    """The same for all runs of a process on a track: building it takes longer than many a run."""
    if id(track) not in _replays:
        _replays[id(track)] = Replay.of(track)
    return _replays[id(track)]


class CourseRunner(Runner):  # type: ignore[misc]
    """What Kernel Tuner calls a runner: takes configurations, gives what was measured."""

    def __init__(self, course: Course, points: dict[tuple[Value, ...], Point]) -> None:
        super().__init__()
        self.dev = SimpleNamespace(max_threads=1_000_000_000, name="recording")
        self.evaluating_s = 0.0
        self._course, self._points, self._nothing_new = course, points, 0

    def get_device_info(self) -> SimpleNamespace:
        return self.dev

    def get_environment(self, tuning_options: Any) -> Json:
        return {"device_name": self.dev.name}

    def run(self, parameter_space: Sequence[Sequence[Value]], tuning_options: Any) -> list[Json | None]:
        """A result for every configuration; None, as Kernel Tuner's runners say it, where the budget is spent."""
        before, known = perf_counter(), len(self._course.curve)
        results = [self._result(tuple(element), tuning_options) for element in parameter_space]
        self.evaluating_s += perf_counter() - before
        self._nothing_new = 0 if len(self._course.curve) > known else self._nothing_new + max(1, len(results))
        if self._nothing_new >= PATIENCE:
            raise GivenUp
        return results

    def _result(self, values: tuple[Value, ...], tuning_options: Any) -> Json | None:
        if tuning_options.budget.is_done():
            return None
        result: Json = dict(zip(tuning_options.tune_params, values, strict=True))
        point = self._points.get(values)
        if point is None:
            return result | _failure(util.InvalidConfig())
        if point not in self._course.known:
            tuning_options.budget.add_evaluations(1)
        value = self._course.evaluate(point)
        if value is not None:
            return result | {"time": value * MS}
        outcome = self._course.track.trials[point].outcome
        built = isinstance(outcome, Failed) and outcome.stage is not Stage.BUILD
        return result | _failure(util.RuntimeFailedConfig() if built else util.CompilationFailedConfig())


def _failure(error: Any) -> Json:
    return {"time": error, "__error__": error}


class RepairedCostFunc(CostFunc):  # type: ignore[misc]
    """Tells bayes_opt of failures in its own word for them, its invalid_value, which it keeps from its model.

    Kernel Tuner 1.5 tells it sys.float_info.max, which it takes for a time that was measured.
    """

    def eval_all(self, xs: Sequence[Any], check_restrictions: bool = True) -> list[float]:
        costs = super().eval_all(xs, check_restrictions=check_restrictions)
        return [INVALID if cost == sys.float_info.max else cost for cost in costs]


def _run(name: str, course: Course, seed: int) -> None:
    """Runs a strategy until the course is done, or it ends, is given up or crashes."""
    _check(name)
    replay = replay_of(course.track)
    runner = CourseRunner(course, replay.points)
    theirs = "bayes_opt" if name == "bayes_opt_repaired" else name
    space, options = replay.fresh(), _options(theirs, course, replay, seed)
    random.seed(seed)
    np.random.seed(seed)
    before = perf_counter()
    try:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(redirect_stdout(StringIO()))
            for module, attribute, value in _lent(name, course, seed):
                stack.enter_context(_swapped(module, attribute, value))
            strategy_map[theirs].tune(space, runner, options)
    except (GivenUp, FinishedRace):
        return
    except Exception as crash:  # what a peer's code raises can't be known; ours is let through
        if _ours(crash):
            raise
        if not course.curve:
            raise ConfigError(f"{name} can't race: it crashes before its first evaluation ({crash!r}).") from crash
        warnings.warn(f"{name} crashed after {len(course.curve)} evaluations: {crash!r}", RuntimeWarning, stacklevel=1)
    finally:
        course.asked_s += perf_counter() - before - runner.evaluating_s


def _options(name: str, course: Course, replay: Replay, seed: int) -> Any:
    """What `tune_kernel` hands to a strategy, as far as strategies read it."""
    return Options(
        strategy=name,
        strategy_options=Options(max_fevals=course.budget),
        max_fevals=course.budget,
        budget=util.TuningBudget(None, course.budget),
        tune_params=replay.searchspace.tune_params,
        restrictions=None,
        objective=["time"],
        objective_higher_is_better=[False],
        metrics=None,
        cache={},
        simulation_mode=False,
        verbose=False,
        seed=seed,
    )


def _lent(name: str, course: Course, seed: int) -> list[tuple[ModuleType, str, object]]:
    """What stands in for a module's attribute during a run: seeded sampling, and for bayes_opt a clock of evaluations
    (and, repaired, the cost function)."""
    hypercube = partial(qmc.LatinHypercube, rng=np.random.default_rng(seed))
    lent: list[tuple[ModuleType, str, object]] = [(qmc, "LatinHypercube", hypercube)]
    if name in ("bayes_opt", "bayes_opt_repaired"):
        clock = SimpleNamespace(
            perf_counter=lambda: float(len(course.curve)), perf_counter_ns=lambda: len(course.curve)
        )
        lent += [(bayesian, "LatinHypercube", hypercube), (bayesian, "time", clock)]
    if name == "bayes_opt_repaired":
        lent.append((bayesian, "CostFunc", RepairedCostFunc))
    return lent


@contextmanager
def _swapped(module: ModuleType, attribute: str, value: object) -> Iterator[None]:
    kept = getattr(module, attribute)
    setattr(module, attribute, value)
    try:
        yield
    finally:
        setattr(module, attribute, kept)


def _ours(crash: Exception) -> bool:
    """Whether it was raised in this file or in the race, not in what a peer called."""
    *_, (frame, _line) = walk_tb(crash.__traceback__)
    return frame.f_code.co_filename == __file__ or "optimizer.race" in str(frame.f_globals.get("__name__"))


def _check(name: str) -> None:
    """Raises ConfigError where the strategy can't run here."""
    if name == "pyatf_strategies":
        raise ConfigError(
            "pyatf_strategies can't race: it builds a space of its own from restrictions written as source, which a "
            "recording does not hold (and the pyatf on PyPI refuses what Kernel Tuner 1.5 calls it with). Leave it out."
        )
    module, distribution = NEEDS.get(name, ("kernel_tuner", "kernel_tuner"))
    if find_spec(module) is None:
        raise ConfigError(f"{name} needs the package {distribution}: pip install {distribution}.")


RACERS: dict[str, Racer] = {name: partial(_run, name) for name in STRATEGIES}


def __getattr__(name: str) -> Racer:
    """What can't run is told when the race asks for its racers, before its first run."""
    if name not in STRATEGIES:
        raise AttributeError(name)
    _check(name)
    return RACERS[name]
