"""Intervals and tests against SciPy, and that they cover what they say."""

import numpy as np
import pytest
from scipy import stats

from optimizer.report.resampling import (
    chi_square_tail,
    effect,
    holm,
    kruskal_wallis,
    ranks,
    ratio_of_means,
    ratio_of_medians,
    spearman,
    t_quantile,
)
from optimizer.trial import Summary


@pytest.mark.parametrize("dof", [3.0, 4.5, 9.0, 18.0, 100.0])
def test_students_quantile(dof: float) -> None:
    assert t_quantile(dof) == pytest.approx(stats.t.ppf(0.975, dof), rel=0.01)


@pytest.mark.parametrize(("x", "dof"), [(0.5, 1), (3.84, 1), (5.99, 2), (20.0, 3), (12.0, 10)])
def test_tail_of_chi_square(x: float, dof: int) -> None:
    assert chi_square_tail(x, dof) == pytest.approx(stats.chi2.sf(x, dof), abs=0.01)


def test_kruskal_wallis_with_ties() -> None:
    rng = np.random.default_rng(1)
    values = np.round(rng.normal(size=36), 1)
    values[:12] += 0.8
    codes = np.repeat([0, 1, 2], 12)
    expected = stats.kruskal(values[:12], values[12:24], values[24:]).pvalue
    assert kruskal_wallis(values, codes, 3) == pytest.approx(expected, abs=0.003)


def test_ranks_and_spearman() -> None:
    values = [3.0, 1.0, 2.0, 2.0, 9.0, 4.0, 8.0, 7.0, 5.0]
    assert list(ranks(values)) == list(stats.rankdata(values))
    rho, p = spearman(list(range(9)), values)
    expected = stats.spearmanr(range(9), values)
    assert rho == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue, abs=0.03)
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == (0.0, 1.0)


def test_holm() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_a_ratio_of_means_covers_the_truth() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        a, b = rng.normal(2.0, 0.3, 10), rng.normal(1.0, 0.1, 10)
        found = ratio_of_means(*(Summary(x.mean(), x.std(ddof=1), n=10) for x in (a, b)))
        assert found is not None
        held += found.low <= 2.0 <= found.high
    assert 370 <= held <= 392  # 95 % of 400, with three standard errors


def test_no_interval_without_what_it_needs() -> None:
    whole = Summary(1.0, 0.1, n=10)
    for lacking in (
        Summary(1.0, 0.1),
        Summary(1.0, n=10),
        Summary(sd=0.1, n=10),
        Summary(1.0, 0.1, n=1),
        Summary(0.0, 0.1, n=5),
    ):
        assert ratio_of_means(whole, lacking) is None


def test_a_ratio_of_medians_repeats_and_contains_itself() -> None:
    a, b = [2.0, 2.1, 2.2, 2.3, 2.0, 2.1], [1.0, 1.1, 1.0, 1.2, 1.1, 1.0]
    found = ratio_of_medians(a, b)
    assert found == ratio_of_medians(a, b)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(2.1 / 1.05)


def test_an_effect_is_found_where_there_is_one_and_nowhere_else() -> None:
    rng = np.random.default_rng(3)
    levels = [i % 3 for i in range(60)]
    noise = rng.lognormal(0, 0.05, 60)
    clear = effect([n * (1.5 if level == 2 else 1.0) for n, level in zip(noise, levels, strict=True)], levels)
    assert (clear.highest, clear.p < 0.001) == ("2", True)
    assert clear.ratio.low < 1.5 < clear.ratio.high
    assert clear.share.low > 0.4
    nothing = effect(list(noise), levels)
    assert nothing.p > 0.05
    assert nothing.share.value < 0.1
