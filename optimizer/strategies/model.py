"""Which configuration promises most? Bayesian optimisation over the valid configurations themselves.

After a few points that lie far apart, a Gaussian process (surrogate.py) is fitted to the logarithm of the loss, and the
unknown configuration with the largest expected improvement (Jones et al. 1998, eq. 15), times the chance that it
works, comes next. Where all valid configurations can be listed, all are looked at: no inner search loses any, and
constraints cost nothing. Else a pool of random ones is, with the neighbours of the best.

Losses are taken as the logarithm of their ratio to the best, compressed beyond its median: what is ten times slower
than the best need not be told from what is twenty times slower. Failures and broken limits are learnt by a
second process, as 0 or 1. Configurations that are asked for and not yet told count as what the model
expects of them (Kriging believer, Ginsbourger et al. 2010). Several objectives are weighed anew at each ask (ParEGO,
Knowles 2006).
"""

import math
from collections.abc import Sequence
from random import Random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.objective import Score
from optimizer.space import Point
from optimizer.strategies.surrogate import Encoding, Floats, Surrogate, Table

LISTED = 20_000  # configurations up to which all are looked at
POOL = 1500  # configurations looked at where they can't all be
FRESH = 300  # of them drawn anew at each ask
ELITE = 5  # best ones whose neighbours are looked at
SPREAD = 1000  # random configurations of which the farthest from all known ones starts the search
DOUBTFUL, LAST_RESORT = 0.1, 1e6  # what has a smaller chance to work comes after everything that has a larger one
TAIL = -4.0  # deviations below the best from which the asymptote of the expected improvement is taken
LABEL_SIGNAL, LABEL_NOISE = 0.25, 0.01  # variances of the process that learns what works: its labels are 0 and 1


class Candidates(Protocol):
    """Unknown configurations, encoded."""

    def offer(self, best: Sequence[Point]) -> tuple[Table, Sequence[int] | NDArray[np.intp]]:
        """Rows, and what `point` calls each."""
        ...

    def point(self, name: int) -> Point: ...

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

    def offer(self, best: Sequence[Point]) -> tuple[Table, NDArray[np.intp]]:
        names = np.flatnonzero(self._free)
        return self._rows[names], names

    def point(self, name: int) -> Point:
        return self._feasible.point(self._feasible.rows[name])

    def take(self, point: Point) -> Table:
        index = self._index[self._feasible.row(point).tobytes()]
        self._free[index] = False
        return self._rows[index : index + 1]


class Drawn:
    """A pool of random configurations, renewed little by little, with the neighbours of the best."""

    def __init__(self, feasible: Feasible, encoding: Encoding, rng: Random) -> None:
        self._feasible, self._encoding, self._rng = feasible, encoding, rng
        self._random: list[Point] = []
        self._known: set[Point] = set()
        self._offered: dict[Point, Table] = {}

    def offer(self, best: Sequence[Point]) -> tuple[Table, Sequence[int]]:
        drawn = [self._feasible.sample(self._rng) for _ in range(FRESH if self._random else POOL)]
        self._random = (drawn + self._random)[:POOL]
        near = [p for b in best for p in self._feasible.neighbours(b)]
        offered = [p for p in dict.fromkeys([*near, *self._random]) if p not in self._known]
        new = [p for p in offered if p not in self._offered]
        rows = dict(zip(new, self._encoding.points(new), strict=True)) if new else {}
        self._offered = {p: self._offered[p] if p in self._offered else rows[p] for p in offered}
        return np.array(list(self._offered.values()), dtype=np.float32), range(len(offered))

    def point(self, name: int) -> Point:
        return list(self._offered)[name]

    def take(self, point: Point) -> Table:
        self._known.add(point)
        return self._encoding.points([point])


