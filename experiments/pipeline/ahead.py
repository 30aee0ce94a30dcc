"""What do builds ahead of measurements save, and how many workers do they take? Builds and runs are slept.

python experiments/pipeline/ahead.py            (about five minutes, nearly all of it asleep)

A target that does not share the processor (a GPU's kernel): while the device measures a trial, the candidates that the
strategy has asked ahead are built. `ahead=1` builds and measures in turns; with `ahead=4` whatever the strategy would
ask for next is built meanwhile. Every pair of searches runs the same candidates, taking turns. `twins`: half of the
points give code that is known, which is dropped without being measured. Writes ahead.json beside
itself, and goes on where it was interrupted.
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

from optimizer.config.objects import strategy_of
from optimizer.device import Host, cpu_model, physical_cores
from optimizer.executors.local import LocalExecutor
from optimizer.feasible import Feasible
from optimizer.measure import LiveMeter
from optimizer.objective import Goal, Objective
from optimizer.protocols import Runner
from optimizer.recipe import Budget, Confirm, Part, Plan, Recipe
from optimizer.report.savings import savings
from optimizer.space import Effect, Int, Json, Knob, Point, Space
from optimizer.study import Bench, search
from optimizer.targets.synthetic import SyntheticTarget
from optimizer.trial import Artifact, Trial

HERE = Path(__file__).parent
SPACE = Space(tuple(Knob(name, Int(1, 16), Effect("setting", name), 1) for name in "abcd"))
TRIALS, REPEATS, CORES = 48, 3, 8
RUN_S = 0.1  # of a trial's measurement
RATIOS = (0.25, 1.0, 2.5)  # of a build to a measurement


@dataclass
class Slept:
    """A synthetic target whose builds take `build_s`, a little more or less; notes how many go on at once."""

    inner: SyntheticTarget
    build_s: float
    twins: bool
    shares_cpu: bool = False
    running: int = 0
    seen: list[int] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fingerprint(self) -> Mapping[str, Json]:
        return {}

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        with self._lock:
            self.running += 1
            self.seen.append(self.running)
        time.sleep(self.build_s * Random(point.key).uniform(0.7, 1.3))
        with self._lock:
            self.running -= 1
        artifact = self.inner.build(point)
        if not self.twins:
            return artifact
        alike = self.inner.build(Point({**point, "a": 1, "b": 1, "c": 1 + int(point["c"]) % 2}))
        return replace(alike, key=point.key)

    def open(self, artifact: Artifact) -> AbstractContextManager[Runner]:
        return self.inner.open(artifact)


def searched(build_s: float, ahead: int, seed: int, *, twins: bool) -> tuple[list[Trial], list[int]]:
    """The trials, and how many builds went on whenever one began, in the second half."""
    goal = Goal((Objective("latency_s"),))
    plan = Plan(warmups=1, min_samples=9, max_samples=9, max_seconds=1.0, drift_every=0, give_up_early=False)
    start = (SPACE.baseline(),)
    recipe = Recipe(Part("slept"), SPACE, Part("random"), goal, plan, Confirm(), seed, ahead, start)
    target = Slept(SyntheticTarget(SPACE, run_s=RUN_S / 10), build_s, twins)
    device, executor = Host(), LocalExecutor(CORES)
    bench = Bench(target, device, executor, LiveMeter(device, plan, goal))
    strategy = strategy_of(recipe, Feasible(SPACE))
    try:
        return list(search(recipe, strategy, bench, Budget(trials=TRIALS))), target.seen[len(target.seen) // 2 :]
    finally:
        executor.close()


def pair(ratio: float, seed: int, *, twins: bool) -> dict[str, float]:
    build_s = ratio * RUN_S
    alone, _ = searched(build_s, 1, seed, twins=twins)
    beside, running = searched(build_s, 4, seed, twins=twins)
    assert [t.candidate for t in alone] == [t.candidate for t in beside], "how many are ahead changes none of random's"
    told = {s.what: s for s in savings(beside)}
    built = told["builds beside each other and beside runs"]
    build_time_s = sum(t.seconds["build"] for t in beside)
    busy_s = sum(s for t in beside for stage, s in t.seconds.items() if stage in ("verify", "measure"))
    return {
        "time with 4 ahead to time in turns": beside[-1].elapsed_s / alone[-1].elapsed_s,
        "share of the time in which the device measures": busy_s / beside[-1].elapsed_s,
        "builds at once": mean(running),
        "not measured, same code": sum(t.outcome.same_as is not None for t in beside),
        "saved as the report says, of the builds' time": (built.seconds or 0.0) / build_time_s,
    }


def main() -> None:
    result: dict[str, Any] = {
        "hardware": f"{cpu_model()}, {physical_cores()} cores",
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "load": round(os.getloadavg()[0], 1),
        "trials": TRIALS,
        "repeats": REPEATS,
    }
    path = HERE / "ahead.json"
    if path.exists():
        result = json.loads(path.read_text(encoding="utf-8"))
    for twins in (False, True):
        for ratio in RATIOS:
            name = f"a build takes {ratio:g} of a measurement" + (", half of the points have twins" if twins else "")
            if name in result:
                continue
            found = [pair(ratio, seed, twins=twins) for seed in range(REPEATS)]
            result[name] = {
                key: {"median": round(median(f[key] for f in found), 3), "all": [round(f[key], 3) for f in found]}
                for key in found[0]
            }
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(name, json.dumps(result[name]), flush=True)


if __name__ == "__main__":
    main()
