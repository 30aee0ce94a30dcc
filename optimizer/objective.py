"""What does better mean? Objectives, limits against the measured baseline, dominance and the front."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from optimizer.errors import ConfigError, nearest
from optimizer.metrics import better
from optimizer.stats import quantile
from optimizer.trial import Measured, Trial, metrics_of, samples_of


class Direction(StrEnum):
    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"


STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "median": median,
    "p95": lambda samples: quantile(samples, 0.95),
    "p99": lambda samples: quantile(samples, 0.99),
}


@dataclass(frozen=True, slots=True)
class Objective:
    metric: str
    direction: Direction = Direction.MINIMIZE
    statistic: str = "median"

    def of(self, samples: Sequence[float]) -> float:
        return STATISTICS[self.statistic](samples)

    def loss(self, value: float) -> float:
        """Lower is better, whatever the direction."""
        return value if self.direction is Direction.MINIMIZE else -value

    def gain(self, baseline: float, value: float) -> float:
        """How many times better than the baseline: above 1 is better, whatever the direction. Both positive."""
        return baseline / value if self.direction is Direction.MINIMIZE else value / baseline

    def gain_of(self, trial: Trial, baseline: Trial) -> float | None:
        """The gain that the readings of two trials tell; None where one of them has none, or none above 0."""
        mine, theirs = (samples_of(t).get(self.metric) for t in (trial, baseline))
        if not mine or not theirs:
            return None
        value, base = self.of(mine), self.of(theirs)
        return self.gain(base, value) if value > 0 and base > 0 else None

    def __str__(self) -> str:
        what = self.metric if self.statistic == "median" else f"{self.statistic} of {self.metric}"
        return f"{self.direction} {what}"


class Bound(StrEnum):
    """How a limit is meant. Degradation and improvement are against the measured baseline, number 0."""

    MAX = "max"
    MIN = "min"
    MAX_DEGRADATION = "max_degradation"
    MAX_DEGRADATION_PCT = "max_degradation_pct"
    MIN_IMPROVEMENT = "min_improvement"
    MIN_IMPROVEMENT_PCT = "min_improvement_pct"


@dataclass(frozen=True, slots=True)
class Limit:
    """What a configuration must keep to. `direction` says which way the metric is better."""

    metric: str
    bound: Bound
    value: float
    direction: Direction
    statistic: str = "median"

    def of(self, samples: Sequence[float]) -> float:
        return STATISTICS[self.statistic](samples)

    def ceiling(self, baseline: float | None) -> tuple[float, bool]:
        """The bound in the metric's own unit, and whether it is an upper one."""
        if self.bound is Bound.MAX:
            return self.value, True
        if self.bound is Bound.MIN:
            return self.value, False
        if baseline is None:
            raise ConfigError(
                f"The limit on {self.metric} is against the baseline, and the baseline did not report {self.metric}."
            )
        lower_is_better = self.direction is Direction.MINIMIZE
        change = self.value * (abs(baseline) / 100 if self.bound.endswith("_pct") else 1)
        worse = self.bound.startswith("max_degradation")
        return baseline + (change if worse == lower_is_better else -change), lower_is_better

    def violation(self, value: float | None, baseline: float | None) -> float:
        """0 where it holds, else by how much it is broken, relative to the bound. An absent metric breaks it by 1."""
        if value is None:
            return 1.0
        bound, upper = self.ceiling(baseline)
        excess = value - bound if upper else bound - value
        return excess / max(abs(bound), 1e-12) if excess > 1e-9 * abs(bound) else 0.0

    def formula(self, baseline: float | None = None) -> str:
        """The limit in words, and in numbers where the baseline is known."""
        name = self.metric if self.statistic == "median" else f"{self.statistic} of {self.metric}"
        sign = "≤" if self.ceiling(1.0)[1] else "≥"
        if self.bound in (Bound.MAX, Bound.MIN):
            return f"{name} {sign} {self.value:g}"
        grows = (self.bound.startswith("max_degradation")) == (self.direction is Direction.MINIMIZE)
        plus = "+" if grows else "−"
        if self.bound.endswith("_pct"):
            text = f"{name} {sign} baseline × (1 {plus} {self.value:g}/100)"
        else:
            text = f"{name} {sign} baseline {plus} {self.value:g}"
        return text if baseline is None else f"{text} = {self.ceiling(baseline)[0]:.6g}"


