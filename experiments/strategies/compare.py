"""Do the strategies that learn beat random search? On a known function, and on a space measured to its end.

python experiments/strategies/compare.py            (about ten minutes on two cores)

For every problem, strategy and seed: the best loss found within the budget. A strategy beats random search where the
one-sided Mann-Whitney test on the seeds' results says so. Writes result.json and prints a table.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median

from scipy.stats import mannwhitneyu

from optimizer.config import load
from optimizer.device import cpu_model, physical_cores
from optimizer.executors.local import InlineExecutor
from optimizer.measure import LiveMeter
from optimizer.study import Bench, search
from optimizer.targets.replay import PlayedMeter
from optimizer.trial import Measured, samples_of

HERE = Path(__file__).parent
RECORDING = HERE / "gemm_cpu.jsonl.gz"
PROBLEMS: Mapping[str, Sequence[str]] = {
    "synthetic": ("target=synthetic", "measure=quick"),
    "gemm_cpu, recorded": ("target=replay", f"target.file={RECORDING}"),
}
STRATEGIES = ("random", "tpe", "genetic")
TRIALS, SEEDS = 60, 30


def best_found(problem: str, strategy: str, trials: int, seed: int) -> float:
    """The lowest median latency, in seconds, that a search without a journal finds."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*PROBLEMS[problem], f"strategy={strategy}", f"seed={seed}", f"budget.trials={trials}"]
        setup = load([*words, "tracking=none", f"studies_dir={folder}"], [], date(2000, 1, 1))
        recipe = setup.recipe
        meter = PlayedMeter() if setup.made.clock else LiveMeter(setup.made.device, recipe.plan, recipe.goal)
        bench = Bench(setup.made.target, setup.made.device, InlineExecutor(), meter)
        found = list(search(recipe, setup.strategy(), bench, setup.budget))
    assert len(found) == trials
    return min(median(samples_of(t)["latency_s"]) for t in found if isinstance(t.outcome, Measured))


def p_value(found: Sequence[float], random: Sequence[float]) -> float:
    """That such results, or lower ones, come of random search (one-sided Mann-Whitney)."""
    return float(mannwhitneyu(found, random, alternative="less").pvalue)


def main() -> None:
    result = {"hardware": f"{cpu_model()}, {physical_cores()} cores", "trials": TRIALS, "seeds": SEEDS, "problems": {}}
    with ProcessPoolExecutor(physical_cores()) as pool:
        for problem in PROBLEMS:
            bests = {s: list(pool.map(partial(best_found, problem, s, TRIALS), range(SEEDS))) for s in STRATEGIES}
            table = {
                s: {"median_best_s": median(b), "p_against_random": p_value(b, bests["random"]), "bests_s": b}
                for s, b in bests.items()
            }
            result["problems"][problem] = table  # type: ignore[index]
            for strategy, row in table.items():
                print(f"{problem:20} {strategy:8} {row['median_best_s']:.6g} s  p = {row['p_against_random']:.2g}")
    (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
