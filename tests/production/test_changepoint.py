"""The change-point test: how often it is wrong, how soon it is right, and where it says that the change is."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizer.production.changepoint import ALPHA, WINDOW, change

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
LAWS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "outliers": lambda rng, n: rng.standard_cauchy(size=n),
    "skewed": lambda rng, n: rng.lognormal(sigma=1.0, size=n),
}


def first_alarm(values: NDArray[np.float64]) -> int | None:
    """After how many values the test first says that there is a change."""
    return next((t for t in range(12, len(values) + 1) if change(values[:t].tolist()) is not None), None)


@pytest.mark.parametrize("law", LAWS)
def test_false_alarms_are_as_rare_as_they_are_said_to_be(law: str) -> None:
    """Within 40 checks, of which 29 can alarm: 1 − (1 − 1/500)^29 = 5.6% of the streams."""
    rng = np.random.default_rng(7)
    streams = 400
    alarms = sum(first_alarm(LAWS[law](rng, 40)) is not None for _ in range(streams))
    expected = streams * (1 - (1 - ALPHA) ** 29)
    assert abs(alarms - expected) <= 3.5 * np.sqrt(expected)


def test_a_shift_is_found_soon_and_where_it_is() -> None:
    """20 checks of a ratio that varies by 1%, then 4% less."""
    rng = np.random.default_rng(3)
    delays, places = [], []
    for _ in range(60):
        values = np.concatenate([rng.normal(0.0, 0.01, 20), rng.normal(-0.04, 0.01, 20)])
        alarm = first_alarm(values)
        assert alarm is not None
        found = change(values[:alarm].tolist())
        assert found is not None
        delays.append(alarm - 20)
        places.append(found.at)
    assert np.median(delays) <= 6
    assert abs(np.median(places) - 20) <= 1


def test_it_tells_both_levels() -> None:
    found = change([1.0 + i / 1e6 for i in range(15)] + [2.0 + i / 1e6 for i in range(15)])
    assert found is not None
    assert found.at == 15
    assert found.before == pytest.approx(1.0, abs=1e-3)
    assert found.after == pytest.approx(2.0, abs=1e-3)


def test_few_values_and_equal_values_show_nothing() -> None:
    assert change([]) is None
    assert change([1.0] * 5 + [9.0] * 5) is None
    assert change([1.0] * 50) is None


def test_a_long_series_is_looked_at_from_its_end() -> None:
    values = [float(i % 7) for i in range(300)] + [50.0 + i % 7 for i in range(30)]
    found = change(values)
    assert found is not None
    assert found.at == 300
    assert len(values) - WINDOW > 200
