"""Above which statistic is a change called one? Thresholds with a constant chance of a false alarm at every check.

Streams without a change are simulated; at each length the threshold is the value that a share ALPHA of the streams
that gave no alarm before exceed (Hawkins, Qiu and Kang 2003). Mann-Whitney's statistic is of ranks alone, so the
thresholds hold for every continuous distribution. Writes thresholds.json; its values stand in
optimizer/production/thresholds.json.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimizer.production.changepoint import ALPHA, WINDOW

STREAMS = 100_000
SEED = 20261128
PLACE = Path(__file__).parents[2] / "optimizer" / "production" / "thresholds.json"


def thresholds(streams: int, length: int, alpha: float, seed: int) -> list[float]:
    """One a length, from 1 on; infinite where no value is rare enough."""
    rng = np.random.default_rng(seed)
    x = rng.random((streams, 0), dtype=np.float32)
    signs = np.zeros((streams, 0), dtype=np.float32)  # of each split: how much more often the later one is larger
    found: list[float] = []
    for t in range(1, length + 1):
        new = rng.random((len(x), 1), dtype=np.float32)
        before = np.cumsum(np.sign(new - x), axis=1)
        signs = np.concatenate([signs, np.zeros((len(x), 1), np.float32)], axis=1)[:, : t - 1] + before
        x = np.concatenate([x, new], axis=1)
        best = statistic(signs, t)
        limit = float(np.quantile(best, 1 - alpha, method="higher")) if t > 1 else np.inf
        if t > 1 and np.mean(best > limit) == 0 and np.mean(best >= limit) > 2 * alpha:
            limit = np.inf  # the greatest value that there can be is not rare enough
        found.append(limit)
        keep = best <= limit
        x, signs = x[keep], signs[keep]
    return found


def statistic(signs: NDArray[np.float32], t: int) -> NDArray[np.float32]:
    """The largest standardised difference over the splits of streams of length t."""
    if t < 2:
        return np.zeros(len(signs), np.float32)
    k = np.arange(1, t, dtype=np.float32)
    result: NDArray[np.float32] = np.max(np.abs(signs) / np.sqrt(k * (t - k) * (t + 1) / 3), axis=1)
    return result


if __name__ == "__main__":
    values = thresholds(STREAMS, WINDOW, ALPHA, SEED)
    told = {
        "alpha": ALPHA,
        "streams": STREAMS,
        "seed": SEED,
        "thresholds": [None if v == np.inf else round(v, 4) for v in values],
    }
    PLACE.write_text(json.dumps(told) + "\n", encoding="utf-8")
    print(told["thresholds"])
