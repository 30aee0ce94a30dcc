"""Which configurations of a space are valid, how many are there, and how to draw one.

Knobs that no condition and no constraint ties together vary independently. So a space is split into the groups that
its expressions connect; each group is enumerated by itself, knob by knob, with every expression applied to the whole
table as soon as its knobs stand in it (numpy columns of indices, -1 for a knob that is not active). The space is the
product of its groups: counting and uniform drawing stay exact for 10^12 configurations when no single group is large.
A group that is too large, or has a continuous knob, is drawn from value by value, dropping values that break a
constraint and starting anew at a dead end (this favours configurations with few rivals; it is not uniform).
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import ConfigError
from optimizer.expression import Expression
from optimizer.space import Constraint, Float, Knob, Point, Space, Value, closest, place

Rows = NDArray[np.int32]
"""(configurations, knobs): the index of each knob's value in its domain, -1 where the knob is not active."""

MAX_ROWS = 4_000_000  # a table of 4 million rows and 20 knobs takes 320 MB
MAX_DRAWS = 20_000


class Feasible:
    """The valid configurations of a space. Raises ConfigError where there are none, naming what forbids them."""

    def __init__(self, space: Space, max_rows: int = MAX_ROWS) -> None:
        self.space = space
        if space.only is not None:
            self._groups = [_Group(space.knobs, (), max_rows, _decoded(space.knobs, space.only))]
        else:
            self._groups = [_Group(knobs, constraints, max_rows) for knobs, constraints in _groups(space)]
        self._max_rows = max_rows

    @cached_property
    def count(self) -> int | None:
        """How many there are; None where a knob is continuous or a group too large to count."""
        sizes = [g.size for g in self._groups]
        return math.prod(s for s in sizes if s is not None) if None not in sizes else None

    @property
    def enumerable(self) -> bool:
        return self.count is not None and self.count <= self._max_rows

    @cached_property
    def rows(self) -> Rows:
        """All of them, in the order of the space's knobs. Only where `enumerable`."""
        if not self.enumerable:
            raise ConfigError(f"{self.count or 'Uncountably many'} configurations are too many to list.")
        table = np.zeros((1, 0), dtype=np.int32)
        names: list[str] = []
        for group in self._groups:
            part = group.table
            table = np.hstack([np.repeat(table, len(part), axis=0), np.tile(part, (len(table), 1))])
            names += [k.name for k in group.knobs]
        return table[:, [names.index(k.name) for k in self.space.knobs]]

    def point(self, row: Sequence[int] | NDArray[np.int32]) -> Point:
        """The point of one row of `rows`."""
        return Point(_values(self.space.knobs, row))

    def row(self, point: Point) -> NDArray[np.int32]:
        """The row of a point of the space; continuous knobs have no index and can't be asked."""
        return np.array([_index(k, point) for k in self.space.knobs], dtype=np.int32)

    def points(self) -> Iterator[Point]:
        return (self.point(row) for row in self.rows)

    def sample(self, rng: Random) -> Point:
        """One drawn at random: uniformly, save for groups that can't be enumerated."""
        values: dict[str, Value] = {}
        for group in self._groups:
            values |= group.sample(rng)
        return Point(values)

    def drawn(self, count: int, rng: Random) -> Rows:
        """(count, knobs): rows drawn at random, as `sample` draws points. Of a space without continuous knobs."""
        table = np.full((count, len(self.space.knobs)), -1, dtype=np.int32)
        column = {k.name: i for i, k in enumerate(self.space.knobs)}
        for group in self._groups:
            part = table[:, [column[k.name] for k in group.knobs]]
            if group.size is not None:
                part = group.table[[rng.randrange(group.size) for _ in range(count)]]
            else:
                for row in part:
                    values = group.sample(rng)
                    row[:] = [_index(k, values) for k in group.knobs]
            table[:, [column[k.name] for k in group.knobs]] = part
        return table

    def repaired(self, rows: Rows) -> Rows:
        """The valid ones among rows that somebody changed: knobs that a change has switched on take their defaults,
        those that it has switched off lose their value, and rows that break a constraint are left out."""
        knobs = self.space.knobs
        table = rows.copy()
        for i, knob in enumerate(knobs):
            assert not isinstance(knob.domain, Float)
            default = knob.domain.index(closest(knob.domain, knob.default))
            active = np.ones(len(table), dtype=bool)
            if knob.when is not None:
                active = _kept(table, knobs[:i], knob.when, where_inactive=False)
            table[:, i] = np.where(active, np.where(table[:, i] < 0, default, table[:, i]), -1)
        valid = np.ones(len(table), dtype=bool)
        for constraint in self.space.constraints:
            valid &= _kept(table, knobs, constraint.expression, where_inactive=True)
        if self.space.only is not None:
            valid &= np.array([row.tobytes() in self._listed for row in table], dtype=bool)
        return table[valid]

    @cached_property
    def _listed(self) -> frozenset[bytes]:
        return frozenset(row.tobytes() for row in self.rows)

    def neighbours(self, point: Point) -> Iterator[Point]:
        """The valid points that differ from this one in a single knob (and in the knobs that it switches on, which take
        their defaults, or off). A continuous knob moves by a tenth of its range either way."""
        defaults = self.space.baseline()
        every = {k.name: k.default for k in self.space.knobs} | dict(defaults) | dict(point)
        for knob in self.space.knobs:
            if knob.name not in point:
                continue
            for value in _others(knob, point[knob.name]):
                near = self.space.active(every | {knob.name: value})
                if near != point and near in self.space:
                    yield near


