"""Has the level of a series changed, and where? A test that is asked again after every new value.

The change-point model of Hawkins, Qiu and Kang (2003) with Mann-Whitney's statistic (Ross, Tasoulis and Adams,
Technometrics 53(4), 2011): of all splits of the series the one whose parts differ most in rank, standardised. It is a
change where that exceeds a threshold for the series' length, made so that every check has the same chance of a false
alarm, ALPHA, whatever the distribution of the values. Of fewer than 12 values no split is rare enough.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

import numpy as np

ALPHA = 1 / 500
"""One false alarm in 500 checks: in four months at one every six hours."""
WINDOW = 100  # values that are looked at: the thresholds end there
_THRESHOLDS = Path(__file__).with_name("thresholds.json")  # experiments/monitor/thresholds.py writes them


@dataclass(frozen=True)
class Change:
    """The values from `at` on lie elsewhere; `before` and `after` are the medians of the two parts."""

    at: int
    before: float
    after: float


def change(values: Sequence[float]) -> Change | None:
    """The change in a series of values, if there is one; `at` counts from the series' beginning."""
    start = max(0, len(values) - WINDOW)
    series = np.asarray(values[start:], dtype=float)
    t = len(series)
    limit = _thresholds()[t - 1] if t else math.inf
    if not math.isfinite(limit):
        return None
    signs = np.sign(series[None, :] - series[:, None])  # [i, j]: whether j is larger than i
    later = np.array([signs[:k, k:].sum() for k in range(1, t)])
    k = np.arange(1, t)
    statistic = np.abs(later) / np.sqrt(k * (t - k) * (t + 1) / 3)
    split = int(np.argmax(statistic)) + 1
    if statistic[split - 1] <= limit:
        return None
    before, after = series[:split].tolist(), series[split:].tolist()
    return Change(start + split, median(before), median(after))


@lru_cache(maxsize=1)
def _thresholds() -> tuple[float, ...]:
    told = json.loads(_THRESHOLDS.read_text(encoding="utf-8"))["thresholds"]
    return tuple(math.inf if value is None else float(value) for value in told)
