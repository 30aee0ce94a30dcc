"""From which dip on do readings lie in two heaps? The 99.9% quantile of the dip of uniform readings, times √n.

python experiments/noise/thresholds.py    (about a minute)

Prints the table that stands in optimizer/stats.py, with half the difference between two halves of the draws behind it.
"""

import math
from random import Random

from optimizer.stats import dip

COUNTS = (12, 16, 24, 50, 100, 400, 1000)
DRAWS = 40_000
LARGEST_S = 400  # readings, of which as many draws are made; more are the dearer


def main() -> int:
    random = Random(1)
    for count in COUNTS:
        draws = DRAWS if count <= LARGEST_S else DRAWS // 4
        found = [math.sqrt(count) * dip(sorted(random.random() for _ in range(count))) for _ in range(draws)]
        halves = [quantile(found[k::2]) for k in (0, 1)]
        print(f"{count:>5}  {quantile(found):.4f}  ±{abs(halves[0] - halves[1]) / 2:.4f}")
    return 0


def quantile(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.999 * len(values)) - 1]


if __name__ == "__main__":
    raise SystemExit(main())
