"""What does hyperfine write with `--export-json`? Both schemas: that of 1.x, and version 2 of hyperfine 2.

Commands are alternatives (that is what hyperfine compares); its parameters are knobs. A run that ended with a non-zero
exit code makes its command a failure, as hyperfine itself takes it unless it was told to ignore that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from optimizer.objective import Objective
from optimizer.readers.benchmark import Benchmark, Content, failed, measured, number, scaled, summary, value_of
from optimizer.space import Value
from optimizer.trial import Stage, Summary, Trial

STATS = {"mean": "mean", "sd": "stddev", "low": "min", "high": "max", "median": "median"}
MEASURED = {"time_wall_clock": "latency_s", "time_cpu": "cpu_time_s", "memory_peak_resident": "peak_memory_bytes"}
LISTED = {"times": "latency_s", "memory_usage_byte": "peak_memory_bytes"}
UNITS = {"second": 1.0, "byte": 1.0}


def is_hyperfine(content: Content) -> bool:
    document = content.document
    if not isinstance(document, dict) or not isinstance(document.get("results"), list) or not document["results"]:
        return False
    return all(
        isinstance(r, dict) and "command" in r and ("mean" in r or "measurements" in r) for r in document["results"]
    )


def hyperfine(content: Content) -> Benchmark:
    document = content.document
    metadata = document.get("metadata") or {}
    results: Sequence[Mapping[str, Any]] = document["results"]
    trials = [_trial(i, r) for i, r in enumerate(results)]
    version = metadata.get("hyperfine_version")
    return Benchmark(
        "hyperfine", "commands timed by hyperfine", tuple(trials), Objective("latency_s"),
        measured_at=str(metadata.get("start_time", "")), host=dict(metadata.get("platform") or {}),
        compilers={"hyperfine": str(version)} if version else {},
    )  # fmt: skip


def _trial(i: int, result: Mapping[str, Any]) -> Trial:
    point: dict[str, Value] = {"command": str(result["command"])}
    point |= {name: value_of(str(value)) for name, value in (result.get("parameters") or {}).items()}
    readings = result.get("measurements")
    codes = [m.get("exit_code") for m in readings] if readings is not None else result.get("exit_codes") or []
    if wrong := [c for c in codes if c != 0]:
        ended = "a signal" if wrong[0] is None else f"exit code {wrong[0]}"
        return failed(i, point, Stage.MEASURE, f"{len(wrong)} of {len(codes)} runs ended with {ended}")
    samples: dict[str, tuple[float, ...]] = {}
    summaries: dict[str, Summary] = {}
    if readings is not None:
        for theirs, ours in MEASURED.items():
            if found := tuple(_quantity(m[theirs]) for m in readings if theirs in m):
                samples[ours] = found
    else:
        for theirs, ours in LISTED.items():
            if found := tuple(float(v) for v in result.get(theirs) or () if number(v)):
                samples[ours] = found
        if "latency_s" not in samples:
            summaries["latency_s"] = summary(result, STATS)
        user, system = scaled(result.get("user")), scaled(result.get("system"))
        if user is not None and system is not None:
            summaries["cpu_time_s"] = Summary(mean=user + system)
    return measured(i, point, samples, summaries)


def _quantity(told: Mapping[str, Any]) -> float:
    return float(told["value"]) * UNITS[told.get("unit", "second")]