class ModelProposer:
    """`startup`: points that lie far apart before the model speaks; `refit`: results between two fits of weights."""

    def __init__(self, feasible: Feasible, objectives: int, seed: int, *, startup: int = 8, refit: int = 5) -> None:
        if startup < 2 or refit < 1:
            raise ConfigError("strategy.startup is at least 2 and strategy.refit at least 1.")
        encoding = Encoding(feasible.space.knobs)
        self._startup, self._refit = startup, refit
        self._rng = np.random.default_rng(seed)
        listed = feasible.enumerable and (feasible.count or 0) <= LISTED
        self._candidates: Candidates = (
            Listed(feasible, encoding) if listed else Drawn(feasible, encoding, Random(f"pool {seed}"))
        )
        self._surrogate, self._chance = Surrogate(encoding), Surrogate(encoding)
        self._objectives = objectives
        self._rows: list[Table] = []  # of every accepted point, in the order of acceptance
        self._points: list[Point] = []
        self._scores: dict[Point, Score] = {}
        self._fitted = 0  # results that the weights know of

    def propose(self) -> Point | None:
        rows, names = self._candidates.offer(self._best())
        if not len(rows):
            return None
        measured = sum(s.losses is not None for s in self._scores.values())
        if len(self._points) < self._startup or measured < 2:
            return self._candidates.point(int(names[self._farthest(rows)]))
        return self._candidates.point(int(names[int(np.argmax(self._promise(rows)))]))

    def refuse(self) -> None: ...

    def accept(self, point: Point) -> None:
        self._points.append(point)
        self._rows.append(self._candidates.take(point))

    def learn(self, point: Point, score: Score) -> None:
        self._scores[point] = score

    def _best(self) -> list[Point]:
        ranked = [(s.violation, s.losses, p.key, p) for p, s in self._scores.items() if s.losses is not None]
        return [p for *_, p in sorted(ranked)[:ELITE]]

    def _farthest(self, rows: Table) -> int:
        """Of some random rows the one whose nearest known point is farthest (maximin distance, Johnson et al. 1990)."""
        some = self._rng.choice(len(rows), min(SPREAD, len(rows)), replace=False)
        if not self._rows:
            return int(some[0])
        known = np.concatenate(self._rows)
        gaps = (rows[some] ** 2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2.0 * rows[some] @ known.T
        return int(some[np.argmax(gaps.min(axis=1) + 1e-6 * self._rng.random(len(some)))])

    def _promise(self, rows: Table) -> Floats:
        """The logarithm of expected improvement times the chance to work, of each row."""
        told = [i for i, p in enumerate(self._points) if p in self._scores]
        scores = [self._scores[self._points[i]] for i in told]
        measured = [i for i, s in zip(told, scores, strict=True) if s.losses is not None]
        works = np.array([s.feasible for s in scores], dtype=float)
        seen, values = self._table(measured), self._values([s.losses for s in scores if s.losses is not None])
        rate = (works.sum() + 1.0) / (len(works) + 2.0)
        if len(told) - self._fitted >= self._refit or not self._fitted:
            self._surrogate.fit(seen, values)
            if not works.all():
                self._chance.fit(self._table(told), (works - rate) / math.sqrt(rate * (1.0 - rate)))
            self._fitted = len(told)
        fine = [v for v, s in zip(values, [s for s in scores if s.losses is not None], strict=True) if s.feasible]
        waiting = [i for i, p in enumerate(self._points) if p not in self._scores]
        if waiting:
            expected, _ = self._surrogate.posterior(seen, values, self._table(waiting))
            seen, values = np.concatenate([seen, self._table(waiting)]), np.concatenate([values, expected])
        mean, deviation = self._surrogate.posterior(seen, values, rows)
        promise = log_expected_improvement(mean, deviation, min(fine)) if fine else np.zeros(len(rows))
        if not works.all():
            off, unsure = self._chance.posterior(
                self._table(told), works - rate, rows, signal=LABEL_SIGNAL, noise=LABEL_NOISE
            )
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
    """0 for the best; the logarithm of the ratio to it, itself compressed beyond its median.

    Losses of one sign are ratios (a maximised metric has negative ones); others are differences.
    """
    if (losses > 0).all():
        off = np.log(losses)
    elif (losses < 0).all():
        off = -np.log(-losses)
    else:
        off = losses
    off = off - off.min()
    return np.asarray(np.log1p(off / (np.median(off) or off.max() or 1.0)))


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
