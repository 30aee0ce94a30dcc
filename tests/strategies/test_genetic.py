"""The genetic search: how it begins, what it keeps, and what it does when it finds nothing better."""

import random
from collections.abc import Callable, Mapping
from random import Random

import numpy as np
import pytest
from simple import MIXED, SPACES, knob

from optimizer.feasible import Feasible
from optimizer.objective import Score
from optimizer.space import Choice, Int, Point, Space, Value
from optimizer.strategies.genetic import GeneticProposer
from optimizer.strategies.kinship import Places, Spread, importance, promise

BOARD = Space(tuple(knob(name, Int(0, 9)) for name in "abc"))
GRID = Space((knob("a", Int(0, 4)), knob("b", Int(0, 4))))
LAYERED = Space(
    (
        knob("a", Int(0, 9)),
        knob("b", Int(0, 9)),
        knob("kind", Choice(("x", "y"))),
        knob("c", Int(0, 3), when="kind=='x'"),
    )
)


def proposer(space: Space, seed: int = 0, **options: object) -> GeneticProposer:
    return GeneticProposer(Feasible(space), 1, Random(seed), **options)  # type: ignore[arg-type]


def step(search: GeneticProposer, loss: Callable[[Mapping[str, Value]], float | None], space: Space) -> Point:
    """One proposal, tried and told."""
    values = search.propose()
    assert values is not None
    point = space.active(values)
    search.accept(point)
    value = loss(point)
    search.learn(point, Score(None, 1.0) if value is None else Score((value,), 0.0))
    return point


def bowl(point: Mapping[str, Value]) -> float:
    return 1.0 + sum((float(point[name]) - 6) ** 2 for name in point if name in "abc")


def apart(a: Point, b: Point) -> int:
    return sum(a.get(n) != b.get(n) for n in {*a, *b})


def test_begins_with_points_that_lie_farther_apart_than_random_ones() -> None:
    def nearest(points: list[Point]) -> float:
        rows = np.array([[float(p[n]) for n in "abc"] for p in points])
        gaps = np.abs(rows[:, None] - rows[None]).sum(axis=2)
        return float(gaps[~np.eye(len(points), dtype=bool)].min())

    feasible = Feasible(BOARD)
    for seed in range(3):
        search, rng = proposer(BOARD, seed, startup=8), Random(seed)
        begun = [step(search, bowl, BOARD) for _ in range(8)]
        assert nearest(begun) > nearest([feasible.sample(rng) for _ in range(8)])


def test_what_is_told_joins_the_parents_at_once_and_the_best_stays() -> None:
    search = proposer(BOARD, population=4)
    best = 1e9
    for _ in range(60):
        best = min(best, bowl(step(search, bowl, BOARD)))
        assert min(g.fitness.values[1] for g in search._parents) == best
        assert len(search._parents) <= 4


@pytest.mark.parametrize("space", [BOARD, LAYERED])
def test_where_nothing_better_is_found_the_neighbours_of_the_best_are_exhausted(space: Space) -> None:
    peak = Feasible(space).sample(Random(4))
    around = set(Feasible(space).neighbours(peak))

    def needle(point: Mapping[str, Value]) -> float:
        return 1.0 if point == peak else 2.0  # nothing leads anywhere

    search = proposer(space, startup=2, stagnation=3)
    assert 2 * len(around) + 20 < (Feasible(space).count or 0) / 5, "it is no accident"
    search.accept(peak)
    search.learn(peak, Score((1.0,), 0.0))
    tried = [step(search, needle, space) for _ in range(2 * len(around) + 20)]
    assert around <= set(tried)


def test_a_child_is_chosen_whose_relatives_rank_best() -> None:
    """With a brood to choose from, more proposals are good ones."""

    def mean(brood: int) -> float:
        found = []
        for seed in range(6):
            search = proposer(BOARD, seed, brood=brood, local=0.0)
            found += [bowl(step(search, bowl, BOARD)) for _ in range(40)][10:]
        return float(np.mean(found))

    assert mean(8) < 0.8 * mean(1)


def test_the_nearest_relatives_make_the_promise() -> None:
    places = Places(GRID.knobs)
    tried = places.of([{"a": 0, "b": 0}, {"a": 0, "b": 1}, {"a": 4, "b": 3}, {"a": 4, "b": 4}])
    ranks = np.array([0.0, 0.1, 0.9, 1.0])
    good, known, bad = promise(places, tried, ranks, places.of([{"a": 1, "b": 0}, {"a": 0, "b": 1}, {"a": 4, "b": 2}]))
    assert good < 0.3
    assert bad > 0.6
    assert known == pytest.approx(0.1, abs=0.01)


def test_a_knob_that_tells_ranks_counts_more() -> None:
    rng = np.random.default_rng(0)
    tried = rng.integers(0, 5, (40, 2)) / 4
    told, idle = importance(tried, tried[:, 0] + 0.1 * rng.random(40))
    assert told > 2 * idle
    assert told + idle == pytest.approx(2.0)


def test_a_conditional_knob_that_is_not_active_is_neither_near_nor_far() -> None:
    places = Places(LAYERED.knobs)
    off, on = places.of([{"a": 1, "b": 1, "kind": "y"}, {"a": 1, "b": 1, "kind": "x", "c": 0}])
    gaps = places.gaps(off[None], np.stack([off, on]), 0.5)
    assert gaps[0, 0].sum() == 0.0
    assert gaps[0, 1].tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("selection", ["tournament", "nsga2"])
def test_pythons_own_generator_is_left_as_it_was(space: Space, selection: str) -> None:
    random.seed(7)
    before = random.getstate()
    search = proposer(space, selection=selection)
    for _ in range(25):
        step(search, lambda point: float(len(point)), space)
    assert random.getstate() == before


def test_results_that_are_outstanding_hold_nothing_up() -> None:
    search = proposer(MIXED)
    for _ in range(12):
        step(search, lambda point: float(point["unroll"]), MIXED)
    outstanding = []
    for _ in range(30):
        values = search.propose()
        assert values is not None
        outstanding.append(MIXED.active(values))
        search.accept(outstanding[-1])
    assert len(set(outstanding)) == 30
    for point in outstanding:
        search.learn(point, Score((1.0,), 0.0))


def test_failures_are_never_parents() -> None:
    search = proposer(BOARD)
    for _ in range(50):
        step(search, lambda point: None if int(point["a"]) % 2 else bowl(point), BOARD)
    assert all(int(g[0]) % 2 == 0 for g in search._parents)


def test_a_point_that_is_known_is_no_way_off() -> None:
    space = Space((knob("a", Int(0, 3)), knob("b", Int(0, 3))))
    places, feasible = Places(space.knobs), Feasible(space)
    spread, known = Spread(places, feasible, Random(0)), list(places.of(list(feasible.points())))
    last = known.pop(5)
    assert list(places.of([spread.farthest(known)])[0]) == list(last)
