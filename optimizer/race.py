"""Who finds the best recorded configuration with the fewest evaluations?

The protocol: one evaluation is one unique recorded configuration. Configurations that failed count and give no value;
proposals outside the record and repeats are free. Best-so-far starts at the worst value that was recorded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from optimizer.feasible import Feasible
from optimizer.objective import Goal, Objective
from optimizer.readers.recording import Recording
from optimizer.space import Point
from optimizer.trial import Failed, Trial, samples_of

METRIC = "latency_s"
GOAL = Goal((Objective(METRIC),))


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


def track_of(name: str, recording: Recording) -> Track:
    trials = {t.point: t for t in recording.trials}
    measured = {p: t for p, t in trials.items() if not isinstance(t.outcome, Failed)}
    values = {p: GOAL.first.of(samples_of(t)[METRIC]) for p, t in measured.items()}
    return Track(name, recording, Feasible(recording.space), trials, values)


@dataclass
class Course:
    """One run of one strategy: what it has evaluated so far. Raises Finished when the budget is spent."""

    track: Track
    budget: int
    curve: list[float]  # best so far over the optimum, after each evaluation
    seconds: list[float]  # simulated, after each evaluation
    known: dict[Point, float | None]
    asked_s: float = 0.0  # real seconds of asking

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
            raise Finished
        value = self.track.values.get(point)
        self.known[point] = value
        best = self.curve[-1] * self.track.optimum if self.curve else self.track.worst
        self.curve.append(min(best, value if value is not None else best) / self.track.optimum)
        taken_s = sum(self.track.trials[point].seconds.values())
        self.seconds.append((self.seconds[-1] if self.seconds else 0.0) + taken_s)
        return value


class Finished(Exception):
    """The budget is spent."""


class Racer(Protocol):
    """Runs a strategy on a course until it is done or gives up."""

    def __call__(self, course: Course, seed: int) -> None: ...


class AsksAndTells(Protocol):
    """optimizer.protocols.Strategy, as far as a race needs it."""

    def ask(self, limit: int) -> Sequence: ...  # type: ignore[type-arg]
    def tell(self, trial: Trial) -> None: ...


def ask_and_tell(make: Callable[[Feasible, int], AsksAndTells], batch: int = 1) -> Racer:
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
