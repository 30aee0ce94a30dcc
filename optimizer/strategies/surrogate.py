"""What does a Gaussian process expect of a configuration, and how sure is it?

The kernel is Matérn-5/2 (Rasmussen and Williams 2006, eq. 4.17) of a distance that adds up over features,

    r² = Σ aₚ (xₚ − x'ₚ)²  +  Σ hₚ [cₚ ≠ c'ₚ]

Ordered knobs have an ordinal feature; knobs with several values or without an order have a category as well: a tile of
48 may behave like one of 40 or 56, or like none of its neighbours; the data say which. Two more kinds come from what
compiled code is like: how often a whole number can be halved (alignment, vectors and warps ask for powers of two), and
the product of two positive knobs (threads of a block, elements of a tile), as a sum of logarithms. The weights aₚ, hₚ,
the signal and the noise maximise the posterior of the data (ibid., eq. 5.8, with log-normal priors), so a feature that
tells nothing fades.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.space import Float, Knob, Value, is_number, place

Floats = NDArray[np.float64]
Numbers = NDArray[np.floating[Any]]
Table = NDArray[np.float32]
Ints = NDArray[np.intp]

HAMMING_FROM = 4  # values from which an ordered knob has a category too
LOG_FROM = 4.0  # ratio of the largest to the smallest value from which positive numbers are taken as logarithmic
MOST_PRODUCTS = 28  # of two knobs; of more than 8 knobs none are made
MOST_TERMS = 32  # with a weight of their own; beyond that those that tell least share one
SQRT5 = math.sqrt(5.0)

# Means and standard deviations of the priors of the logarithms.
ORDINAL, CATEGORY, DERIVED, TERM_SD = math.log(2.0), math.log(0.3), math.log(1.0), 1.5
SIGNAL, SIGNAL_SD = 0.0, 1.0
NOISE, NOISE_SD = math.log(1e-3), 1.5
JITTER = 1e-6
FIT_STEPS = 20


class Encoding:
    """Configurations as rows of numbers whose weighted squared distances are the kernel's r².

    A category is a block of columns, one for each value, of which one is √½ and the others 0: two that differ are
    1 apart. `term` names the weight of each column.
    """

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self._knobs = tuple(knobs)
        ordinal = [k for k in knobs if k.domain.size != 1 and (k.domain.ordered or _two(k))]
        finite = {k.name: k for k in knobs if not isinstance(k.domain, Float) and k.domain.size > 1}
        self._ordinal = [(k, _lookup(_scaled(k))) for k in ordinal]
        self._derived = [(k, _lookup(halvings)) for k in finite.values() if (halvings := _halvings(k)) is not None]
        logs = {k: log for k in finite.values() if (log := _logarithms(k)) is not None}
        pairs = list(combinations(logs, 2))
        self._products = [] if len(pairs) > MOST_PRODUCTS else [(a, b, logs[a], logs[b]) for a, b in pairs]
        self._categories = [k for k in knobs if _has_categories(k)]
        widths = [(k.domain.size or 0) + 1 for k in self._categories]
        numbers = len(self._ordinal) + len(self._derived) + len(self._products)
        blocks = [np.full(width, numbers + i) for i, width in enumerate(widths)]
        self.term: Ints = np.concatenate([np.arange(numbers), *blocks]).astype(np.intp)
        means = [ORDINAL if k.domain.ordered else CATEGORY for k in ordinal] + [DERIVED] * (
            numbers - len(self._ordinal)
        )
        self.prior: Floats = np.array(means + [CATEGORY] * len(widths))
        self._starts = numbers + np.concatenate([[0], np.cumsum(widths)]).astype(int)

    @property
    def terms(self) -> int:
        return len(self.prior)

    def rows(self, indices: NDArray[np.int32]) -> Table:
        """Of a table of the values' indices, -1 for a knob that is not active (Feasible.rows)."""
        column = {k.name: indices[:, i] for i, k in enumerate(self._knobs)}
        out = np.zeros((len(indices), len(self.term)), dtype=np.float32)
        at = 0
        for knob, table in (*self._ordinal, *self._derived):
            out[:, at] = table[column[knob.name]]
            at += 1
        for a, b, of_a, of_b in self._products:
            out[:, at] = _product(of_a[column[a.name]], of_b[column[b.name]], of_a, of_b)
            at += 1
        for start, knob in zip(self._starts, self._categories, strict=False):
            out[np.arange(len(indices)), start + column[knob.name] + 1] = math.sqrt(0.5)
        return out

    def points(self, points: Sequence[Mapping[str, Value]]) -> Table:
        """(points, columns) of points, which may have continuous knobs."""
        indices = [[_index(k, p) for k in self._knobs] for p in points]
        out = self.rows(np.array(indices, dtype=np.int32).reshape(len(points), len(self._knobs)))
        for at, (knob, _) in enumerate(self._ordinal):
            if isinstance(knob.domain, Float):
                out[:, at] = [place(knob, p[knob.name]) if knob.name in p else 0.5 for p in points]
        return out


