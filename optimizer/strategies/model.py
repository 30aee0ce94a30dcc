"""Which configuration promises most? Bayesian optimisation over the valid configurations themselves.

After a few points that lie far apart, a Gaussian process (surrogate.py) is fitted to the logarithm of the loss, and the
unknown configuration with the largest expected improvement (Jones et al. 1998, eq. 15), times the chance that it
works, comes next. Where all valid configurations can be listed, all are looked at: no inner search loses any, and
constraints cost nothing. Else a pool of random ones is, with neighbours and children of the best.

Every other ask counts as an improvement only what beats the best by far (targets from modest to ambitious, Jones 2001):
it leaves a good region that still promises a little for one that may hide much.

Losses are taken as the logarithm of their ratio to the best, compressed beyond its lower quartile: what is ten times
slower than the best need not be told from what is twenty times slower. Failures and broken limits are learnt by a
second process, as 0 or 1. Configurations that are asked for and not yet told count as what the model
expects of them (Kriging believer, Ginsbourger et al. 2010). Several objectives are weighed anew at each ask (ParEGO,
Knowles 2006).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible, Rows
from optimizer.objective import Score
from optimizer.space import Float, Point
from optimizer.strategies.surrogate import Encoding, Floats, Outlook, Surrogate, Table

LISTED = 50_000  # configurations up to which all are looked at
POOL = 500  # random configurations looked at where not all can be
FRESH = 100  # of them drawn anew at each ask
ELITE = 5  # best ones whose neighbours and children are looked at
NEAR, BROOD = 800, 400  # neighbours and children of the best that are looked at
WIDEST = 64  # values of one knob that are tried on the best
SPREAD = 1000  # random configurations of which the farthest from all known ones starts the search
DOUBTFUL, LAST_RESORT = 0.1, 1e6  # what has a smaller chance to work comes after everything that has a larger one
AMBITION = 1.0  # standard deviations of the values by which every other ask wants the best beaten
TAIL = -4.0  # deviations below the best from which the asymptote of the expected improvement is taken
LABEL_SIGNAL, LABEL_NOISE = 0.25, 0.01  # variances of the process that learns what works: its labels are 0 and 1
LABEL_WEIGHT = 25.0  # most that a term weighs there: what works a fifth of a knob's range away still tells something


@dataclass(frozen=True)
class Offer:
    """Configurations to choose from: (m, columns) encoded, and which of them are unknown."""

    rows: Table
    free: NDArray[np.bool_]


class Candidates(Protocol):
    """The configurations that a search looks at."""

    def offer(self, best: Sequence[Point]) -> Offer:
        """`rows` is the same array as long as the same are looked at."""
        ...

    def point(self, index: int) -> Point:
        """What stands in a row of the last offer."""
        ...

    def take(self, point: Point) -> Table:
        """Its row; from now on it is known."""
        ...


class Listed:
    """All valid configurations."""

    def __init__(self, feasible: Feasible, encoding: Encoding) -> None:
        self._feasible = feasible
        self._rows = encoding.rows(feasible.rows)
        self._index = {row.tobytes(): i for i, row in enumerate(feasible.rows)}
        self._free = np.ones(len(self._rows), dtype=bool)

    def offer(self, best: Sequence[Point]) -> Offer:
        return Offer(self._rows, self._free)

    def point(self, index: int) -> Point:
        return self._feasible.point(self._feasible.rows[index])

    def take(self, point: Point) -> Table:
        index = self._index[self._feasible.row(point).tobytes()]
        self._free[index] = False
        return self._rows[index : index + 1]


class Bred:
    """Of a space too large to list: random configurations, neighbours of the best, and children of the best, with a
    few knobs of each changed. In a space of hundreds of knobs a random configuration is hardly ever good, and one knob
    is hardly ever enough."""

    def __init__(self, feasible: Feasible, encoding: Encoding, rng: Random) -> None:
        self._feasible, self._encoding, self._rng = feasible, encoding, rng
        self._sizes = np.array([k.domain.size for k in feasible.space.knobs])
        self._random = feasible.drawn(POOL, rng)
        self._known: set[bytes] = set()
        self._rows = self._random

    def offer(self, best: Sequence[Point]) -> Offer:
        self._random = np.concatenate([self._feasible.drawn(FRESH, self._rng), self._random])[:POOL]
        offered = [self._random]
        if best:
            elite = np.array([self._feasible.row(p) for p in best])
            offered += [self._neighbours(elite), self._children(elite)]
        rows = np.unique(np.concatenate(offered), axis=0)
        self._rows = rows[[row.tobytes() not in self._known for row in rows]]
        return Offer(self._encoding.rows(self._rows), np.ones(len(self._rows), dtype=bool))

    def _neighbours(self, elite: Rows) -> Rows:
        """Of each the configurations that differ in one knob; a random share of them where they are many."""
        moves = [(i, j) for i, size in enumerate(self._sizes) for j in range(min(size, WIDEST))]
        if len(moves) * len(elite) > NEAR:
            moves = self._rng.sample(moves, NEAR // len(elite))
        table = np.repeat(elite, len(moves), axis=0)
        knobs, values = np.array(moves).T
        table[np.arange(len(table)), np.tile(knobs, len(elite))] = np.tile(values, len(elite))
        return self._feasible.repaired(table)

    def _children(self, elite: Rows) -> Rows:
        """A mother, some knobs of a father, and some knobs changed: one on average, then two, four, eight."""
        rng = np.random.default_rng(self._rng.randrange(2**32))
        mothers, fathers = elite[rng.integers(len(elite), size=(2, BROOD))]
        table = np.where(rng.random(mothers.shape) < 0.5 * rng.integers(2, size=(BROOD, 1)), fathers, mothers)
        changed = rng.random(table.shape) < 2.0 ** rng.integers(4, size=(BROOD, 1)) / table.shape[1]
        table = np.where(changed, rng.integers(self._sizes, size=table.shape), table).astype(np.int32)
        return self._feasible.repaired(table)

    def point(self, index: int) -> Point:
        return self._feasible.point(self._rows[index])

    def take(self, point: Point) -> Table:
        row = self._feasible.row(point)
        self._known.add(row.tobytes())
        return self._encoding.rows(row[None])


class Drawn:
    """Of a space with continuous knobs: random configurations, renewed little by little, and neighbours of the best."""

    def __init__(self, feasible: Feasible, encoding: Encoding, rng: Random) -> None:
        self._feasible, self._encoding, self._rng = feasible, encoding, rng
        self._random: list[Point] = []
        self._known: set[Point] = set()
        self._offered: dict[Point, Table] = {}

    def offer(self, best: Sequence[Point]) -> Offer:
        drawn = [self._feasible.sample(self._rng) for _ in range(FRESH if self._random else POOL)]
        self._random = (drawn + self._random)[:POOL]
        near = [p for b in best for p in self._feasible.neighbours(b)]
        offered = [p for p in dict.fromkeys([*near, *self._random]) if p not in self._known]
        new = [p for p in offered if p not in self._offered]
        rows = dict(zip(new, self._encoding.points(new), strict=True)) if new else {}
        self._offered = {p: self._offered[p] if p in self._offered else rows[p] for p in offered}
        return Offer(np.array(list(self._offered.values()), dtype=np.float32), np.ones(len(offered), dtype=bool))

    def point(self, index: int) -> Point:
        return list(self._offered)[index]

    def take(self, point: Point) -> Table:
        self._known.add(point)
        return self._encoding.points([point])


def _candidates(feasible: Feasible, encoding: Encoding, rng: Random) -> Candidates:
    if any(isinstance(k.domain, Float) for k in feasible.space.knobs):
        return Drawn(feasible, encoding, rng)
    if feasible.enumerable and (feasible.count or 0) <= LISTED:
        return Listed(feasible, encoding)
    return Bred(feasible, encoding, rng)


class View:
    """What a process expects of the offered configurations; computes anew only what is new."""

    def __init__(self, surrogate: Surrogate, **fixed: float) -> None:
        self.surrogate, self._fixed = surrogate, fixed
        self._outlook: Outlook | None = None
        self._rows: Table | None = None
        self._observed: list[int] = []

    def fit(self, x: Table, y: Floats) -> None:
        self.surrogate.fit(x, y)
        self._outlook = None

    def posterior(
        self, known: Sequence[Table], observed: Sequence[int], values: Floats, at: Table
    ) -> tuple[Floats, Floats]:
        """Mean and deviation at `at`, of `known` the `observed`, the first of which have these values."""
        n = len(self._observed)
        if self._outlook is None or self._rows is not at or list(observed[:n]) != self._observed:
            self._outlook, self._rows, n = self.surrogate.outlook(at, **self._fixed), at, 0
        if new := observed[n:]:
            self._outlook.observe(np.concatenate([known[i] for i in new]))
        self._observed = list(observed)
        return self._outlook.posterior(values)


class ModelProposer:
    """`startup`: points that lie far apart before the model speaks. `refit`: its weights are fitted anew when the
    results have grown by this share, so that fitting stays cheap when they are many."""

    def __init__(
        self, feasible: Feasible, objectives: int, seed: int, *, startup: int = 8, refit: float = 0.06
    ) -> None:
        if startup < 2 or not refit >= 0:
            raise ConfigError("strategy.startup is at least 2 and strategy.refit not negative.")
        encoding = Encoding(feasible.space.knobs)
        self._startup, self._refit = startup, refit
        self._rng = np.random.default_rng(seed)
        self._candidates = _candidates(feasible, encoding, Random(f"pool {seed}"))
        self._speed = View(Surrogate(encoding))
        self._chance = View(Surrogate(encoding, LABEL_WEIGHT), signal=LABEL_SIGNAL, noise=LABEL_NOISE)
        self._objectives = objectives
        self._rows: list[Table] = []  # of every accepted point, in the order of acceptance
        self._points: list[Point] = []
        self._scores: dict[Point, Score] = {}
        self._fitted = 0  # results that the weights know of

    def propose(self) -> Point | None:
        offer = self._candidates.offer(self._best())
        if not offer.free.any():
            return None
        measured = sum(s.losses is not None for s in self._scores.values())
        if len(self._points) < self._startup or measured < 2:
            return self._candidates.point(self._farthest(offer))
        promise = np.where(offer.free, self._promise(offer.rows), -np.inf)
        return self._candidates.point(int(np.argmax(promise)))

    def refuse(self) -> None: ...

    def accept(self, point: Point) -> None:
        self._points.append(point)
        self._rows.append(self._candidates.take(point))

    def learn(self, point: Point, score: Score) -> None:
        self._scores[point] = score

    def _best(self) -> list[Point]:
        ranked = [(s.violation, s.losses, p.key, p) for p, s in self._scores.items() if s.losses is not None]
        return [p for *_, p in sorted(ranked)[:ELITE]]

    def _farthest(self, offer: Offer) -> int:
        """Of some random rows the one whose nearest known point is farthest (maximin distance, Johnson et al. 1990)."""
        unknown = np.flatnonzero(offer.free)
        some = self._rng.choice(unknown, min(SPREAD, len(unknown)), replace=False)
        if not self._rows:
            return int(some[0])
        known, rows = np.concatenate(self._rows), offer.rows[some]
        gaps = (rows**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2.0 * rows @ known.T
        return int(some[np.argmax(gaps.min(axis=1) + 1e-6 * self._rng.random(len(some)))])

    def _promise(self, rows: Table) -> Floats:
        """The logarithm of expected improvement times the chance to work, of each row."""
        told = [i for i, p in enumerate(self._points) if p in self._scores]
        scores = [self._scores[self._points[i]] for i in told]
        measured = [i for i, s in zip(told, scores, strict=True) if s.losses is not None]
        works = np.array([s.feasible for s in scores], dtype=float)
        values = self._values([s.losses for s in scores if s.losses is not None])
        rate = (works.sum() + 1.0) / (len(works) + 2.0)
        if len(told) >= max(self._fitted + 1, self._fitted * (1.0 + self._refit)):
            self._speed.fit(self._table(measured), values)
            if not works.all():
                self._chance.fit(self._table(told), (works - rate) / math.sqrt(rate * (1.0 - rate)))
            self._fitted = len(told)
        fine = [v for v, s in zip(values, [s for s in scores if s.losses is not None], strict=True) if s.feasible]
        waiting = [i for i, p in enumerate(self._points) if p not in self._scores]
        mean, deviation = self._speed.posterior(self._rows, [*measured, *waiting], values, rows)
        ambitious = self._objectives == 1 and len(self._points) % 2 == 1  # several objectives move the target anyway
        target = min(fine, default=0.0) - (AMBITION if ambitious else 0.0)
        promise = log_expected_improvement(mean, deviation, target) if fine else np.zeros(len(rows))
        if not works.all():
            off, unsure = self._chance.posterior(self._rows, told, works - rate, rows)
            chance = normal_share((rate + off - 0.5) / unsure)
            promise = promise + np.log(np.maximum(chance, 1e-300)) - np.where(chance < DOUBTFUL, LAST_RESORT, 0.0)
        return np.asarray(promise + 1e-9 * self._rng.random(len(rows)))

    def _table(self, indices: Sequence[int]) -> Table:
        return np.concatenate([self._rows[i] for i in indices])

    def _values(self, losses: Sequence[Sequence[float]]) -> Floats:
        """One number for each point, mean 0 and variance 1, lower is better."""
        columns = [compressed(np.array(column)) for column in zip(*losses, strict=True)]
        if len(columns) > 1:
            weights = self._rng.dirichlet(np.ones(len(columns)))
            scaled = np.array([c / (c.max() or 1.0) for c in columns]) * weights[:, None]
            column = scaled.max(axis=0) + 0.05 * scaled.sum(axis=0)
        else:
            column = columns[0]
        return np.asarray((column - column.mean()) / (column.std() + 1e-9))


def compressed(losses: Floats) -> Floats:
    """0 for the best; the logarithm of the ratio to it, itself compressed beyond its lower quartile.

    Losses of one sign are ratios (a maximised metric has negative ones); others are differences.
    """
    if (losses > 0).all():
        off = np.log(losses)
    elif (losses < 0).all():
        off = -np.log(-losses)
    else:
        off = losses
    off = off - off.min()
    return np.asarray(np.log1p(off / (np.quantile(off, 0.25) or np.median(off) or off.max() or 1.0)))


def log_expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Below `best`, of normal distributions (Jones et al. 1998, eq. 15). The logarithm, since the improvement itself
    vanishes where nothing better is expected, and then all would look alike (Ament et al. 2023)."""
    gap = (best - mean) / deviation
    log_density = -0.5 * gap**2 - 0.5 * math.log(2.0 * math.pi)
    near = np.maximum(gap, TAIL)
    inside = near * normal_share(near) + np.exp(-0.5 * near**2) / math.sqrt(2.0 * math.pi)
    beyond = np.maximum(-gap, -TAIL)
    series = (-3.0 + (15.0 - 105.0 / beyond**2) / beyond**2) / beyond**2  # of Mills' ratio
    far = log_density - 2.0 * np.log(beyond) + np.log1p(series)
    return np.asarray(np.log(deviation) + np.where(gap > TAIL, np.log(np.maximum(inside, 1e-300)), far))


def normal_share(z: Floats) -> Floats:
    """The standard normal distribution's share below z, within 7.5e-8 (Abramowitz and Stegun 1964, 26.2.17)."""
    t = 1.0 / (1.0 + 0.2316419 * np.abs(z))
    series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    above = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi) * series
    return np.asarray(np.where(z >= 0, 1.0 - above, above))
