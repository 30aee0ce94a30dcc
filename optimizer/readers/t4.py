"""What is in a T4 results file, the auto-tuning community's exchange format (FAIR benchmark hub, schema 1.0.0)?

`results` is a list of `configuration`, `times` (`compilation`, `runtimes`, … in `metadata.timeunit`), `invalidity`
("correct" or why not) and `measurements` (name, value).
"""

from collections.abc import Mapping
from typing import Any

from optimizer.readers.kernel_tuner import is_time, recorded_samples
from optimizer.space import Json, Point
from optimizer.trial import Candidate, Check, Failed, Measured, Reason, Stage, Trial

UNITS = {"s": 1.0, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9}  # by the first letter; "seconds", "miliseconds", …
FAILURES: Mapping[str, tuple[Stage, Reason]] = {
    "compile": (Stage.BUILD, Reason.COMPILE),
    "runtime": (Stage.MEASURE, Reason.CRASH),
    "timeout": (Stage.MEASURE, Reason.TIMEOUT),
    "constraints": (Stage.BUILD, Reason.REJECTED),
    "correctness": (Stage.VERIFY, Reason.WRONG),
}


def t4_trials(document: Json) -> list[Trial]:
    """A trial for every result."""
    unit = str((document.get("metadata") or {}).get("timeunit") or "milliseconds").lower()
    if unit[0] not in UNITS:
        raise ValueError(f"the time unit {unit}")
    return [_trial(number, result, UNITS[unit[0]]) for number, result in enumerate(document["results"])]


def _trial(number: int, result: Mapping[str, Any], unit: float) -> Trial:
    times = result.get("times") or {}
    readings = [float(t) * unit for t in times.get("runtimes") or () if is_time(t)]
    seconds = {Stage.BUILD.value: float(times["compilation"]) * unit} if is_time(times.get("compilation")) else {}
    if readings:
        seconds[Stage.MEASURE.value] = sum(readings)
    candidate = Candidate(number, Point(result["configuration"]))
    invalidity = str(result.get("invalidity") or "correct")
    told = {m["name"]: m["value"] for m in result.get("measurements") or ()}
    mean = told.get("time", told.get("runtime"))
    mean_s = float(mean) * unit if is_time(mean) else sum(readings) / len(readings) if readings else None
    if invalidity != "correct" or mean_s is None:
        stage, reason = FAILURES.get(invalidity, (Stage.MEASURE, Reason.CRASH))
        return Trial(candidate, Failed(stage, reason, invalidity), seconds)
    return Trial(candidate, Measured(Check(), recorded_samples(mean_s, readings)), seconds)