class _Group:
    """Knobs that conditions and constraints tie together, and everything that ties them; or, `listed`, their table."""

    def __init__(
        self, knobs: Sequence[Knob], constraints: Sequence[Constraint], max_rows: int, listed: Rows | None = None
    ) -> None:
        self.knobs = _bound_early(knobs, constraints) if listed is None else tuple(knobs)
        self._constraints = constraints
        self._max_rows = max_rows
        self._listed = listed
        if self.size is None:
            self.sample(Random(0))  # a contradiction shows here, not at the first trial

    @cached_property
    def size(self) -> int | None:
        return None if self._table is None else len(self._table)

    @property
    def table(self) -> Rows:
        if self._table is None:
            raise ConfigError(f"The configurations of {', '.join(k.name for k in self.knobs)} are too many to list.")
        return self._table

    @cached_property
    def _table(self) -> Rows | None:
        if self._listed is not None:
            return self._listed
        if any(isinstance(k.domain, Float) for k in self.knobs):
            return None
        table = np.zeros((1, 0), dtype=np.int32)
        waiting = list(self._constraints)
        for width, knob in enumerate(self.knobs, start=1):
            if len(table) * (knob.domain.size or 0) > self._max_rows:
                return None
            table = _joined(table, self.knobs[: width - 1], knob)
            bound = {k.name for k in self.knobs[:width]}
            for constraint in [c for c in waiting if c.expression.names <= bound]:
                waiting.remove(constraint)
                table = table[_kept(table, self.knobs[:width], constraint.expression, where_inactive=True)]
                if not len(table):
                    raise _contradiction(constraint, self._constraints)
        return table

    def sample(self, rng: Random) -> dict[str, Value]:
        if self._table is not None:
            return _values(self.knobs, self._table[rng.randrange(len(self._table))])
        for _ in range(MAX_DRAWS):
            if (drawn := self._draw(rng)) is not None:
                return drawn
        names = ", ".join(c.name for c in self._constraints)
        raise ConfigError(
            f"No valid configuration came up in {MAX_DRAWS} draws of {', '.join(k.name for k in self.knobs)}: "
            f"the constraints {names} leave too little. Loosen one, or narrow the knobs' domains."
        )

    def _draw(self, rng: Random) -> dict[str, Value] | None:
        values: dict[str, Value] = {}
        for knob in self.knobs:
            if knob.when and not (knob.when.names <= values.keys() and knob.when.holds(values)):
                continue
            for value in self._tries(knob, rng):
                values[knob.name] = value
                if all(
                    c.expression.holds(values)
                    for c in self._constraints
                    if knob.name in c.expression.names and c.expression.names <= values.keys()
                ):
                    break
            else:
                return None
        return values

    @staticmethod
    def _tries(knob: Knob, rng: Random) -> Iterator[Value]:
        domain = knob.domain
        if isinstance(domain, Float) or domain.size > 64:
            yield from (domain.sample(rng) for _ in range(16))
        else:
            yield from (domain.at(i) for i in rng.sample(range(domain.size), domain.size))


def _decoded(knobs: Sequence[Knob], codes: Collection[int]) -> Rows:
    """The table of the points that have these codes (Space.code)."""
    if not codes:
        raise ConfigError("The space lists no points.")
    rest = np.array(sorted(codes), dtype=np.int64 if max(codes) < 2**63 else object)
    table = np.empty((len(rest), len(knobs)), dtype=np.int32)
    for i, knob in reversed(list(enumerate(knobs))):
        assert not isinstance(knob.domain, Float)
        table[:, i] = rest % (knob.domain.size + 1) - 1
        rest = rest // (knob.domain.size + 1)
    return table


def _groups(space: Space) -> Iterator[tuple[list[Knob], list[Constraint]]]:
    """The connected components of the graph whose edges are the expressions."""
    leader = {k.name: k.name for k in space.knobs}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    ties = [{k.name} | k.when.names for k in space.knobs if k.when]
    ties += [set(c.expression.names) for c in space.constraints]
    for first, *others in [sorted(tie) for tie in ties if tie]:
        for other in others:
            leader[find(other)] = find(first)
    for constraint in space.constraints:
        if not constraint.expression.names and not constraint.expression.holds({}):
            raise ConfigError(f"The constraint {constraint.name} ('{constraint.expression.text}') never holds.")
    for root in dict.fromkeys(find(k.name) for k in space.knobs):
        knobs = [k for k in space.knobs if find(k.name) == root]
        names = {k.name for k in knobs}
        yield knobs, [c for c in space.constraints if c.expression.names and c.expression.names <= names]


