"""What do the samples say? Estimates with intervals, when to stop sampling, and verdicts; pure functions.

Timings are skewed, have outliers and rarely follow a normal law, so nothing here assumes one. The interval of a median
is the distribution-free one between order statistics: of n sorted readings, the k-th smallest and k-th largest hold
the median between them with probability 1 - 2·P(Bin(n, 1/2) < k) (Conover, Practical Nonparametric Statistics, 3.2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from statistics import median

CONFIDENCE = 0.95
FAR_WORSE = 3.0  # times the best
FEWEST = 6  # of fewer readings not even the smallest and largest hold the median with 95%


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median and the interval that holds it with 95% (of fewer than 6 readings: the smallest and largest)."""

    median: float
    low: float
    high: float
    n: int

    @property
    def rel_error(self) -> float:
        """Half the interval's width relative to the median; infinite where too few readings give no interval."""
        if self.n < FEWEST:
            return math.inf
        return (self.high - self.low) / 2 / abs(self.median) if self.median else math.inf


def estimate(samples: Sequence[float]) -> Estimate:
    """Raises ValueError where there are no samples."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    k = _rank(len(ordered))
    return Estimate(median(ordered), ordered[k - 1], ordered[len(ordered) - k], len(ordered))


@lru_cache(maxsize=4096)
def _rank(n: int) -> int:
    """The largest k ≥ 1 for which P(Bin(n, 1/2) < k) ≤ 2.5%; 1 where there is none."""
    tail = (1 - CONFIDENCE) / 2
    if n > 1000:  # the normal approximation is exact to one rank here
        return max(1, math.floor(n / 2 - 1.959964 * math.sqrt(n) / 2))
    below, k, total = 0, 0, 2**n
    while below + math.comb(n, k) <= tail * total:
        below += math.comb(n, k)
        k += 1
    return max(1, k)


def quantile(samples: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: the smallest reading that at least `share` of the readings do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def enough(samples: Sequence[float], rel_error: float) -> bool:
    """Whether the median is known to `rel_error` of itself."""
    return len(samples) >= FEWEST and estimate(samples).rel_error <= rel_error


def hopeless(losses: Sequence[float], best: Estimate | None, margin: float = 0.05) -> bool:
    """Whether these losses (lower is better) are worse than the best with high confidence: even the good end of their
    interval lies above the bad end of the best's, by `margin` of the best's median. Of a slow point two readings that
    are both over three times as bad are enough."""
    if best is None or not losses:
        return False
    if len(losses) < FEWEST:
        thrice = best.median * FAR_WORSE if best.median > 0 else best.median / FAR_WORSE
        return len(losses) > 1 and min(losses) > thrice
    return estimate(losses).low > best.high + margin * abs(best.median)


class Judgement(StrEnum):
    BETTER = "better"
    SAME = "same"
    WORSE = "worse"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a configuration compares with the baseline. `ratio` is the gain: above 1 is better, either direction."""

    metric: str
    ratio: float
    low: float
    high: float
    judgement: Judgement
    number: int  # the trial that was compared with number 0
    rounds: int = 0


def judge(gains: Sequence[float], metric: str, number: int, min_gain: float) -> Verdict:
    """The verdict of interleaved rounds, each giving one gain (winner over baseline, above 1 is better).

    Better means: the 95% interval of the median gain lies above 1 and the gain itself is at least `min_gain`
    (0.01 = 1%); worse mirrors it; all else is the same.
    """
    gain = estimate(gains)
    known = gain.n >= FEWEST
    if known and gain.low > 1 and gain.median >= 1 + min_gain:
        judgement = Judgement.BETTER
    elif known and gain.high < 1 and gain.median <= 1 / (1 + min_gain):
        judgement = Judgement.WORSE
    else:
        judgement = Judgement.SAME
    return Verdict(metric, gain.median, gain.low, gain.high, judgement, number, gain.n)
