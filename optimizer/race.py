"""Who finds the best recorded configuration with the fewest evaluations?

The protocol: one evaluation is one unique recorded configuration. Configurations that failed count and give no value;
proposals outside the record and repeats are free. Best-so-far starts at the worst value that was recorded.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Protocol

import numpy as np

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.objective import Goal, Objective
from optimizer.protocols import Strategy
from optimizer.readers.recording import Recording
from optimizer.space import Choice, Json, Point, Value
from optimizer.trial import Failed, Trial, samples_of

METRIC = "latency_s"
GOAL = Goal((Objective(METRIC),))
CHECKPOINTS = (25, 50, 100, 200)  # evaluations at which ratios are told
RESAMPLES = 1000


@dataclass(frozen=True)
class Track:
    """A recording as a race sees it."""

    name: str
    recording: Recording
    feasible: Feasible
    trials: Mapping[Point, Trial]
    values: Mapping[Point, float]  # of those that were measured

    @property
    def optimum(self) -> float:
        return min(self.values.values())

    @property
    def worst(self) -> float:
        return max(self.values.values())

    def choices(self) -> dict[str, tuple[Value, ...]]:
        """The values of each knob, for racers that know nothing but lists. Raises ConfigError where there is more."""
        knobs = self.recording.space.knobs
        found = {k.name: k.domain.values for k in knobs if isinstance(k.domain, Choice) and k.when is None}
        if len(found) < len(knobs):
            raise ConfigError(f"{self.name} has ranges or conditions: the racer needs a list of values for every knob.")
        return found


def track_of(name: str, recording: Recording) -> Track:
    trials = {t.point: t for t in recording.trials}
    measured = {p: t for p, t in trials.items() if not isinstance(t.outcome, Failed)}
    values = {p: GOAL.first.of(samples_of(t)[METRIC]) for p, t in measured.items()}
    return Track(name, recording, Feasible(recording.space), trials, values)


@dataclass
class Course:
    """One run of one strategy: what it has evaluated so far. Raises FinishedRace when the budget is spent."""

    track: Track
    budget: int
    curve: list[float]  # best so far over the optimum, after each evaluation
    seconds: list[float]  # simulated, after each evaluation
    known: dict[Point, float | None]
    asked_s: float = 0.0  # real seconds of asking and telling

    @classmethod
    def start(cls, track: Track, budget: int) -> "Course":
        return cls(track, min(budget, len(track.trials)), [], [], {})

    @property
    def done(self) -> bool:
        return len(self.curve) >= self.budget

    def evaluate(self, point: Point) -> float | None:
        """The value of a point; None where it failed or was not recorded."""
        if point in self.known:
            return self.known[point]
        if point not in self.track.trials:
            return None
        if self.done:
            raise FinishedRace
        value = self.track.values.get(point)
        self.known[point] = value
        best = self.curve[-1] * self.track.optimum if self.curve else self.track.worst
        self.curve.append(min(best, value if value is not None else best) / self.track.optimum)
        taken_s = sum(self.track.trials[point].seconds.values())
        self.seconds.append((self.seconds[-1] if self.seconds else 0.0) + taken_s)
        return value


class FinishedRace(Exception):  # noqa: N818 - it is no error
    """The budget is spent."""


class Racer(Protocol):
    """Runs a strategy on a course until it is done or gives up."""

    def __call__(self, course: Course, seed: int) -> None: ...


def ask_and_tell(make: Callable[[Feasible, int], Strategy], batch: int = 1) -> Racer:
    """The racer of a strategy of ours. `batch`: so many are asked for before their results are told."""

    def run(course: Course, seed: int) -> None:
        strategy = make(course.track.feasible, seed)
        while not course.done:
            before = perf_counter()
            candidates = strategy.ask(batch)
            course.asked_s += perf_counter() - before
            if not candidates:
                return
            for candidate in candidates[: course.budget - len(course.curve)]:
                course.evaluate(candidate.point)
                recorded = course.track.trials[candidate.point]
                before = perf_counter()
                strategy.tell(Trial(candidate, recorded.outcome))
                course.asked_s += perf_counter() - before

    return run


# --- results


@dataclass(frozen=True)
class Run:
    """One run of one strategy on one space."""

    space: str
    strategy: str
    seed: int
    curve: tuple[float, ...]  # best so far over the optimum, after each evaluation; as long as the budget
    seconds: tuple[float, ...]  # simulated
    ask_ms: float  # of asking and telling, an evaluation
    made_of: str = ""  # hash of the recording and of the strategy's options or source: what a kept run is known by


def raced(track: Track, strategy: str, racer: Racer, seed: int, budget: int, made_of: str = "") -> Run:
    """A strategy that gives up before the budget is spent keeps what it has."""
    course = Course.start(track, budget)
    with suppress(FinishedRace):
        racer(course, seed)
    curve = course.curve or [track.worst / track.optimum]
    seconds = course.seconds or [0.0]
    ask_ms = 1000.0 * course.asked_s / len(curve)
    short = budget - len(curve)
    held = (*curve, *[curve[-1]] * short), (*seconds, *[seconds[-1]] * short)
    return Run(track.name, strategy, seed, *held, ask_ms, made_of)


@dataclass(frozen=True)
class Standing:
    """What the runs of one strategy on one space come to."""

    repeats: int
    mean: tuple[float, ...]
    low: tuple[float, ...]  # of a 95% interval of the mean
    high: tuple[float, ...]
    seconds: tuple[float, ...]  # simulated, mean
    ask_ms: float

    def within(self, share: float) -> int | None:
        """The first evaluation at which the mean curve is at or below 1 + share."""
        return next((i for i, ratio in enumerate(self.mean, start=1) if ratio <= 1.0 + share), None)

    def document(self) -> Json:
        at = [n for n in CHECKPOINTS if n <= len(self.mean)]
        five, one = self.within(0.05), self.within(0.01)
        return {
            "repeats": self.repeats,
            "ratio": {str(n): self.mean[n - 1] for n in at},
            "ratio_95": {str(n): [self.low[n - 1], self.high[n - 1]] for n in at},
            "within_5pct": five,
            "within_1pct": one,
            "seconds_within_5pct": None if five is None else self.seconds[five - 1],
            "seconds_within_1pct": None if one is None else self.seconds[one - 1],
            "ask_ms": self.ask_ms,
        }


def standing(runs: Sequence[Run]) -> Standing:
    """Means, and a bootstrapped interval of the mean (percentiles, Efron and Tibshirani 1993)."""
    curves = np.array([r.curve for r in runs])
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(runs), size=(RESAMPLES, len(runs)))
    means = np.stack([curves[d].mean(axis=0) for d in drawn])
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return Standing(
        repeats=len(runs),
        mean=tuple(curves.mean(axis=0).tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        seconds=tuple(np.array([r.seconds for r in runs]).mean(axis=0).tolist()),
        ask_ms=median(r.ask_ms for r in runs),
    )


Standings = Mapping[str, Mapping[str, Standing]]
"""Space → strategy → its standing."""


def standings(runs: Iterable[Run]) -> Standings:
    grouped: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        grouped.setdefault(run.space, {}).setdefault(run.strategy, []).append(run)
    return {space: {name: standing(found) for name, found in by.items()} for space, by in grouped.items()}


def geometric_mean(found: Standings, strategy: str, evaluation: int) -> float | None:
    """Over the spaces, of the mean ratio after so many evaluations; None where one space lacks it."""
    means = [by[strategy].mean for by in found.values() if strategy in by]
    if len(means) < len(found) or any(len(m) < evaluation for m in means):
        return None
    return math.exp(sum(math.log(m[evaluation - 1]) for m in means) / len(means))