def _bound_early(knobs: Sequence[Knob], constraints: Sequence[Constraint]) -> tuple[Knob, ...]:
    """An order in which expressions can be applied early: next comes the knob that completes most of them."""
    placed: list[Knob] = []
    waiting = list(knobs)
    while waiting:
        bound = {k.name for k in placed}
        ready = [k for k in waiting if k.when is None or k.when.names <= bound]

        def promise(knob: Knob, bound: set[str] = bound) -> tuple[int, int, int]:
            names = [c.expression.names for c in constraints if knob.name in c.expression.names]
            completed = sum(n <= bound | {knob.name} for n in names)
            missing = min((len(n - bound) for n in names), default=99)
            return -completed, missing, knob.domain.size or 10**9

        best = min(ready, key=promise)
        placed.append(best)
        waiting.remove(best)
    return tuple(placed)


def _joined(table: Rows, bound: Sequence[Knob], knob: Knob) -> Rows:
    """Every row of the table with every value of one more knob; with -1 where its condition does not hold."""
    indices = np.arange(len(_column(knob)), dtype=np.int32)
    active = np.ones(len(table), dtype=bool)
    if knob.when is not None:
        active = _kept(table, bound, knob.when, where_inactive=False)
    on, off = table[active], table[~active]
    grown = np.column_stack([np.repeat(on, len(indices), axis=0), np.tile(indices, len(on))])
    return np.vstack([grown, np.column_stack([off, np.full(len(off), -1, dtype=np.int32)])]).astype(np.int32)


def _kept(table: Rows, bound: Sequence[Knob], expression: Expression, *, where_inactive: bool) -> NDArray[np.bool_]:
    """Where the expression holds; rows in which one of its knobs is not active get `where_inactive`."""
    used = [(i, k) for i, k in enumerate(bound) if k.name in expression.names]
    active = np.all([table[:, i] >= 0 for i, _ in used] or [np.ones(len(table), dtype=bool)], axis=0)
    verdicts = np.full(len(table), where_inactive)
    if active.any():
        columns = {k.name: _column(k)[table[active, i]] for i, k in used}
        verdicts[active] = expression.holds_for(columns, int(active.sum()))
    return verdicts


def _column(knob: Knob) -> NDArray[Any]:
    """The values of a finite domain by index; an object array where types are mixed, so that 1 and "1" stay apart."""
    assert not isinstance(knob.domain, Float)
    values = [knob.domain.at(i) for i in range(knob.domain.size)]
    if len({type(v) for v in values}) == 1 and not isinstance(values[0], str):
        return np.array(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _values(knobs: Sequence[Knob], row: Sequence[int] | NDArray[np.int32]) -> dict[str, Value]:
    return {
        k.name: k.domain.at(int(i))
        for k, i in zip(knobs, row, strict=True)
        if i >= 0 and not isinstance(k.domain, Float)
    }


def _index(knob: Knob, point: Mapping[str, Value]) -> int:
    assert not isinstance(knob.domain, Float)
    return knob.domain.index(point[knob.name]) if knob.name in point else -1


def _others(knob: Knob, value: Value) -> Iterator[Value]:
    if not isinstance(knob.domain, Float):
        here = knob.domain.index(value)
        near = (
            range(knob.domain.size)
            if knob.domain.size <= 64
            else range(max(0, here - 4), min(knob.domain.size, here + 5))
        )
        yield from (knob.domain.at(i) for i in near if i != here)
    elif isinstance(value, float):
        low, high = knob.domain.low, knob.domain.high
        for share in (-0.1, 0.1):
            moved = value * (high / low) ** share if knob.domain.log else value + share * (high - low)
            yield min(high, max(low, moved))


def _contradiction(last: Constraint, constraints: Sequence[Constraint]) -> ConfigError:
    others = ", ".join(f"{c.name} ({c.expression.text})" for c in constraints if c is not last)
    also = f" together with {others}" if others else ""
    return ConfigError(
        f"No configuration satisfies the constraint {last.name} ({last.expression.text}){also}. "
        "Loosen it, or widen the domain of a knob that it names."
    )


def encoded(knobs: Sequence[Knob], rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """(configurations, knobs): `place` of every value in a table of indices."""
    columns = np.empty(rows.shape, dtype=np.float32)
    for i, knob in enumerate(knobs):
        assert not isinstance(knob.domain, Float)
        places = np.array([place(knob, knob.domain.at(j)) for j in range(knob.domain.size)] + [-1.0])
        columns[:, i] = places[rows[:, i]]  # index -1 takes the last
    return columns
