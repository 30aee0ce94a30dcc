"""What does the program itself cost? Ratios of things measured interleaved in one run.

python experiments/overhead/run.py            (about four minutes)

Writes result.json beside itself and prints it. Nothing here is compiled or measured: the synthetic target answers at
once, so what is left of a trial is the loop's own work.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from optimizer.device import cpu_model, physical_cores
from optimizer.expression import parse
from optimizer.feasible import Feasible
from optimizer.space import Choice, Constraint, Effect, Knob, Space

HERE = Path(__file__).parent
NOT_OURS = ("build", "verify", "measure", "confirm")


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interval(values: Sequence[float]) -> list[float]:
    """A bootstrapped 95% interval of the median."""
    rng = Random(0)
    medians = sorted(median(rng.choices(values, k=len(values))) for _ in range(2000))
    return [medians[49], medians[1950]]


def summary(values: Sequence[float]) -> dict[str, Any]:
    return {"median": median(values), "interval_95": interval(values), "n": len(values)}


# --- the loop


def search(trials: int, tracking: str) -> Mapping[str, Any]:
    words = ["target=synthetic", "strategy=random", "measure=quick", f"budget.trials={trials}", "study=x"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "optimizer", "search", *words, f"tracking={tracking}", "--json"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
    found: Mapping[str, Any] = json.loads(done.stdout)
    assert found["trials"] == trials
    return found


def own_ms(found: Mapping[str, Any]) -> float:
    """Of a trial: everything but building, verifying, measuring and confirming, up to the flush of the tracker."""
    seconds = found["seconds"]
    return 1000 * float(seconds["total"] - sum(seconds.get(s, 0.0) for s in NOT_OURS)) / int(found["trials"])


def loop(repeats: int) -> dict[str, Any]:
    small, large, bare, flush_ms = [], [], [], []
    for _ in range(repeats):
        small.append(own_ms(search(1000, "mlflow")))
        bare.append(own_ms(search(1000, "none")))
        found = search(5000, "mlflow")
        large.append(own_ms(found))
        flush_ms.append(1000 * found["seconds"]["tracking"] / 5000)
    return {
        "own_ms_a_trial_at_1000": summary(small),
        "own_ms_a_trial_at_5000": summary(large),
        "ratio_5000_to_1000": summary([b / a for a, b in zip(small, large, strict=True)]),
        "ratio_with_mlflow_to_without": summary([a / b for a, b in zip(small, bare, strict=True)]),
        "flush_ms_a_trial_at_5000": summary(flush_ms),
    }


# --- the command line


def command_line(repeats: int) -> dict[str, Any]:
    words = {
        "--help": ["-m", "optimizer", "--help"],
        "search --help": ["-m", "optimizer", "search", "--help"],
        "targets": ["-m", "optimizer", "targets"],
    }
    ratios: dict[str, list[float]] = {name: [] for name in words}

    def process(arguments: Sequence[str]) -> float:
        return timed(lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL))

    for _ in range(repeats):
        base = process(["-c", "pass"])
        for name, arguments in words.items():
            ratios[name].append(process(arguments) / base)
    return {f"ratio_{name}_to_pass": summary(values) for name, values in ratios.items()}


# --- listing a space


def million() -> Space:
    """Six knobs of ten values, three constraints: 10^6 combinations, of which about a quarter are valid."""
    knobs = tuple(
        Knob(name, Choice(tuple(range(1, 11)), ordered=True), Effect("setting", name), 1) for name in "abcdef"
    )
    texts = {"area": "a * b <= 40", "ratio": "c % d == 0 or e > f", "sum": "a + c + e <= 20"}
    return Space(knobs, tuple(Constraint(n, parse(t)) for n, t in texts.items()))


def listing(repeats: int) -> dict[str, Any]:
    import constraint  # python-constraint2

    def theirs() -> int:
        problem = constraint.Problem()
        for name in "abcdef":
            problem.addVariable(name, list(range(1, 11)))
        for text in ("a * b <= 40", "c % d == 0 or e > f", "a + c + e <= 20"):
            problem.addConstraint(text)
        return len(problem.getSolutions())

    def ours() -> int:
        found = Feasible(million())
        return len(found.rows) if found.enumerable else 0

    assert ours() == theirs(), "both list the same"
    mine, ratios = [], []
    for _ in range(repeats):
        mine.append(timed(ours))
        ratios.append(timed(theirs) / mine[-1])
    return {
        "configurations": ours(),
        "list_a_million_combinations_s": summary(mine),
        "ratio_python_constraint2_to_ours": summary(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=3, help="of each search")
    repeats = parser.parse_args().repeats
    result = {
        "hardware": f"{cpu_model()}, {physical_cores()} cores",
        **command_line(20),
        **listing(5),
        **loop(repeats),
    }
    text = json.dumps(result, indent=1)
    (HERE / "result.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
