"""What does the pipeline save, and what does it cost? Each part writes its figures into result.json beside this file.

python experiments/pipeline/run.py                     (all parts; half an hour on two quiet cores)
python experiments/pipeline/run.py cache loop          (some of them: cache, loop, ray, long)

Nothing here depends on absolute times but `loop`: ratios are of neighbours, medians have a bootstrapped 95% interval.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from optimizer.config import load
from optimizer.device import cpu_model, physical_cores
from optimizer.journal import Study, read
from optimizer.protocols import Ending
from optimizer.recipe import Environment, Recipe
from optimizer.session import run as run_session
from optimizer.trial import Samples, Trial

HERE = Path(__file__).parent
GEMM = ("target.options.m=64", "target.options.n=64", "target.options.k=64", "measure.confirm.max_seconds=1")
NOT_OURS = ("build", "verify", "measure", "confirm")
ROOMY = ("space.unroll=range(1,1001)", "space.constraints.budget=null")  # 384,000 valid configurations
TENTHS, BLOCKS = 10, 100  # a long search in tenths, each in blocks whose costs give a median


def interval(values: Sequence[float]) -> list[float]:
    """A bootstrapped 95% interval of the median."""
    rng = Random(0)
    medians = sorted(median(rng.choices(values, k=len(values))) for _ in range(2000))
    return [medians[49], medians[1950]]


def summary(values: Sequence[float]) -> dict[str, Any]:
    return {"median": median(values), "interval_95": interval(values), "n": len(values)}


def search(folder: Path, study: str, *words: str) -> Mapping[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "optimizer", "search", f"study={study}", *words, "--json"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


# --- a second identical search


def cache(repeats: int) -> dict[str, Any]:
    """Build time with a warm cache against that with an empty one; for `auto`, whose candidates depend on what was
    measured, how many of its builds were there."""
    shares, known = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            kept = f"build_cache.folder={folder}/cache"
            words = ("target=gemm_cpu", "measure=quick", "tracking=none", "budget.trials=20", *GEMM, kept)
            first, second = (search(folder, study, *words, "strategy=random") for study in ("first", "second"))
            assert points(folder, "first") == points(folder, "second")
            shares.append(second["seconds"]["build"] / first["seconds"]["build"])
            for study in ("auto-first", "auto-second"):
                search(folder, study, *words, "strategy=auto")
            trials = read(folder / "studies" / "auto-second" / "journal.jsonl").trials
            built = [t for t in trials if t.artifact is not None]
            known.append(sum("build_cached" in t.artifact.facts for t in built if t.artifact) / len(built))
    return {"ratio_build_time_second_to_first": summary(shares), "share_of_builds_known_to_auto": summary(known)}


def points(folder: Path, study: str) -> list[object]:
    return [t.point for t in read(folder / "studies" / study / "journal.jsonl").trials]


# --- what the loop costs


ZERO_COST = ("target=synthetic", "strategy=random", "measure=quick", "measure.drift_every=0", *ROOMY)


def loop(repeats: int, trials_each: int) -> dict[str, Any]:
    """The loop's own time a trial with the pool and MLflow on: all but building, verifying, measuring, confirming. And
    everything up to the last trial, with what the synthetic target takes."""
    words = (*ZERO_COST, f"budget.trials={trials_each}", "executor.workers=2", "tracking=mlflow")
    own, whole = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            found = search(Path(name), "x", *words)
            trials = read(Path(name) / "studies" / "x" / "journal.jsonl").trials
        seconds = found["seconds"]
        own.append(1000 * (seconds["total"] - sum(seconds.get(s, 0.0) for s in NOT_OURS)) / found["trials"])
        whole.append(1000 * trials[-1].elapsed_s / len(trials))
    return {"trials": trials_each, "own_ms_a_trial": summary(own), "everything_ms_a_trial": summary(whole)}


def loop_with_ray(repeats: int) -> dict[str, Any]:
    """Everything a trial up to the last, on a cluster of two machines: a build's task and its parcel, the device taken
    and given, a program opened, verified, measured and closed by calls. Beside it the same words without Ray."""
    from ray.cluster_utils import Cluster

    words = (*ZERO_COST, "budget.trials=500", "tracking=none")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # its sockets need a short path
        store = {"object_store_memory": 80_000_000}
        cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store}
        )
        try:
            for machine in ("one", "two"):
                (Path(folder) / machine).mkdir()
                cluster.add_node(num_cpus=1, env_vars={"TMPDIR": str(Path(folder) / machine)}, **store)
            there = ("executor=ray", f"executor.address={cluster.address}")
            pairs = [(by_trial(*words, *there), by_trial(*words)) for _ in range(repeats)]
        finally:
            cluster.shutdown()
    return {
        "everything_ms_a_trial": summary([median(ray) for ray, _ in pairs]),
        "mean_ms_a_trial": summary([sum(ray) / len(ray) for ray, _ in pairs]),
        "everything_ms_a_trial_without_ray": summary([median(local) for _, local in pairs]),
    }


def by_trial(*words: str) -> list[float]:
    """Milliseconds between the ends of neighbouring trials, the first hundred left out: machines import meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        search(Path(name), "x", *words)
        ends = [t.elapsed_s for t in read(Path(name) / "studies" / "x" / "journal.jsonl").trials]
    return [1000 * (b - a) for a, b in pairwise(ends[100:])]


