"""Estimates, stopping rules and verdicts: exact numbers, coverage, and what must never be said."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.stats import (
    FEWEST,
    Estimate,
    Judgement,
    apart,
    dip,
    enough,
    estimate,
    hopeless,
    judge,
    modes,
    quantile,
)


@pytest.mark.parametrize(
    ("n", "rank"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (10, 2), (12, 3), (15, 4), (20, 6), (25, 8), (100, 40)]
)
def test_ranks_are_those_of_the_tables(n: int, rank: int) -> None:
    # Conover, Practical Nonparametric Statistics, table A3 (binomial, p = 1/2), two-sided 95%.
    found = estimate([float(i) for i in range(1, n + 1)])
    assert (found.low, found.high) == (rank, n + 1 - rank)


def test_the_normal_approximation_joins_on() -> None:
    below, above = estimate([float(i) for i in range(1000)]), estimate([float(i) for i in range(1001)])
    assert abs((above.high - above.low) - (below.high - below.low)) <= 2


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    rng = Random(1)
    for n in (6, 10, 21):
        covered = 0
        for _ in range(2000):
            found = estimate([rng.lognormvariate(0, 1) for _ in range(n)])
            covered += found.low <= 1.0 <= found.high
        assert covered / 2000 > 0.94


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_an_interval_holds_its_median(samples: list[float]) -> None:
    found = estimate(samples)
    assert min(samples) <= found.low <= found.median <= found.high <= max(samples)


def test_no_samples_no_estimate() -> None:
    with pytest.raises(ValueError, match="no samples"):
        estimate([])


def test_quantiles_are_readings() -> None:
    readings = [float(i) for i in range(1, 101)]
    assert (quantile(readings, 0.95), quantile(readings, 0.99), quantile(readings, 1.0)) == (95, 99, 100)
    assert quantile([3.0], 0.5) == 3.0


def test_enough_needs_an_interval() -> None:
    assert not enough([1.0] * (FEWEST - 1), 0.5)
    assert enough([1.0] * FEWEST, 0.01)
    assert not enough([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], 0.01)
    assert estimate([1.0] * 3).rel_error == math.inf
    assert estimate([0.0] * 9).rel_error == math.inf


def test_hopeless_only_with_confidence() -> None:
    best = Estimate(1.0, 0.99, 1.01, 20)
    assert hopeless([1.5] * 6, best)
    assert not hopeless([1.5] * 5, best), "too few readings"
    assert not hopeless([1.04] * 20, best), "within the margin"
    assert not hopeless([0.9, 1.5, 1.5, 1.5, 1.5, 1.5], best), "its interval reaches the best"
    assert not hopeless([9.0] * 20, None)
    assert hopeless([3.1, 3.2], best), "two readings are enough where both are over three times as bad"
    assert not hopeless([3.1], best)
    assert not hopeless([3.1, 2.9], best)
    assert hopeless([-0.6, -0.65], Estimate(-2.0, -2.1, -1.9, 20))
    assert not hopeless([-0.6, -0.7], Estimate(-2.0, -2.1, -1.9, 20))
    assert hopeless([-1.0] * 6, Estimate(-2.0, -2.1, -1.9, 20)), "losses of a metric that is maximised are negative"


def test_a_verdict_needs_the_interval_and_the_gain() -> None:
    assert judge([1.2] * 10, "latency_s", 7, 0.01).judgement is Judgement.BETTER
    assert judge([1 / 1.2] * 10, "latency_s", 7, 0.01).judgement is Judgement.WORSE
    assert judge([1.005] * 10, "latency_s", 7, 0.01).judgement is Judgement.SAME, "below the least gain"
    assert judge([1.2] * 5, "latency_s", 7, 0.01).judgement is Judgement.SAME, "too few rounds for an interval"
    assert judge([0.9, 0.95, 1.2, 1.3, 1.4, 1.2, 1.3, 1.1, 1.2, 1.25], "x", 7, 0.01).judgement is Judgement.SAME
    verdict = judge([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9], "x", 7, 0.01)
    assert (verdict.low, verdict.high, verdict.rounds, verdict.number) == (1.1, 1.8, 10, 7)
    assert verdict.ratio == pytest.approx(1.45)


def test_identical_configurations_are_called_the_same() -> None:
    rng = Random(5)
    wrong = 0
    for _ in range(400):
        gains = [math.exp(rng.gauss(0, 0.05)) for _ in range(10)]
        wrong += judge(gains, "latency_s", 1, 0.01).judgement is not Judgement.SAME
    assert wrong / 400 < 0.05


def test_the_dip_is_that_of_the_authors_program() -> None:
    """Values of the package diptest, which wraps it: even steps, equal readings, two heaps, one heap, ties."""
    assert dip([0.0, 1.0, 2.0, 3.0]) == 1 / 8
    assert dip([1.0] * 5) == 1 / 10
    assert dip([0.0, 0.1, 0.2, 5.0, 5.1, 5.2]) == pytest.approx(0.24)
    assert dip([1.0, 2.0, 2.9, 3.5, 4.0, 4.1, 4.5, 5.2, 6.0, 8.0]) == pytest.approx(0.05)
    assert dip([0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 5.0, 5.0, 5.0]) == pytest.approx(1 / 6)


def test_two_heaps_are_told_from_one() -> None:
    random = Random(3)
    one = [random.gauss(1, 0.05) for _ in range(60)]
    two = [*one, *(random.gauss(1.4, 0.05) for _ in range(30))]
    found = modes(two)
    assert found is not None
    assert found.low == pytest.approx(1.0, abs=0.03) and found.high == pytest.approx(1.4, abs=0.03)
    assert found.upper_share == pytest.approx(1 / 3, abs=0.03)
    assert modes(one) is None
    assert modes([*one, 5.0, 6.0]) is None, "a far reading is no heap"
    assert modes([1.0, 2.0] * 5) is None, "too few to say"
    assert modes([1.0] * 100) is None


@pytest.mark.parametrize("count", [12, 40, 100])
def test_one_heap_is_hardly_ever_taken_for_two(count: int) -> None:
    """Uniform readings are the hardest: 0.1 % of them are."""
    random = Random(count)
    assert sum(modes([random.random() for _ in range(count)]) is not None for _ in range(1000)) <= 6


def test_readings_are_apart_where_their_intervals_are() -> None:
    one = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05]
    assert apart(one, [v + 0.1 for v in one])
    assert not apart(one, [v + 0.02 for v in one])
    assert not apart(one[:5], [v + 0.1 for v in one]), "five readings have no interval"