def _index(knob: Knob, point: Mapping[str, Value]) -> int:
    if knob.name not in point:
        return -1
    return 0 if isinstance(knob.domain, Float) else knob.domain.index(point[knob.name])


def _has_categories(knob: Knob) -> bool:
    size = knob.domain.size
    if size is None or size == 1:
        return size == 1 and knob.when is not None
    return knob.when is not None or size >= HAMMING_FROM or not (knob.domain.ordered or _two(knob))


def _two(knob: Knob) -> bool:
    """A switch is either way, which a single number tells, unless a condition adds a third way."""
    return knob.domain.size == 2 and knob.when is None


def _values(knob: Knob) -> list[Value]:
    assert not isinstance(knob.domain, Float)
    return [knob.domain.at(i) for i in range(knob.domain.size)]


def _lookup(places: Floats | None) -> Floats:
    """Of each value; the last entry, which index -1 finds, is for a knob that is not active: the middle."""
    return np.append(np.zeros(1) if places is None else places, 0.5)


def _scaled(knob: Knob) -> Floats | None:
    """0 to 1: by the number, or its logarithm where numbers span a large ratio; by rank where values are no numbers."""
    if isinstance(knob.domain, Float):
        return None
    values = _values(knob)
    if not all(is_number(v) for v in values):
        return np.array([place(knob, v) for v in values])
    numbers = np.array([float(v) for v in values])
    if numbers.min() > 0 and numbers.max() / numbers.min() >= LOG_FROM:
        numbers = np.log2(numbers)
    return _from_0_to_1(numbers)


def _from_0_to_1(numbers: Floats) -> Floats:
    return np.asarray((numbers - numbers.min()) / (np.ptp(numbers) or 1.0))


def _positive_whole(knob: Knob) -> list[int] | None:
    values = [v for v in _values(knob) if isinstance(v, int) and not isinstance(v, bool) and v > 0]
    return values if len(values) == knob.domain.size else None


def _halvings(knob: Knob) -> Floats | None:
    """How often each value can be halved; None where that is all but its logarithm, or never differs."""
    values = _positive_whole(knob)
    if values is None:
        return None
    counts = np.array([(v & -v).bit_length() - 1.0 for v in values])
    return None if np.ptp(counts) == 0 or np.allclose(counts, np.log2(values)) else _from_0_to_1(counts)


def _logarithms(knob: Knob) -> Floats | None:
    values = _positive_whole(knob)
    return None if values is None else np.append(np.log2(values), np.mean(np.log2(values)))


def _product(a: Floats, b: Floats, of_a: Floats, of_b: Floats) -> Floats:
    low, high = of_a.min() + of_b.min(), of_a.max() + of_b.max()
    return np.asarray((a + b - low) / ((high - low) or 1.0))


def _matern(r2: Numbers) -> tuple[Numbers, Numbers]:
    """The kernel of a unit signal, and its derivative by r²."""
    r = np.sqrt(np.maximum(r2, 0.0))
    e = np.exp(-SQRT5 * r)
    return (1.0 + SQRT5 * r + 5.0 / 3.0 * r2) * e, -5.0 / 6.0 * (1.0 + SQRT5 * r) * e


@dataclass(frozen=True)
class Weights:
    """Logarithms of the kernel's parameters."""

    terms: Floats
    signal: float = SIGNAL
    noise: float = NOISE


