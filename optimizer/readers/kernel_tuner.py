"""What is in a cache file of Kernel Tuner (https://github.com/KernelTuner/kernel_tuner, `cache=`)?

`cache` maps a configuration to its parameters and what was measured: `time` (milliseconds; an error's name where it
failed), `times` (single readings), `compile_time`, `benchmark_time`, `verification_time` (milliseconds).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from optimizer.space import Json, Point
from optimizer.trial import Candidate, Check, Failed, Measured, Outcome, Reason, Stage, Trial

FAILURES: Mapping[str, tuple[Stage, Reason]] = {
    "CompilationFailedConfig": (Stage.BUILD, Reason.COMPILE),
    "RuntimeFailedConfig": (Stage.MEASURE, Reason.CRASH),
    "InvalidConfig": (Stage.BUILD, Reason.REJECTED),
}
SECONDS: Mapping[str, str] = {
    "compile_time": Stage.BUILD,
    "verification_time": Stage.VERIFY,
    "benchmark_time": Stage.MEASURE,
}
MS = 1e-3


def kernel_tuner_trials(document: Json) -> list[Trial]:
    """A trial for every configuration."""
    names = document.get("tune_params_keys") or list(document["tune_params"])
    return [_trial(number, names, entry) for number, entry in enumerate(document["cache"].values())]


def _trial(number: int, names: Sequence[str], entry: Mapping[str, Any]) -> Trial:
    point = Point({name: entry[name] for name in names})
    seconds = {stage: float(entry[key]) * MS for key, stage in SECONDS.items() if is_time(entry.get(key))}
    return Trial(Candidate(number, point), outcome_of(entry["time"], entry.get("times") or ()), seconds)


def outcome_of(time_ms: object, readings_ms: Sequence[float]) -> Outcome:
    """The mean and the single readings, seconds; or how it failed. A number that is no time (infinite, 1e20) failed."""
    if not is_time(time_ms):
        stage, reason = FAILURES.get(str(time_ms), (Stage.MEASURE, Reason.CRASH))
        return Failed(stage, reason, str(time_ms))
    return Measured(Check(), recorded_samples(time_ms * MS, [float(t) * MS for t in readings_ms if is_time(t)]))


def recorded_samples(mean_s: float, readings_s: Sequence[float]) -> dict[str, tuple[float, ...]]:
    """`latency_s` is the recorded mean. Readings are kept relative to their own mean: some tuners' time adds transfers
    to what the readings count, and a reading drawn later must be one of the recorded time."""
    samples: dict[str, tuple[float, ...]] = {"latency_s": (mean_s,), "throughput_ips": (1 / mean_s,)}
    if readings_s:
        own = sum(readings_s) / len(readings_s)
        samples["recorded_latency_s"] = tuple(mean_s * r / own for r in readings_s)
    return samples


def is_time(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 < value < 1e20
