"""Which candidate comes next, whatever the algorithm?

An algorithm only proposes points and learns scores (Proposer); this file does what all of them need: the known good
points first, numbers in the order of asking, never a point twice, conditions and constraints respected, an end when the
space is exhausted. A proposal that is known already or breaks a constraint is refused and asked for anew a few times,
then moved to the nearest feasible point that is still unknown.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.feasible import Feasible, encoded
from optimizer.objective import Goal, Score
from optimizer.space import Point, Value, place
from optimizer.trial import Candidate, Trial

TRIES = 4  # proposals asked for before one is moved to its nearest unknown neighbour
MAX_ENCODED = 500_000  # rows; above it the nearest point is searched for instead of looked up


class Proposer(Protocol):
    """A search algorithm."""

    def propose(self) -> Mapping[str, Value] | None:
        """A value for at least every active knob, in the space or not; None: nothing until more is learnt."""
        ...

    def refuse(self) -> None:
        """The last proposal can't be used; nothing will be learnt of it."""
        ...

    def accept(self, point: Point) -> None:
        """This point will be tried: the last proposal, what it was moved to, or a point from elsewhere."""
        ...

    def learn(self, point: Point, score: Score) -> None:
        """What came of an accepted point."""
        ...


class Proposals:
    """A strategy made of a proposer: what a study talks to."""

    def __init__(
        self, proposer: Proposer, feasible: Feasible, goal: Goal, rng: Random, start: Sequence[Point] = ()
    ) -> None:
        self._proposer, self._feasible, self._goal, self._rng = proposer, feasible, goal, rng
        self._start = list(dict.fromkeys(start))
        self._nearest = Nearest(feasible, rng)
        self._known: set[str] = set()
        self._next = 0
        self._baseline: Trial | None = None

    def ask(self, limit: int) -> Sequence[Candidate]:
        asked: list[Candidate] = []
        while len(asked) < limit and (point := self._unknown_point()) is not None:
            self._proposer.accept(point)
            self._known.add(point.key)
            self._nearest.mark(point)
            asked.append(Candidate(self._next, point))
            self._next += 1
        return asked

    def tell(self, trial: Trial) -> None:
        if self._baseline is None:
            self._baseline = trial  # number 0: trials are told in the order of asking
        self._proposer.learn(trial.point, self._goal.score(trial, self._baseline))

    def _unknown_point(self) -> Point | None:
        while self._start:
            if (point := self._start.pop(0)).key not in self._known:
                return point
        if self._feasible.count is not None and len(self._known) >= self._feasible.count:
            return None
        for last in [False] * (TRIES - 1) + [True]:
            if (values := self._proposer.propose()) is None:
                return None
            point = self._feasible.space.active(values)
            if point.key not in self._known and point in self._feasible.space:
                return point
            if not last:
                self._proposer.refuse()
        return self._nearest.unknown(point, self._known)


class Nearest:
    """Finds the feasible point nearest to any point: by rank along ordered knobs, by equality along the others."""

    def __init__(self, feasible: Feasible, rng: Random) -> None:
        self._feasible, self._rng = feasible, rng
        self._table: _Table | None = None
        self._unmarked: list[Point] = []  # known points that the table has not heard of

    def mark(self, point: Point) -> None:
        """This point is known from now on."""
        self._unmarked.append(point)

    def unknown(self, point: Point, known: set[str]) -> Point | None:
        """The nearest feasible point whose key is not known, ties broken at random; None where none is found."""
        if not (self._feasible.enumerable and (self._feasible.count or 0) <= MAX_ENCODED):
            return self._searched(point, known)
        if self._table is None:
            self._table = _Table(self._feasible)
        for marked in self._unmarked:
            self._table.mark(marked)
        self._unmarked.clear()
        return self._table.nearest(point, self._rng)

    def _searched(self, point: Point, known: set[str]) -> Point | None:
        """Descends from the nearest of some random points, a knob at a time."""
        drawn = [self._feasible.sample(self._rng) for _ in range(50)]
        if point in self._feasible.space:
            drawn += list(self._feasible.neighbours(point))
        fresh = [p for p in drawn if p.key not in known]
        if not fresh:
            return None
        best = min(fresh, key=lambda p: self._distance(point, p))
        for _ in range(len(self._feasible.space.knobs) + 2):
            near = [p for p in self._feasible.neighbours(best) if p.key not in known]
            closer = min(near, key=lambda p: self._distance(point, p), default=best)
            if self._distance(point, closer) >= self._distance(point, best):
                break
            best = closer
        return best

    def _distance(self, a: Point, b: Point) -> float:
        total = 0.0
        for knob in self._feasible.space.knobs:
            x, y = place(knob, a.get(knob.name)), place(knob, b.get(knob.name))
            total += abs(x - y) if knob.domain.ordered and (x < 0) == (y < 0) else float(x != y)
        return total


class _Table:
    """Every configuration with its places, and whether it is still unknown."""

    def __init__(self, feasible: Feasible) -> None:
        self._feasible, self._knobs = feasible, feasible.space.knobs
        self._places = encoded(self._knobs, feasible.rows)
        self._index = {row.tobytes(): i for i, row in enumerate(self._places)}
        self._free = np.ones(len(self._places), dtype=bool)
        self._ordered = np.array([k.domain.ordered for k in self._knobs])

    def _place(self, point: Point) -> NDArray[np.float32]:
        return np.array([place(k, point.get(k.name)) for k in self._knobs], dtype=np.float32)

    def mark(self, point: Point) -> None:
        if (index := self._index.get(self._place(point).tobytes())) is not None:
            self._free[index] = False

    def nearest(self, point: Point, rng: Random) -> Point | None:
        here = self._place(point)
        gap = np.abs(self._places - here)
        off = (self._places < 0) != (here < 0)
        distances = np.where(self._ordered & ~off, gap, gap > 0).sum(axis=1, dtype=float)
        distances += 1e-6 * np.array([rng.random() for _ in range(64)])[np.arange(len(distances)) % 64]  # ties
        distances[~self._free] = np.inf
        best = int(np.argmin(distances))
        return self._feasible.point(self._feasible.rows[best]) if self._free[best] else None