class Surrogate:
    """A Gaussian process over encoded configurations."""

    def __init__(self, encoding: Encoding, most: float = math.inf) -> None:
        """`most`: that a term may weigh. A step, as from working to failing, has no width, and would be taken for a
        function that nothing can be told of between two points."""
        self._encoding, self._most = encoding, math.log(most)
        self._weights = Weights(encoding.prior.copy())

    def fit(self, x: Table, y: Floats, steps: int = FIT_STEPS) -> None:
        """Weights for (n, columns) configurations, (n,) values of mean 0 and variance 1; starts from the last ones."""
        groups = self._groups(x, y)
        squares = self._squares(x, groups)
        prior = np.array([self._encoding.prior[groups == g].mean() for g in range(len(squares))])
        start = np.array([self._weights.terms[groups == g].mean() for g in range(len(squares))])
        means = np.concatenate([prior, [SIGNAL, NOISE]])
        sds = np.concatenate([np.full(len(prior), TERM_SD), [SIGNAL_SD, NOISE_SD]])
        vector = np.concatenate([start, [self._weights.signal, self._weights.noise]])
        found = _descended(vector, squares, y, means, sds, steps)
        self._weights = Weights(np.minimum(found[:-2], self._most)[groups], float(found[-2]), float(found[-1]))

    def _groups(self, x: Table, y: Floats) -> Ints:
        """(terms,) → its weight: its own, or, of many, the one that those share which tell least of y by themselves."""
        count = self._encoding.terms
        if count <= MOST_TERMS:
            return np.arange(count)
        told = np.zeros(count)
        centred = x - x.mean(axis=0)
        scale = np.sqrt((centred**2).sum(axis=0)) * math.sqrt(float((y**2).sum())) + 1e-9
        np.maximum.at(told, self._encoding.term, np.abs(centred.T @ y) / scale)
        groups = np.full(count, MOST_TERMS - 1)
        groups[np.argsort(-told, kind="stable")[: MOST_TERMS - 1]] = np.arange(MOST_TERMS - 1)
        return groups

    def _squares(self, x: Table, groups: Ints) -> Floats:
        """(weights, n, n): what each adds to r² before weighting."""
        wide = x.astype(float)
        out = np.zeros((int(groups.max()) + 1, len(x), len(x)))
        for g in range(len(out)):
            part = wide[:, groups[self._encoding.term] == g]
            norms = (part**2).sum(axis=1)
            out[g] = np.maximum(norms[:, None] + norms - 2.0 * part @ part.T, 0.0)
        return out

    def outlook(self, at: Table, *, signal: float | None = None, noise: float | None = None) -> "Outlook":
        """At (m, columns) configurations, before anything is observed."""
        return Outlook(
            np.sqrt(np.exp(self._weights.terms))[self._encoding.term].astype(np.float32),
            math.exp(self._weights.signal) if signal is None else signal,
            math.exp(self._weights.noise) if noise is None else noise,
            at,
        )


