"""How often does the change-point test of `monitor` cry wolf, and how long does it take to see a real change?

python experiments/monitor/alarms.py [STREAMS]    writes result.json
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from optimizer.production.changepoint import ALPHA, change

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
LAWS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "Cauchy": lambda rng, n: rng.standard_cauchy(size=n),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
}
LENGTH, FIRST = 60, 12
SHIFTS = (1.0, 2.0, 3.0, 5.0)  # standard deviations between two checks
QUIET = 30  # checks before the change


def first_alarm(values: NDArray[np.float64]) -> int | None:
    return next((t for t in range(FIRST, len(values) + 1) if change(values[:t].tolist()) is not None), None)


def false_alarms(law: Draw, streams: int, seed: int) -> float:
    """The share of streams without a change that alarm within LENGTH checks."""
    rng = np.random.default_rng(seed)
    return sum(first_alarm(law(rng, LENGTH)) is not None for _ in range(streams)) / streams


def delays(shift: float, streams: int, seed: int) -> list[int]:
    """Checks from the change to the alarm, of streams without an earlier one; LENGTH where none came."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(streams):
        values = np.concatenate([rng.normal(size=QUIET), rng.normal(-shift, 1.0, size=LENGTH)])
        if (alarm := first_alarm(values)) is None or alarm > QUIET:
            found.append(LENGTH if alarm is None else alarm - QUIET)
    return found


if __name__ == "__main__":
    streams = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    expected = 1 - (1 - ALPHA) ** (LENGTH - FIRST + 1)
    late = {str(s): delays(s, streams // 4, 12) for s in SHIFTS}
    result = {
        "streams": streams,
        "checks": LENGTH,
        "false_alarms_expected": round(expected, 4),
        "false_alarms": {name: round(false_alarms(law, streams, 11), 4) for name, law in LAWS.items()},
        "delay_median_checks": {s: median(found) for s, found in late.items()},
        "delay_p90_checks": {s: float(np.quantile(found, 0.9)) for s, found in late.items()},
    }
    Path(__file__).with_name("result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
