"""How far from 0 does the community's score put random search, and why? Simulated random searches, thousands of them.

python experiments/race/methodology_check.py --work FOLDER [--trials 10] [FILE.json.gz ...]

The package's curve of a strategy is drawn of runs that are sampled here, so that many scores of 25 runs can be made:
their mean is the score's bias, their deviation its noise. The second score is against a baseline without the package's
two slips: the best of M draws of N has rank (N + 1) / (M + 1) - 1, counted from 0 (the package's is 1 lower), and a
valid draw costs f / (1 - f) invalid ones where a share f fails (the package counts f).
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from methodology import DEFAULT_FILES, HERE, SHORTEST, TIMES, Course, prepared

COLUMNS = ("repeats", "share of the space", "score", "noise", "exact baseline")
CASES = ((5, 1.0), (25, 1.0), (100, 1.0), (25, 0.1))  # 0.1: where Kernel Tuner's random_sample stops by itself


def searches(found: Any, repeats: int, share: float, limit_s: float, rng: np.random.Generator) -> tuple[Any, Any]:
    """Seconds and best value after each evaluation, (evaluations, repeats); none after the limit."""
    size = int(np.ceil(share * found.size))
    orders = np.stack([rng.permutation(found.size)[:size] for _ in range(repeats)], axis=1)
    seconds = np.cumsum(found.objective_times_total[orders], axis=0)
    best = np.fmin.accumulate(found.objective_performances_total[orders], axis=0)
    over = np.vstack([np.zeros((1, repeats), dtype=bool), seconds[:-1] > limit_s])
    kept = ~over.all(axis=1)
    return np.where(over, np.nan, seconds)[kept], np.where(over, np.nan, best)[kept]


def scores(course: Course, cutoff: float, trials: int) -> list[tuple[float, ...]]:
    """A row for every case."""
    from autotuning_methodology.baseline import RandomSearchCalculatedBaseline
    from autotuning_methodology.curves import StochasticOptimizationAlgorithm
    from autotuning_methodology.searchspace_statistics import SearchspaceStatistics

    results = course.cache.with_name(f"{course.gpu}_T4.json")
    found = SearchspaceStatistics(course.kernel, course.gpu, True, TIMES, ["time"], results, full_validate=False)
    *_, start_s, end_s = found.cutoff_point_fevals_time_start_end(0.01, cutoff)
    times_s = np.linspace(start_s, end_s, 1000)
    values = found.objective_performances_total_sorted
    package = RandomSearchCalculatedBaseline(found).get_curve(times_s, "time")
    valid_s = np.nanmean(found.objective_times_total) * found.size / len(values)
    rank = (len(values) + 1) / (np.maximum(times_s / valid_s, 1) + 1) - 1
    exact = np.interp(rank, np.arange(len(values)), values)
    if end_s / valid_s < SHORTEST:
        return []
    curve = StochasticOptimizationAlgorithm.__new__(StochasticOptimizationAlgorithm)
    curve.name = curve.display_name = curve.application_name = curve.device_name = course.space
    curve.minimization = True
    rng = np.random.default_rng(0)
    np.random.seed(0)
    rows: list[tuple[float, ...]] = []
    for repeats, share in CASES:
        ours = []
        for _ in range(trials):
            curve._x_time, curve._y = searches(found, repeats, share, 1.1 * end_s, rng)
            drawn = curve.get_curve_over_time(times_s, values, 0.95, return_split=False)[2]
            ours.append([float(np.mean((b - drawn) / (b - values[0]))) for b in (package, exact)])
        means = np.mean(ours, axis=0)
        rows.append((repeats, share, float(means[0]), float(np.std(ours, axis=0)[0]), float(means[1])))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--cutoff", type=float, default=0.95)
    parser.add_argument("--work", type=Path, required=True)
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"| space | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 1)}")
    for file in words.files or sorted(f for p in DEFAULT_FILES for f in (HERE / "data").glob(f"{p}.json.gz")):
        course = prepared(file, words.work)
        for repeats, share, score, noise, exact in scores(course, words.cutoff, words.trials):
            print(f"| {course.space} | {repeats} | {share} | {score:+.3f} | {noise:.3f} | {exact:+.3f} |", flush=True)


if __name__ == "__main__":
    main()