# --- a long search


class Watch:
    """A screen that notes time and memory after every block of trials."""

    def __init__(self, trials: int) -> None:
        self.trials, self.seen = trials, 0
        self.marks: list[tuple[int, float, float]] = [(0, *_now())]

    def on_trial(self, trial: Trial) -> None:
        self.seen += 1
        if self.seen % (self.trials // (TENTHS * BLOCKS)) == 0:
            self.marks.append((self.seen, *_now()))

    def on_start(self, recipe: Recipe, environment: Environment) -> None: ...
    def on_drift(self, after: int, samples: Samples) -> None: ...
    def on_end(self, ending: Ending) -> None: ...
    def recall(self, trial: Trial) -> None: ...
    def say(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def waiting(self, text: str) -> None: ...
    def stop(self) -> None: ...


def _now() -> tuple[float, float]:
    """CPU seconds and resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return time.process_time(), float(pages * os.sysconf("SC_PAGESIZE"))


def long(trials: int) -> dict[str, Any]:
    """In a process of its own, so that its memory is its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--long-search", str(trials)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def long_search(trials: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        words = ["target=synthetic", "strategy=random", "measure=quick", "tracking=none", f"budget.trials={trials}"]
        setup = load([*words, *ROOMY, "study=x", f"studies_dir={folder}"], (), date(2026, 1, 1))
        watch = Watch(trials)
        study: Study = run_session(setup, watch, time.perf_counter, resume=False).study
        assert len(study.trials) == trials
    pairs = list(zip(watch.marks, watch.marks[1:], strict=False))
    cpu_ms = [1000 * (b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs]
    tenths = [cpu_ms[i * BLOCKS : (i + 1) * BLOCKS] for i in range(TENTHS)]
    start, last = watch.marks[BLOCKS], watch.marks[-1]  # what the first tenth takes is the program's own
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "trials": trials,
        "cpu_ms_a_trial_by_tenth": [summary(tenth) for tenth in tenths],
        "ratio_middle_tenth_to_first": ratio(tenths[TENTHS // 2], tenths[0]),
        "ratio_last_tenth_to_first": ratio(tenths[-1], tenths[0]),
        "cpu_ms_a_trial_all": 1000 * (last[1] - watch.marks[0][1]) / trials,
        "bytes_a_trial_while_searching": (last[2] - start[2]) / (last[0] - start[0]),
        "bytes_a_trial_at_the_peak": (peak_bytes - watch.marks[0][2]) / trials,
    }


def ratio(late: Sequence[float], early: Sequence[float]) -> dict[str, Any]:
    """Of the medians, with a bootstrapped 95% interval."""
    rng = Random(0)
    drawn = sorted(
        median(rng.choices(late, k=len(late))) / median(rng.choices(early, k=len(early))) for _ in range(2000)
    )
    return {"median": median(late) / median(early), "interval_95": [drawn[49], drawn[1950]], "n": len(late)}


def main() -> None:
    parts: Mapping[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "cache": lambda given: cache(given.repeats),
        "loop": lambda given: loop(given.repeats, given.loop_trials),
        "ray": lambda given: loop_with_ray(given.repeats),
        "long": lambda given: long(given.trials),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="unset: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=100_000, help="of the long search")
    parser.add_argument("--loop-trials", type=int, default=1000)
    parser.add_argument("--long-search", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.long_search:
        print(json.dumps(long_search(given.long_search)))
        return
    path = HERE / "result.json"
    for name in given.parts or parts:
        load_before = os.getloadavg()[0]
        figures = parts[name](given)
        place = {
            "hardware": f"{cpu_model()}, {physical_cores()} cores",
            "at": datetime.now(UTC).isoformat(timespec="minutes"),
            "load_before_and_after": [load_before, os.getloadavg()[0]],
        }
        result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        result[name] = {**place, **figures}
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({name: result[name]}, indent=1), flush=True)


if __name__ == "__main__":
    main()
