"""What better means: losses, limits in all their forms, feasibility, fronts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simple import failed, limit, measured

from optimizer.errors import ConfigError
from optimizer.objective import Direction, Goal, Objective, direction_of, dominates
from optimizer.trial import Reason

FAST = Objective("latency_s")
TOKENS = Objective("tokens_per_s", Direction.MAXIMIZE)


def test_losses_are_lower_where_better() -> None:
    goal = Goal((FAST, TOKENS))
    assert goal.losses(measured(1, latency_s=2.0, tokens_per_s=10.0)) == (2.0, -10.0)
    assert goal.losses(failed(1)) is None
    assert goal.losses(measured(1, latency_s=2.0)) is None


def test_gain_is_above_one_where_better() -> None:
    assert FAST.gain(2.0, 1.0) == 2.0
    assert TOKENS.gain(10.0, 20.0) == 2.0


def test_a_statistic_other_than_the_median() -> None:
    trial = measured(1, latency_s=tuple(float(i) for i in range(1, 101)))
    assert Goal((Objective("latency_s", statistic="p95"),)).losses(trial) == (95.0,)
    assert Goal((Objective("latency_s", statistic="p99"),)).losses(trial) == (99.0,)
    assert Goal((FAST,)).losses(trial) == (50.5,)


LIMITS = [  # bound, value, direction, baseline → the bound in the metric's unit
    ("max", 3.0, "minimize", 10.0, 3.0, "latency_s ≤ 3"),
    ("min", 3.0, "maximize", 10.0, 3.0, "latency_s ≥ 3"),
    ("max_degradation", 2.0, "minimize", 10.0, 12.0, "latency_s ≤ baseline + 2 = 12"),
    ("max_degradation", 2.0, "maximize", 10.0, 8.0, "latency_s ≥ baseline − 2 = 8"),
    ("max_degradation_pct", 2.0, "minimize", 10.0, 10.2, "latency_s ≤ baseline × (1 + 2/100) = 10.2"),
    ("max_degradation_pct", 2.0, "maximize", 10.0, 9.8, "latency_s ≥ baseline × (1 − 2/100) = 9.8"),
    ("min_improvement", 2.0, "minimize", 10.0, 8.0, "latency_s ≤ baseline − 2 = 8"),
    ("min_improvement", 2.0, "maximize", 10.0, 12.0, "latency_s ≥ baseline + 2 = 12"),
    ("min_improvement_pct", 10.0, "minimize", 10.0, 9.0, "latency_s ≤ baseline × (1 − 10/100) = 9"),
    ("min_improvement_pct", 10.0, "maximize", 10.0, 11.0, "latency_s ≥ baseline × (1 + 10/100) = 11"),
]


@pytest.mark.parametrize(("bound", "value", "direction", "baseline", "ceiling", "formula"), LIMITS)
def test_every_form_of_a_limit(
    bound: str, value: float, direction: str, baseline: float, ceiling: float, formula: str
) -> None:
    made = limit("latency_s", bound, value, direction)
    found, upper = made.ceiling(baseline)
    assert found == pytest.approx(ceiling)
    inside, outside = (ceiling * 0.99, ceiling * 1.01) if upper else (ceiling * 1.01, ceiling * 0.99)
    assert made.violation(inside, baseline) == 0
    assert made.violation(ceiling, baseline) == 0
    assert made.violation(outside, baseline) == pytest.approx(0.01, rel=0.02)
    assert made.formula(baseline) == (formula if "baseline" in formula else f"{formula}")


def test_an_absent_metric_breaks_a_limit() -> None:
    assert limit("power_w", "max", 3.0).violation(None, None) == 1.0


def test_a_limit_against_a_baseline_that_lacks_the_metric_is_an_error() -> None:
    with pytest.raises(ConfigError, match="the baseline did not report perplexity"):
        limit("perplexity", "max_degradation_pct", 2.0).violation(3.0, None)


def test_a_limit_on_a_statistic() -> None:
    goal = Goal((FAST,), (limit("latency_s", "max", 90.0),))
    slow_tail = measured(1, latency_s=tuple(float(i) for i in range(1, 101)))
    assert goal.score(slow_tail, slow_tail).feasible
    from dataclasses import replace

    strict = Goal((FAST,), (replace(goal.limits[0], statistic="p95"),))
    assert not strict.score(slow_tail, slow_tail).feasible


QUALITY = Goal((TOKENS,), (limit("perplexity", "max_degradation_pct", 2.0),))
BASE = measured(0, tokens_per_s=10.0, perplexity=4.0)


@pytest.mark.parametrize("reason", list(Reason))
def test_a_trial_that_failed_or_breaks_a_limit_is_never_the_best(reason: Reason) -> None:
    ruined = measured(1, tokens_per_s=1000.0, perplexity=84.0)
    trials = [BASE, ruined, failed(2, reason), measured(3, tokens_per_s=12.0, perplexity=4.07)]
    best = QUALITY.best(trials, BASE)
    assert best is not None
    assert best.number == 3
    assert [t.number for t in QUALITY.front(trials, BASE)] == [3]
    assert QUALITY.violations(ruined, BASE).keys() == {"perplexity"}


def test_equals_are_ranked_by_number() -> None:
    goal = Goal((FAST,))
    trials = [measured(n, latency_s=1.0) for n in (3, 1, 2)]
    assert [t.number for t in goal.ranked(trials, trials[0])] == [1, 2, 3]


def test_nothing_feasible_no_best() -> None:
    assert QUALITY.best([failed(1)], BASE) is None


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25))
def test_the_front_is_what_nothing_dominates(values: list[tuple[int, int]]) -> None:
    goal = Goal((FAST, Objective("peak_memory_bytes")))
    trials = [measured(i, latency_s=float(a), peak_memory_bytes=float(b)) for i, (a, b) in enumerate(values)]
    front = {t.number for t in goal.front(trials, trials[0])}
    losses = [goal.losses(t) or () for t in trials]
    for i, mine in enumerate(losses):
        dominated = any(dominates(other, mine) for other in losses)
        earlier_equal = any(other == mine for other in losses[:i])
        assert (i in front) == (not dominated and not earlier_equal)


def test_a_goal_that_the_target_can_t_meet_is_told_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tokens_per_s'"):
        Goal((Objective("token_per_s"),)).check(BASE)
    with pytest.raises(ConfigError, match="needs energy_j"):
        Goal((TOKENS,), (limit("energy_j", "max", 1.0),)).check(BASE)
    QUALITY.check(BASE)


def test_directions() -> None:
    assert direction_of("latency_s", None) is Direction.MINIMIZE
    assert direction_of("tokens_per_s", None) is Direction.MAXIMIZE
    assert direction_of("latency_s", "maximize") is Direction.MAXIMIZE
    with pytest.raises(ConfigError, match="not a direction"):
        direction_of("latency_s", "upwards")
    with pytest.raises(ConfigError, match="Which way is goodness better"):
        direction_of("goodness", None)
