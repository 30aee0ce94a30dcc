"""The race's protocol, and what its figures mean."""

from collections.abc import Sequence

import pytest
from simple import TINY, failed, measured

from optimizer.config import racer_of, strategy_names
from optimizer.race import Course, FinishedRace, Run, Track, geometric_mean, raced, standing, standings, track_of
from optimizer.readers.recording import Recording
from optimizer.space import Point
from optimizer.trial import Reason

POINTS = [Point({"a": a, "b": b}) for a in (1, 2, 3) for b in ("x", "y")]
VALUES = [4.0, 2.0, None, 1.0, 8.0, 3.0]  # seconds; None: it failed


@pytest.fixture
def track() -> Track:
    trials = tuple(
        failed(n, Reason.CRASH, p) if v is None else measured(n, p, latency_s=v)
        for n, (p, v) in enumerate(zip(POINTS, VALUES, strict=True))
    )
    return track_of("t", Recording("t", TINY.listing(POINTS), trials))


def in_order(order: Sequence[int]) -> object:
    def run(course: Course, seed: int) -> None:
        for i in order:
            course.evaluate(POINTS[i])

    return run


def test_a_failure_counts_and_gives_no_value(track: Track) -> None:
    run = raced(track, "s", in_order([2, 0, 1, 3]), 0, 4)  # type: ignore[arg-type]
    assert run.curve == (8.0, 4.0, 2.0, 1.0), "best so far starts at the worst value; the optimum is 1"


def test_repeats_and_what_was_not_recorded_are_free(track: Track) -> None:
    course = Course.start(track, 3)
    assert course.evaluate(POINTS[0]) == 4.0
    assert course.evaluate(POINTS[0]) == 4.0
    assert course.evaluate(Point({"a": 9, "b": "x"})) is None
    assert len(course.curve) == 1
    course.evaluate(POINTS[1])
    course.evaluate(POINTS[2])
    assert course.done
    assert course.evaluate(POINTS[1]) == 2.0
    with pytest.raises(FinishedRace):
        course.evaluate(POINTS[3])


def test_one_that_gives_up_keeps_what_it_has(track: Track) -> None:
    run = raced(track, "s", in_order([1]), 0, 5)  # type: ignore[arg-type]
    assert run.curve == (2.0,) * 5


def test_figures_of_several_runs() -> None:
    runs = [Run("t", "s", n, curve, (1.0, 2.0, 3.0), 0.5) for n, curve in enumerate([(2.0, 1.2, 1.0), (1.0, 1.0, 1.0)])]
    found = standing(runs)
    assert found.mean == pytest.approx((1.5, 1.1, 1.0))
    assert (found.low[0], found.high[0]) == pytest.approx((1.0, 2.0))
    assert found.within(0.05) == 3
    assert found.within(0.2) == 2
    document = found.document()
    assert document["repeats"] == 2
    assert document["within_5pct"] == document["within_1pct"] == 3
    assert document["seconds_within_5pct"] == 3.0
    assert document["ratio"] == {}


def test_the_geometric_mean_needs_every_space() -> None:
    runs = [Run("t", "s", 0, (4.0, 1.0), (0.0, 0.0), 0.0), Run("u", "s", 0, (1.0, 1.0), (0.0, 0.0), 0.0)]
    assert geometric_mean(standings(runs), "s", 1) == pytest.approx(2.0)
    assert geometric_mean(standings(runs), "s", 3) is None
    assert geometric_mean(standings([*runs, Run("u", "z", 0, (1.0,), (0.0,), 0.0)]), "z", 1) is None


@pytest.mark.parametrize("name", [*strategy_names(), "auto@4"])
def test_every_strategy_races_to_the_end_of_a_space(name: str, track: Track) -> None:
    run = raced(track, name, racer_of(name), 1, 6)
    assert len(run.curve) == 6
    assert run.curve[-1] == 1.0
    assert list(run.curve) == sorted(run.curve, reverse=True)
