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
from itertools import accumulate, pairwise
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


def floor_pct(gain: Estimate) -> float:
    """How far a ratio must lie from 1, in percent, to be told from it, where `gain` is that of a program over itself:
    the farther end of its interval. Infinite where too few rounds give no interval."""
    return 100 * (max(gain.high, 1 / gain.low) - 1) if gain.n >= FEWEST and gain.low > 0 else math.inf


def apart(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether two sets of readings have different medians with high confidence: their intervals share nothing."""
    if min(len(before), len(after)) < FEWEST:
        return False
    one, other = estimate(before), estimate(after)
    return one.high < other.low or other.high < one.low


@dataclass(frozen=True, slots=True)
class Modes:
    """Readings that lie around two values: the median of each heap, and the share of the readings in the upper one."""

    low: float
    high: float
    upper_share: float


def modes(samples: Sequence[float]) -> Modes | None:
    """The two heaps in which readings lie, where one heap can't explain them: the dip test at 0.1 %.

    Hartigan and Hartigan, The Dip Test of Unimodality, Annals of Statistics 13(1), 1985: the farthest that the
    readings' distribution lies from the nearest one with a single mode, held against what uniform readings reach, of
    all distributions with one mode the hardest to tell. The heaps are split where their sum of squares is smallest.
    """
    ordered = sorted(samples)
    n = len(ordered)
    if n < FEWEST_FOR_MODES or dip(ordered) * math.sqrt(n) <= _dip_limit(n):
        return None
    sums = list(accumulate(ordered))

    def explained(k: int) -> float:  # the sum of squares that a split before reading k leaves is a constant less this
        left, right = sums[k - 1], sums[-1] - sums[k - 1]
        return left * left / k + right * right / (n - k)

    at = max(range(1, n), key=explained)
    return Modes(median(ordered[:at]), median(ordered[at:]), (n - at) / n)


FEWEST_FOR_MODES = 12
_DIP_LIMITS = ((12, 0.579), (16, 0.605), (24, 0.631), (50, 0.652), (100, 0.682), (400, 0.716), (1000, 0.722))
"""Of n uniform readings the 99.9% quantile of the dip times √n (experiments/noise/thresholds.py)."""


def _dip_limit(n: int) -> float:
    for (few, low), (many, high) in pairwise(_DIP_LIMITS):
        if n <= many:
            return low + (high - low) * (math.log(n) - math.log(few)) / (math.log(many) - math.log(few))
    return _DIP_LIMITS[-1][1]


def dip(ordered: Sequence[float]) -> float:
    """The dip of sorted readings: how far their distribution lies from the nearest one with a single mode (Hartigan,
    Computation of the Dip Statistic, Applied Statistics 34(3), 1985, algorithm AS 217; here in units of 1/(2n) until
    the last line). At least 1/(2n)."""
    n = len(ordered)
    low, high, found = 0, n - 1, 1.0
    if n < 2 or ordered[0] == ordered[-1]:
        return found / (2 * max(n, 1))
    below, above = _minorant(ordered), _majorant(ordered)
    while True:
        lower, upper = _chain(below, high, low), _chain(above, low, high)
        widest, i, j = _widest(ordered, lower, upper)
        if widest < found:
            break
        found = max(found, _reach(ordered, lower[i:], below=True), _reach(ordered, upper[j:], below=False))
        if (low, high) == (lower[i], upper[j]):
            break
        low, high = lower[i], upper[j]
    return found / (2 * n)


def _minorant(x: Sequence[float]) -> list[int]:
    """For each reading the one before it on the greatest convex minorant of the distribution up to it."""
    found = [0] * len(x)
    for j in range(1, len(x)):
        found[j] = j - 1
        while (here := found[j]) != 0:
            before = found[here]
            if (x[j] - x[here]) * (here - before) < (x[here] - x[before]) * (j - here):
                break
            found[j] = before
    return found


def _majorant(x: Sequence[float]) -> list[int]:
    """For each reading the one after it on the least concave majorant of the distribution from it on."""
    last = len(x) - 1
    found = [last] * len(x)
    for k in range(last - 1, -1, -1):
        found[k] = k + 1
        while (here := found[k]) != last:
            after = found[here]
            if (x[k] - x[here]) * (here - after) < (x[here] - x[after]) * (k - here):
                break
            found[k] = after
    return found


def _chain(next_: Sequence[int], start: int, end: int) -> list[int]:
    """The corners from one reading to another."""
    found = [start]
    while (start > end and found[-1] > end) or (start < end and found[-1] < end):
        found.append(next_[found[-1]])
    return found


def _widest(x: Sequence[float], lower: Sequence[int], upper: Sequence[int]) -> tuple[float, int, int]:
    """The greatest distance between minorant and majorant, and the corners of each where it lies."""
    i, j = len(lower) - 1, len(upper) - 1
    if i == 1 and j == 1:
        return 1.0, i, j
    at, other, widest = i - 1, 1, 0.0
    while True:
        if lower[at] > upper[other]:  # the next corner is one of the majorant
            left, right = lower[at + 1], lower[at]
            slope = (right - left) / (x[right] - x[left])
            distance = upper[other] - left + 1 - (x[upper[other]] - x[left]) * slope
            other += 1
            if distance >= widest:
                widest, i, j = distance, at + 1, other - 1
        else:
            left, right = upper[other - 1], upper[other]
            slope = (right - left) / (x[right] - x[left])
            distance = (x[lower[at]] - x[left]) * slope - (lower[at] - left - 1)
            at -= 1
            if distance >= widest:
                widest, i, j = distance, at + 1, other
        at, other = max(at, 0), min(other, len(upper) - 1)
        if lower[at] == upper[other]:
            return widest, i, j


def _reach(x: Sequence[float], corners: Sequence[int], *, below: bool) -> float:
    """How far the distribution lies from the straight lines between corners, at the most."""
    farthest = 0.0
    for pair in pairwise(corners):
        start, end = min(pair), max(pair)
        reach = 1.0
        if end - start > 1 and x[start] != x[end]:
            slope = (end - start) / (x[end] - x[start])
            for k in range(start, end + 1):
                line = (x[k] - x[start]) * slope
                reach = max(reach, k - start + 1 - line if below else line - (k - start - 1))
        farthest = max(farthest, reach)
    return farthest


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
