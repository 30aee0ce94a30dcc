"""What does pytest-benchmark write with `--benchmark-json`?

Statistics of each benchmark's rounds, seconds an iteration, and the rounds themselves (`stats.data`, unless they were
stripped as `--benchmark-save` does without `--benchmark-save-data`).
"""

from collections.abc import Mapping
from typing import Any

from optimizer.objective import Objective
from optimizer.readers.benchmark import Benchmark, Content, measured, number, summary
from optimizer.space import Value
from optimizer.trial import Trial

STATS = {"mean": "mean", "sd": "stddev", "low": "min", "high": "max", "median": "median"}
PYTHON = ("python_implementation", "python_implementation_version", "python_compiler")
HOST = ("node", "machine", "system", "release")


def is_pytest_benchmark(content: Content) -> bool:
    document = content.document
    return isinstance(document, dict) and {"machine_info", "benchmarks"} <= document.keys()


def pytest_benchmark(content: Content) -> Benchmark:
    document = content.document
    machine, commit = document["machine_info"], document.get("commit_info") or {}
    cpu = machine.get("cpu") or {}
    trials = [_trial(i, entry) for i, entry in enumerate(document["benchmarks"])]
    return Benchmark(
        "pytest-benchmark", f"pytest-benchmark of {commit.get('project') or 'a project'}", tuple(trials),
        Objective("latency_s"), str(cpu.get("brand_raw") or machine.get("processor") or "not stated"), ("benchmark",),
        str(document.get("datetime", "")),
        host={k: machine[k] for k in HOST if machine.get(k)} | ({"cores": cpu["count"]} if "count" in cpu else {}),
        compilers={k: str(machine[k]) for k in PYTHON if machine.get(k)}, commit=str(commit.get("id") or ""),
    )  # fmt: skip


def _trial(i: int, entry: Mapping[str, Any]) -> Trial:
    """`benchmark` names the test with its parameters. What a test adds as extra_info is kept as words."""
    stats = entry["stats"]
    point: dict[str, Value] = {"benchmark": str(entry.get("fullname") or entry["name"])}
    words = [f"{k}={v}" for k, v in (entry.get("extra_info") or {}).items()]
    readings = tuple(float(v) for v in stats.get("data") or () if number(v))
    if readings:
        return measured(i, point, {"latency_s": readings}, arguments=words)
    return measured(i, point, {}, {"latency_s": summary(stats, STATS, n=stats.get("rounds"))}, arguments=words)
