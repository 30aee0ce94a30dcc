"""Which configurations does a model look at before it names the next one?

All valid ones, where they can be listed: no inner search loses any, and constraints cost nothing. Else some random
ones, with neighbours and children of the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.feasible import Feasible, Rows
from optimizer.space import Float, Point
from optimizer.strategies.surrogate import Encoding, Table

LISTED = 50_000  # configurations up to which all are looked at
POOL = 500  # random configurations looked at where not all can be
FRESH = 100  # of them drawn anew at each ask
NEAR, BROOD = 800, 400  # neighbours and children of the best that are looked at
WIDEST = 64  # values of one knob that are tried on the best


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


def candidates_of(feasible: Feasible, encoding: Encoding, rng: Random) -> Candidates:
    if any(isinstance(k.domain, Float) for k in feasible.space.knobs):
        return Drawn(feasible, encoding, rng)
    if feasible.enumerable and (feasible.count or 0) <= LISTED:
        return Listed(feasible, encoding)
    return Bred(feasible, encoding, rng)