class Outlook:
    """The posterior at fixed configurations (ibid., eq. 2.23 and 2.24), which grows with what is observed.

    With L Lᵀ the covariance of the observed and V = L⁻¹ k(observed, at), the mean is Vᵀ L⁻¹ y and the variance
    k − Σ V²: an observation appends a row to each, and nothing is computed twice. An observation whose value is not
    known yet counts as what is expected of it: a 0 in L⁻¹ y.
    """

    def __init__(self, scale: Table, signal: float, noise: float, at: Table) -> None:
        self._scale, self._signal, self._noise = scale, signal, noise
        self._at = at * scale
        self._norms = (self._at**2).sum(axis=1)
        self._observed = np.zeros((0, at.shape[1]), dtype=np.float32)
        self._inverse = np.zeros((0, 0))  # L⁻¹
        self._reached = np.zeros((64, len(at)), dtype=np.float32)  # V, in its first rows
        self._variance = np.full(len(at), signal, dtype=np.float32)

    def observe(self, rows: Table) -> None:
        """(n, columns) more."""
        new, old = rows * self._scale, self._observed
        n, m = len(old), len(old) + len(new)
        own = self._signal * _matern(_distances(new.astype(float), new.astype(float)))[0]
        own += (self._noise + JITTER) * np.eye(len(new))
        across = self._signal * _matern(_distances(new.astype(float), old.astype(float)))[0] @ self._inverse.T
        corner = np.linalg.inv(_cholesky(own - across @ across.T))
        inverse = np.zeros((m, m))
        inverse[:n, :n], inverse[n:, n:] = self._inverse, corner
        inverse[n:, :n] = -corner @ across @ self._inverse
        if m > len(self._reached):
            self._reached = np.concatenate([self._reached, np.zeros((max(64, m), len(self._at)), dtype=np.float32)])
        gaps = np.maximum((new**2).sum(axis=1)[:, None] + self._norms - 2.0 * (new @ self._at.T), 0.0)
        kernel = np.float32(self._signal) * _covariance(gaps)
        kernel -= across.astype(np.float32) @ self._reached[:n]
        self._reached[n:m] = corner.astype(np.float32) @ kernel
        self._variance -= (self._reached[n:m] ** 2).sum(axis=0)
        self._observed, self._inverse = np.concatenate([old, new]), inverse

    def posterior(self, values: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation at each configuration; `values` are those of the first observed."""
        n = len(values)
        mean = (self._inverse[:n, :n] @ values).astype(np.float32) @ self._reached[:n]
        return mean.astype(float), np.sqrt(np.maximum(self._variance, 1e-9)).astype(float)


def _covariance(r2: Table) -> Table:
    """Of a unit signal; overwrites its argument."""
    r = np.sqrt(5.0 * r2)
    r2 *= 5.0 / 3.0
    r2 += 1.0 + r
    np.negative(r, out=r)
    r2 *= np.exp(r, out=r)
    return r2


def _distances(a: Numbers, b: Numbers) -> Numbers:
    return np.asarray(np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * (a @ b.T), 0.0))


def _cholesky(matrix: Numbers) -> Numbers:
    """Of a matrix that is positive definite but for rounding."""
    added = 0.0
    while True:
        try:
            return np.linalg.cholesky(matrix + added * np.eye(len(matrix)))
        except np.linalg.LinAlgError:
            added = max(JITTER, 10.0 * added)


def _descended(vector: Floats, squares: Floats, y: Floats, means: Floats, sds: Floats, steps: int) -> Floats:
    """The best vector met on a descent by the signs of the gradient (iRprop−, Igel and Hüsken 2003)."""
    step, last = np.full(len(vector), 0.2), np.zeros(len(vector))
    best, least = vector, math.inf
    for remaining in range(steps, -1, -1):
        value, gradient = _loss(vector, squares, y, means, sds)
        if value < least:
            best, least = vector.copy(), value
        if remaining:
            turn = gradient * last
            step = np.where(turn > 0, np.minimum(step * 1.3, 1.0), np.where(turn < 0, step * 0.5, step))
            last = np.where(turn < 0, 0.0, gradient)
            vector = vector - np.sign(last) * step
    return best


def _loss(vector: Floats, squares: Floats, y: Floats, means: Floats, sds: Floats) -> tuple[float, Floats]:
    """The negative logarithm of the posterior of the weights, and its gradient."""
    weights, signal, noise = np.exp(vector[:-2]), math.exp(vector[-2]), math.exp(vector[-1])
    kernel, slope = _matern(np.tensordot(weights, squares, 1))
    try:
        lower = np.linalg.cholesky(signal * kernel + (noise + JITTER) * np.eye(len(y)))
    except np.linalg.LinAlgError:
        return math.inf, np.zeros_like(vector)
    half = np.linalg.inv(lower)
    inverse = half.T @ half
    alpha = inverse @ y
    off = (vector - means) / sds
    value = 0.5 * float(y @ alpha) + float(np.log(np.diag(lower)).sum()) + 0.5 * float(off @ off)
    pull = np.outer(alpha, alpha) - inverse  # of which half, times a derivative of the kernel, is the gradient's trace
    gradient = np.empty_like(vector)
    gradient[:-2] = -0.5 * np.tensordot(squares, pull * signal * slope, 2) * weights
    gradient[-2] = -0.5 * float((pull * signal * kernel).sum())
    gradient[-1] = -0.5 * float(np.trace(pull)) * noise
    return value, gradient + off / sds


def compressed(losses: Floats, scale: float | None = None) -> Floats:
    """0 for the best; the logarithm of the ratio to it, itself compressed beyond `scale`, their lower quartile.

    Losses of one sign are ratios (a maximised metric has negative ones); others are differences.
    """
    off = _off(losses)
    return np.asarray(np.log1p(off / (quartile(losses) if scale is None else scale)))


def quartile(losses: Floats) -> float:
    """Of what `compressed` compresses; above 0."""
    off = _off(losses)
    return float(np.quantile(off, 0.25) or np.median(off) or off.max() or 1.0)


def _off(losses: Floats) -> Floats:
    if (losses > 0).all():
        off = np.log(losses)
    elif (losses < 0).all():
        off = -np.log(-losses)
    else:
        off = losses
    return np.asarray(off - off.min())
