"""How sure is a difference? Intervals and tests that need no table and no normal law, seeded so that they repeat.

Sources: the percentile bootstrap (Efron and Tibshirani 1993, ch. 13); the test of Kruskal and Wallis (1952), its χ²
tail by Wilson and Hilferty (1931); epsilon squared, the share of variance between groups less what chance alone gives
(Kelley 1935), here of ranks, so that one far reading does not hide what all others say; Holm's correction for many
tests (Holm 1979); Spearman's rank correlation with its permutation variance 1/(n − 1); Welch's degrees of freedom
(Welch 1947) for a ratio of means by the delta method on logarithms; the quantile of Student's t by the expansion
26.7.5 of Abramowitz and Stegun. SciPy would have them too; it is no dependency.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.trial import Summary

Floats = NDArray[np.float64]
Z = NormalDist().inv_cdf(0.975)
WORK = 1_500_000  # numbers that one test may draw
MOST, LEAST = 1999, 199  # resamples


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_one(self) -> bool:
        return self.low > 1 or self.high < 1


@dataclass(frozen=True, slots=True)
class Effect:
    """What a knob does to a metric. `ratio`: the median at its highest level over that at its lowest."""

    share: Interval  # of the variance of the ranks that the knob explains, 0 to 1
    ratio: Interval
    lowest: str
    highest: str
    p: float
    n: int


def resamples(n: int) -> int:
    return max(LEAST, min(MOST, WORK // max(1, n)))


def t_quantile(dof: float) -> float:
    """The 97.5% quantile of Student's t; exact to 1% from 3 degrees of freedom on."""
    if dof < 3:
        return {1: 12.706, 2: 4.303}[max(1, math.floor(dof))]
    z = Z
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / dof + g2 / dof**2 + g3 / dof**3


def ratio_of_means(a: Summary, b: Summary) -> Interval | None:
    """mean(a) / mean(b) from means, deviations and numbers of readings; None where one of them was not told."""
    if a.mean is None or b.mean is None or a.sd is None or b.sd is None or not a.n or not b.n:
        return None
    if min(a.mean, b.mean) <= 0 or min(a.n, b.n) < 2:
        return None
    parts = [(s.sd / s.mean) ** 2 / s.n for s in (a, b) if s.sd is not None and s.mean and s.n]
    variance = sum(parts)
    ratio = a.mean / b.mean
    if variance == 0:
        return Interval(ratio, ratio, ratio)
    dof = variance**2 / sum(p**2 / (s.n - 1) for p, s in zip(parts, (a, b), strict=True) if s.n)
    half = t_quantile(dof) * math.sqrt(variance)
    return Interval(ratio, ratio * math.exp(-half), ratio * math.exp(half))


def ratio_of_medians(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """median(a) / median(b) with a bootstrap interval."""
    first, second = np.asarray(a, float), np.asarray(b, float)
    rng, times = np.random.default_rng(seed), resamples(len(a) + len(b))
    drawn = _medians(first, rng, times) / _medians(second, rng, times)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(np.median(first) / np.median(second)), float(low), float(high))


def _medians(values: Floats, rng: np.random.Generator, times: int) -> Floats:
    return np.asarray(np.median(values[rng.integers(0, len(values), (times, len(values)))], axis=1))


def effect(values: Sequence[float], levels: Sequence[Any], seed: int = 0) -> Effect:
    """How a knob's levels differ in a positive metric. Each level should have two values or more."""
    array = np.asarray(values, float)
    names = {name: i for i, name in enumerate(dict.fromkeys(map(str, levels)))}
    codes = np.array([names[str(level)] for level in levels])
    rng, times = np.random.default_rng(seed), resamples(len(array))
    ranked = ranks(array)
    seen = float(_shares([ranked[codes == c][None] for c in range(len(names))])[0])
    p = kruskal_wallis(array, codes, len(names))
    medians = [float(np.median(array[codes == c])) for c in range(len(names))]
    low, high = int(np.argmin(medians)), int(np.argmax(medians))
    drawn = [(g := np.flatnonzero(codes == c))[rng.integers(0, len(g), (times, len(g)))] for c in range(len(names))]
    shares = _shares([ranked[d] for d in drawn])
    ratios = np.median(array[drawn[high]], axis=1) / np.median(array[drawn[low]], axis=1)
    spread = np.quantile(shares, [0.025, 0.975])
    span = np.quantile(ratios, [0.025, 0.975])
    by_code = {i: name for name, i in names.items()}
    return Effect(
        Interval(max(0.0, seen), max(0.0, float(spread[0])), max(0.0, float(spread[1]))),
        Interval(medians[high] / medians[low], float(span[0]), float(span[1])),
        by_code[low],
        by_code[high],
        p,
        len(array),
    )


def _shares(groups: Sequence[Floats]) -> Floats:
    """Epsilon squared of many resamples at once, each group (resamples, values): the share of the variance that lies
    between the groups, less what chance gives; below 0 where it is less."""
    n, k = sum(g.shape[1] for g in groups), len(groups)
    sums = [g.sum(axis=1) for g in groups]
    level = np.sum(sums, axis=0) ** 2 / n
    total = np.sum([(g**2).sum(axis=1) for g in groups], axis=0) - level
    between = np.sum([a**2 / g.shape[1] for a, g in zip(sums, groups, strict=True)], axis=0) - level
    if n <= k:
        return np.zeros(len(level))
    share = (between - (k - 1) * (total - between) / (n - k)) / np.where(total > 0, total, 1.0)
    return np.asarray(np.where(total > 0, share, 0.0))


def kruskal_wallis(values: Floats, codes: NDArray[np.int64], groups: int) -> float:
    """The p of the hypothesis that no group differs, by ranks, corrected for ties."""
    n, rank = len(values), ranks(values)
    counts = np.bincount(codes, minlength=groups)
    sums = np.bincount(codes, weights=rank, minlength=groups)
    used = counts > 0
    h = 12 / (n * (n + 1)) * float(np.sum(sums[used] ** 2 / counts[used])) - 3 * (n + 1)
    ties = np.unique(rank, return_counts=True)[1].astype(float)
    correction = 1 - float(np.sum(ties**3 - ties)) / (n**3 - n)
    return chi_square_tail(h / correction, int(used.sum()) - 1) if correction > 0 else 1.0


def chi_square_tail(x: float, dof: int) -> float:
    """P(χ² > x), by the cube root that is nearly normal (exact to about 0.01)."""
    if x <= 0 or dof < 1:
        return 1.0
    spread = 2 / (9 * dof)
    return 1 - NormalDist().cdf(((x / dof) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """The p values, corrected for how many there are."""
    ordered, found, highest = sorted(ps.items(), key=lambda item: item[1]), {}, 0.0
    for i, (name, p) in enumerate(ordered):
        highest = max(highest, min(1.0, p * (len(ordered) - i)))
        found[name] = highest
    return found


def spearman(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The rank correlation and its two-sided p (normal approximation, fair from 8 pairs on)."""
    x, y = ranks(a), ranks(b)
    if x.std() == 0 or y.std() == 0:
        return 0.0, 1.0
    rho = float(np.corrcoef(x, y)[0, 1])
    return rho, 2 * (1 - NormalDist().cdf(abs(rho) * math.sqrt(len(x) - 1)))


def ranks(values: Sequence[float] | Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    array = np.asarray(values, float)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse], float)