@dataclass(frozen=True, slots=True)
class Score:
    """What a strategy is told of a trial. `losses` is None where the trial failed; lower is better throughout."""

    losses: tuple[float, ...] | None
    violation: float  # 0 where every limit holds; the sum of the limits' relative violations; 1 for a failure

    @property
    def feasible(self) -> bool:
        return self.losses is not None and self.violation == 0.0


@dataclass(frozen=True, slots=True)
class Goal:
    """The objectives, most important first, and the limits."""

    objectives: tuple[Objective, ...]
    limits: tuple[Limit, ...] = ()

    @property
    def first(self) -> Objective:
        return self.objectives[0]

    def check(self, baseline: Trial) -> None:
        """Raises ConfigError where the baseline lacks a metric that the goal needs."""
        known = metrics_of(baseline)
        for metric in [o.metric for o in self.objectives] + [x.metric for x in self.limits]:
            if metric not in known:
                raise ConfigError(
                    f"The objective needs {metric}, which this target does not report here."
                    f"{nearest(metric, known)} It reports: {', '.join(sorted(known))}."
                )

    def losses(self, trial: Trial) -> tuple[float, ...] | None:
        """One number an objective, lower always better; None where the trial failed or lacks a metric."""
        if not isinstance(trial.outcome, Measured):
            return None
        samples = samples_of(trial)
        if any(not samples.get(o.metric) for o in self.objectives):
            return None
        return tuple(o.loss(o.of(samples[o.metric])) for o in self.objectives)

    def violations(self, trial: Trial, baseline: Trial) -> dict[str, float]:
        """The limits that a measured trial breaks, by metric, and by how much."""
        if not self.limits:
            return {}
        mine, theirs = samples_of(trial), samples_of(baseline)
        broken: dict[str, float] = {}
        for limit in self.limits:
            value = limit.of(mine[limit.metric]) if mine.get(limit.metric) else None
            base = limit.of(theirs[limit.metric]) if theirs.get(limit.metric) else None
            if (by := limit.violation(value, base)) > 0:
                broken[limit.metric] = broken.get(limit.metric, 0.0) + by
        return broken

    def score(self, trial: Trial, baseline: Trial) -> Score:
        losses = self.losses(trial)
        if losses is None:
            return Score(None, 1.0)
        return Score(losses, sum(self.violations(trial, baseline).values()))

    def best(self, trials: Iterable[Trial], baseline: Trial) -> Trial | None:
        """The feasible trial with the least first loss; the earliest of equals. None where no trial is feasible."""
        ranked = self.ranked(trials, baseline)
        return ranked[0] if ranked else None

    def ranked(self, trials: Iterable[Trial], baseline: Trial) -> list[Trial]:
        """The feasible trials, best first loss first."""
        scored = [(s.losses[0], t.number, t) for t in trials if (s := self.score(t, baseline)).feasible and s.losses]
        return [t for _, _, t in sorted(scored, key=lambda item: item[:2])]

    def front(self, trials: Iterable[Trial], baseline: Trial) -> list[Trial]:
        """The feasible trials that no other dominates, best first loss first; of equals the earliest."""
        scored = [(s.losses, t) for t in trials if (s := self.score(t, baseline)).feasible and s.losses]
        scored.sort(key=lambda item: (item[0], item[1].number))
        kept: list[tuple[tuple[float, ...], Trial]] = []
        for losses, trial in scored:
            if not any(known == losses or dominates(known, losses) for known, _ in kept):
                kept.append((losses, trial))
        return [t for _, t in kept]

    def formulas(self, baseline: Trial | None = None) -> list[str]:
        """The goal in words, for people: objectives, then limits (in numbers where the baseline is known)."""
        known = metrics_of(baseline) if baseline else {}
        return [str(o) for o in self.objectives] + [x.formula(known.get(x.metric)) for x in self.limits]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """At least as good everywhere and not the same."""
    return tuple(a) != tuple(b) and all(x <= y for x, y in zip(a, b, strict=True))


def direction_of(metric: str, stated: str | None) -> Direction:
    """The stated direction, or the one in which the metric is known to be better. Raises ConfigError without either."""
    if stated is not None:
        try:
            return Direction(stated)
        except ValueError:
            raise ConfigError(f"{metric}: '{stated}' is not a direction; write minimize or maximize.") from None
    match better(metric):
        case "lower":
            return Direction.MINIMIZE
        case "higher":
            return Direction.MAXIMIZE
    raise ConfigError(f"Which way is {metric} better? Say direction: minimize or maximize.")
