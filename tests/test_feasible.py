"""Which configurations are valid: enumeration against brute force, counting, drawing, neighbours."""

import itertools
import time
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simple import CONTINUOUS, MIXED, PINNED, SPACES, SWITCHES, TINY, constraints, knob

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.space import Choice, Float, Int, Knob, Point, Space


def brute_force(space: Space) -> set[Point]:
    """Every valid configuration, the slow and sure way."""
    domains = [[k.domain.at(i) for i in range(k.domain.size)] for k in space.knobs if not isinstance(k.domain, Float)]
    names = [k.name for k in space.knobs]
    points = {space.active(dict(zip(names, values, strict=True))) for values in itertools.product(*domains)}
    return {p for p in points if p in space}


@pytest.mark.parametrize("space", [MIXED, TINY, PINNED], ids=["mixed", "tiny", "pinned"])
def test_enumerates_what_brute_force_finds(space: Space) -> None:
    feasible = Feasible(space)
    listed = list(feasible.points())
    assert len(listed) == len(set(listed)) == feasible.count
    assert set(listed) == brute_force(space)


NAMES = ["a", "b", "c", "d"]
KNOBS = st.tuples(*(st.integers(1, 4) for _ in NAMES))
CONDITIONS = st.sampled_from([None, "a > 1", "a == 2", "a + 1 < 4", "not a == 1"])
CONSTRAINTS = st.sampled_from(["a + b < 6", "a * c != 4", "b <= d", "a % b == 0", "c == d or a == 1", "b + c + d > 4"])


@settings(max_examples=150, deadline=None)
@given(KNOBS, CONDITIONS, CONDITIONS, st.lists(CONSTRAINTS, max_size=3, unique=True))
def test_enumerates_any_small_space(
    sizes: tuple[int, ...], when_c: str | None, when_d: str | None, expressions: list[str]
) -> None:
    knobs = [knob(n, Int(1, size)) for n, size in zip(NAMES[:2], sizes, strict=False)]
    knobs += [knob("c", Int(1, sizes[2]), when=when_c), knob("d", Int(1, sizes[3]), when=when_d)]
    space = Space(tuple(knobs), constraints(**{f"c{i}": e for i, e in enumerate(expressions)}))
    expected = brute_force(space)
    if not expected:
        with pytest.raises(ConfigError, match="No configuration satisfies"):
            _ = Feasible(space).count
        return
    feasible = Feasible(space)
    assert set(feasible.points()) == expected
    assert feasible.count == len(expected)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_what_is_drawn_is_valid_and_seeded(space: Space) -> None:
    feasible = Feasible(space)
    drawn = [feasible.sample(Random(i)) for i in range(200)]
    assert all(p in space for p in drawn)
    assert drawn == [feasible.sample(Random(i)) for i in range(200)]


def test_drawing_is_uniform_over_configurations() -> None:
    feasible = Feasible(Space((knob("bits", Choice((8, 32))), knob("group", Int(1, 3), when="bits < 16"))))
    counts = Counter(feasible.sample(Random(i)) for i in range(4000))
    assert len(counts) == 4  # three with bits 8, one with bits 32
    assert all(850 < n < 1150 for n in counts.values())


def test_independent_groups_are_counted_without_listing() -> None:
    feasible = Feasible(SWITCHES)
    assert feasible.count == 2**40
    assert not feasible.enumerable
    with pytest.raises(ConfigError, match="too many to list"):
        _ = feasible.rows
    tied = Space(SWITCHES.knobs, constraints(one="f0 or f1", two="f2 or f3"))
    assert Feasible(tied).count == 2**36 * 9


def test_a_million_combinations_take_seconds() -> None:
    ten = Choice((1, 2, 4, 8, 16, 32, 64, 128, 256, 512), ordered=True)
    space = Space(
        tuple(knob(f"k{i}", ten) for i in range(6)),
        constraints(budget="k0 * k1 * k2 <= 4096", order="k2 <= k3", product="k3 * k4 * k5 * 4 <= 2 ** 20"),
    )
    start = time.process_time()
    feasible = Feasible(space)
    assert len(feasible.rows) == feasible.count
    assert 10_000 < (feasible.count or 0) < 1_000_000
    assert time.process_time() - start < 20  # measured: 0.3 s; the bound only tells seconds from minutes


