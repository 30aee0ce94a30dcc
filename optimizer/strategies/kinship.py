"""What do its nearest relatives among the tried points promise of a new one?

Points are compared knob by knob: by whether they differ, and along ordered knobs by how far apart they stand. A knob
counts the more, the better its value alone tells ranks (the correlation ratio of Pearson 1911, shrunken). What a point
promises is the mean of its relatives' ranks, the nearest first. Ranks need no scale: a failure is the last of them.
"""

from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from optimizer.feasible import Feasible, Rows, encoded
from optimizer.space import Float, Knob, Point, Value, place

Floats = NDArray[np.float64]

LISTED = 500_000  # configurations up to which the far ones are picked from their list
DRAWN_LISTED, DRAWN = 5000, 1000  # random configurations that they are picked from: from the list, else one by one
RELATIVES = 3  # that a promise is made of
PRIOR = 0.3  # correlation ratio that every knob is given beside its own
BINS = 15  # of an ordered knob's places, where its correlation ratio is taken
DIFFERENT, DIFFERENT_AFAR = 0.5, 0.2  # of a knob's distance, what differing at all makes: to relatives, of far points


class Places:
    """Points as rows of numbers: `place` of each knob's value, which is looked up once."""

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self._knobs = tuple(knobs)
        self._known: list[dict[tuple[type, Value], float]] = [{} for _ in knobs]
        self.ordered = np.array([k.domain.ordered for k in knobs])

    def of(self, points: Sequence[Mapping[str, Value]]) -> Floats:
        """(points, knobs)"""
        return np.array([[self._place(i, p.get(k.name)) for i, k in enumerate(self._knobs)] for p in points])

    def _place(self, i: int, value: Value | None) -> float:
        if value is None or isinstance(self._knobs[i].domain, Float):
            return place(self._knobs[i], value)
        key = (type(value), value)
        if key not in self._known[i]:
            self._known[i][key] = place(self._knobs[i], value)
        return self._known[i][key]

    def gaps(self, a: Floats, b: Floats, different: float) -> Floats:
        """(rows of a, rows of b, knobs), from 0 to 1 each."""
        gap = np.abs(a[:, None] - b[None])
        near = self.ordered & ((a[:, None] < 0) == (b[None] < 0))
        return np.where(near, (1.0 - different) * gap + different * (gap > 0), gap > 0)


class Spread:
    """Drawn points, of which the farthest from all known ones is asked for (maximin distance, Johnson et al. 1990)."""

    def __init__(self, places: Places, feasible: Feasible, rng: Random) -> None:
        self._places, self._feasible, self._seen = places, feasible, 0
        if feasible.enumerable and (count := feasible.count or 0) <= LISTED:
            self._drawn: Sequence[Point] | Rows = feasible.rows[rng.sample(range(count), min(count, DRAWN_LISTED))]
            self._rows = encoded(feasible.space.knobs, self._drawn).astype(float)
        else:
            self._drawn = [feasible.sample(rng) for _ in range(DRAWN)]
            self._rows = places.of(self._drawn)
        self._gaps = np.full(len(self._rows), np.inf)

    def farthest(self, known: Sequence[Floats]) -> Point:
        """`known`: rows, those of earlier calls first."""
        for row in known[self._seen :]:
            gaps = self._places.gaps(self._rows, row[None], DIFFERENT_AFAR).sum(axis=(1, 2))
            self._gaps = np.minimum(self._gaps, gaps)
        self._seen = len(known)
        found = self._drawn[int(np.argmax(self._gaps))]
        return found if isinstance(found, Point) else self._feasible.point(found)


def promise(places: Places, tried: Floats, ranks: Floats, new: Floats) -> Floats:
    """The rank, from 0 for the best to 1, that each new row is expected to have."""
    distances = places.gaps(new, tried, DIFFERENT) @ importance(tried, ranks)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :RELATIVES]
    weights = 1.0 / (np.take_along_axis(distances, nearest, axis=1) + 1e-3) ** 2
    return np.asarray((weights * ranks[nearest]).sum(axis=1) / weights.sum(axis=1))


def importance(tried: Floats, ranks: Floats) -> Floats:
    """(knobs,), with mean 1: how much of the ranks' variance lies between a knob's values."""
    centred = ranks - ranks.mean()
    total = float(centred @ centred) + 1e-9
    bins = np.where(tried < 0, 0, 1 + np.rint(tried * BINS)).astype(int)
    ratios = np.full(tried.shape[1], PRIOR)
    for knob in range(tried.shape[1]):
        sums, counts = np.bincount(bins[:, knob], centred), np.bincount(bins[:, knob])
        ratios[knob] += float((sums**2 / (counts + 1)).sum()) / total  # one more, which is average: few tell little
    return np.asarray(ratios / ratios.mean())
