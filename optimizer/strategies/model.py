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
from random import Random

import numpy as np

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.objective import Score
from optimizer.space import Point
from optimizer.strategies.candidates import Offer, candidates_of
from optimizer.strategies.prior import Known, Prior
from optimizer.strategies.surrogate import Encoding, Floats, Outlook, Surrogate, Table, compressed

ELITE = 5  # best ones whose neighbours and children are looked at
SPREAD = 1000  # random configurations of which the farthest from all known ones starts the search
DOUBTFUL, LAST_RESORT = 0.1, 1e6  # what has a smaller chance to work comes after everything that has a larger one
SEEDS = 4  # points that a prior names, every other one of the first, while they are better than those that lie apart
AMBITION = 1.0  # standard deviations of the values by which every other ask wants the best beaten
TAIL = -4.0  # deviations below the best from which the asymptote of the expected improvement is taken
LABEL_SIGNAL, LABEL_NOISE = 0.25, 0.01  # variances of the process that learns what works: its labels are 0 and 1
LABEL_WEIGHT = 25.0  # most that a term weighs there: what works a fifth of a knob's range away still tells something


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
    results have grown by this share, so that fitting stays cheap when they are many. `prior`: what is known of the
    space from elsewhere (prior.py)."""

    def __init__(
        self,
        feasible: Feasible,
        objectives: int,
        seed: int,
        *,
        startup: int = 8,
        refit: float = 0.06,
        prior: Sequence[Known] = (),
    ) -> None:
        if startup < 2 or not refit >= 0:
            raise ConfigError("strategy.startup is at least 2 and strategy.refit not negative.")
        if prior and objectives > 1:
            raise ConfigError("strategy.prior takes one objective: of several no single order can be carried over.")
        encoding = Encoding(feasible.space.knobs)
        self._startup, self._refit = startup, refit
        self._rng = np.random.default_rng(seed)
        self._candidates = candidates_of(feasible, encoding, Random(f"pool {seed}"))
        self._speed = View(Surrogate(encoding))
        self._chance = View(Surrogate(encoding, LABEL_WEIGHT), signal=LABEL_SIGNAL, noise=LABEL_NOISE)
        self._prior = Prior(prior, encoding) if prior else None
        self._named: list[tuple[Point, int]] = []  # by the prior, and by which of its sources
        self._apart: list[Point] = []  # that were proposed because they lie far from all others
        self._objectives = objectives
        self._rows: list[Table] = []  # of every accepted point, in the order of acceptance
        self._points: list[Point] = []
        self._scores: dict[Point, Score] = {}
        self._fitted = 0  # results that the weights know of

    def propose(self) -> Point | None:
        offer = self._candidates.offer(self._best())
        if not offer.free.any():
            return None
        misleading = self._misleading()
        if self._prior and (source := self._next_source(misleading)) is not None:
            self._named.append((self._candidates.point(self._prior.best(offer, source)), source))
            return self._named[-1][0]
        measured = sum(s.losses is not None for s in self._scores.values())
        wasted = sum(source in misleading for _, source in self._named)
        if len(self._points) - wasted < self._startup or measured < 2:
            self._apart.append(self._candidates.point(self._farthest(offer)))
            return self._apart[-1]
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

    def _next_source(self, misleading: set[int]) -> int | None:
        """The source that names the next point, if one does: of those that do not mislead, the one that named least."""
        assert self._prior
        trusted = [i for i in range(self._prior.sources) if i not in misleading]
        if not trusted or len(self._named) >= SEEDS or len(self._points) % 2:
            return None
        named = [source for _, source in self._named]
        return min(trusted, key=lambda i: (named.count(i), i))

    def _misleading(self) -> set[int]:
        """The sources whose points so far are no better than points that were chosen for lying apart."""
        apart = self._told(self._apart)
        found = set()
        for source in {source for _, source in self._named}:
            named = self._told([p for p, s in self._named if s == source])
            if named and apart and np.median(named) >= np.median(apart):
                found.add(source)
        return found

    def _told(self, points: Sequence[Point]) -> list[float]:
        """What came of them; infinite where a point failed or broke a limit."""
        told = [self._scores[p] for p in points if p in self._scores]
        return [s.losses[0] if s.losses is not None and s.feasible else math.inf for s in told]

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
        raw = [s.losses for s in scores if s.losses is not None]
        losses = self._losses(raw)
        expected, at_rows = np.zeros(len(losses)), np.zeros(len(rows))
        if self._prior:
            by_prior = self._losses(raw, self._prior.scale)
            if (told_of := self._prior.expected(self._table(measured), by_prior, rows)) is not None:
                losses, (expected, at_rows) = by_prior, told_of
        centre, spread = (losses - expected).mean(), (losses - expected).std() + 1e-9
        values = (losses - expected - centre) / spread  # of mean 0 and variance 1
        rate = (works.sum() + 1.0) / (len(works) + 2.0)
        if len(told) >= max(self._fitted + 1, self._fitted * (1.0 + self._refit)):
            self._speed.fit(self._table(measured), values)
            if not works.all():
                self._chance.fit(self._table(told), (works - rate) / math.sqrt(rate * (1.0 - rate)))
            self._fitted = len(told)
        fine = [v for v, s in zip(losses, [s for s in scores if s.losses is not None], strict=True) if s.feasible]
        waiting = [i for i, p in enumerate(self._points) if p not in self._scores]
        mean, deviation = self._speed.posterior(self._rows, [*measured, *waiting], values, rows)
        ambitious = self._objectives == 1 and len(self._points) % 2 == 1  # several objectives move the target anyway
        target = (min(fine, default=0.0) - centre - at_rows) / spread - (AMBITION if ambitious else 0.0)
        promise = log_expected_improvement(mean, deviation, target) if fine else np.zeros(len(rows))
        if not works.all():
            off, unsure = self._chance.posterior(self._rows, told, works - rate, rows)
            chance = normal_share((rate + off - 0.5) / unsure)
            promise = promise + np.log(np.maximum(chance, 1e-300)) - np.where(chance < DOUBTFUL, LAST_RESORT, 0.0)
        return np.asarray(promise + 1e-9 * self._rng.random(len(rows)))

    def _table(self, indices: Sequence[int]) -> Table:
        return np.concatenate([self._rows[i] for i in indices])

    def _losses(self, losses: Sequence[Sequence[float]], scale: float | None = None) -> Floats:
        """One number for each point, lower is better."""
        columns = [compressed(np.array(column), scale) for column in zip(*losses, strict=True)]
        if len(columns) > 1:
            weights = self._rng.dirichlet(np.ones(len(columns)))
            scaled = np.array([c / (c.max() or 1.0) for c in columns]) * weights[:, None]
            return np.asarray(scaled.max(axis=0) + 0.05 * scaled.sum(axis=0))
        return columns[0]


def log_expected_improvement(mean: Floats, deviation: Floats, best: float | Floats) -> Floats:
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