def test_continuous_groups_are_drawn_from_and_not_counted() -> None:
    space = Space(CONTINUOUS.knobs, constraints(inside="x + y < 0.5"))
    feasible = Feasible(space)
    assert feasible.count is None
    drawn = [feasible.sample(Random(i)) for i in range(100)]
    assert all(p in space for p in drawn)


def test_a_group_too_large_to_list_is_drawn_from() -> None:
    wide = Space(
        tuple(knob(f"k{i}", Int(1, 50)) for i in range(6)), constraints(tight="k0 + k1 + k2 + k3 + k4 + k5 < 40")
    )
    feasible = Feasible(wide, max_rows=10_000)
    assert feasible.count is None
    assert all(feasible.sample(Random(i)) in wide for i in range(50))


@pytest.mark.parametrize(
    "expression", ["unroll < 1", "unroll > 5 and unroll < 4", "1 > 2", "unroll == 3 and batch == 64"]
)
def test_a_contradiction_is_named(expression: str) -> None:
    with pytest.raises(ConfigError, match="never"):
        _ = Feasible(Space(MIXED.knobs, constraints(never=expression))).count


def test_a_continuous_contradiction_is_named_too() -> None:
    with pytest.raises(ConfigError, match="impossible"):
        Feasible(Space(CONTINUOUS.knobs, constraints(impossible="x > 2")))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_neighbours_are_valid_and_one_knob_away(space: Space) -> None:
    point = Feasible(space).sample(Random(3))
    near = list(Feasible(space).neighbours(point))
    assert near
    assert point not in near
    for other in near:
        assert other in space
        conditional = {k.name for k in space.knobs if k.when}
        differing = {n for n in point.keys() | other.keys() if point.get(n) != other.get(n)}
        assert len(differing - conditional) <= 1


def test_rows_and_points_are_inverse() -> None:
    feasible = Feasible(MIXED)
    for row in feasible.rows[::97]:
        assert np.array_equal(feasible.row(feasible.point(row)), row)


def test_values_of_different_types_stay_apart() -> None:
    mixed: tuple[Knob, ...] = (knob("level", Choice((1, 2, "fast"))), knob("b", Int(1, 2)))
    feasible = Feasible(Space(mixed, constraints(c="level == 'fast' or b == 1")))
    assert set(feasible.points()) == brute_force(feasible.space)
    assert feasible.count == 4


@pytest.mark.parametrize("space", [MIXED, SWITCHES, TINY, PINNED], ids=["mixed", "switches", "tiny", "pinned"])
def test_rows_are_drawn_as_points_are(space: Space) -> None:
    feasible = Feasible(space)
    rows = feasible.drawn(50, Random(1))
    points = [feasible.point(row) for row in rows]
    assert all(p in space for p in points)
    assert len(set(points)) > 1
    assert (feasible.drawn(50, Random(1)) == rows).all()


def test_changed_rows_are_repaired_or_left_out() -> None:
    feasible = Feasible(MIXED)
    rng = Random(0)
    domains = [(k, k.domain) for k in MIXED.knobs if not isinstance(k.domain, Float)]
    rows = [[rng.randrange(-(k.name == "group"), d.size) for k, d in domains] for _ in range(300)]
    kept = [feasible.point(row) for row in feasible.repaired(np.array(rows, dtype=np.int32))]
    assert all(p in MIXED for p in kept)
    filled = [
        {k.name: d.at(i) if i >= 0 else k.default for (k, d), i in zip(domains, row, strict=True)} for row in rows
    ]
    assert len(kept) == sum(MIXED.active(values) in MIXED for values in filled), "none that is valid is lost"


def test_rows_that_a_record_lacks_are_left_out() -> None:
    points = list(Feasible(TINY).points())
    feasible = Feasible(TINY.listing(points[:4]))
    assert {feasible.point(r) for r in feasible.repaired(Feasible(TINY).rows)} == set(points[:4])
