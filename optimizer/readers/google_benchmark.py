"""What does Google Benchmark write with `--benchmark_format=json` (or --benchmark_out)?

A run an entry: its real and CPU time an iteration. Repetitions of a benchmark are its readings; where only aggregates
were reported, they are a summary. A skipped benchmark has `error_occurred` and `error_message`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from optimizer.objective import Objective
from optimizer.readers.benchmark import Benchmark, Content, failed, measured, number, scaled
from optimizer.trial import Stage, Summary, Trial

UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
TIMES = {"real_time": "latency_s", "cpu_time": "cpu_time_s"}
RATES = {"items_per_second": "items_per_s", "bytes_per_second": "achieved_bytes_per_s"}
FIELDS = {"mean": "mean", "median": "median", "stddev": "sd"}
HOST = ("host_name", "num_cpus", "mhz_per_cpu", "cpu_scaling_enabled", "load_avg", "library_build_type", "executable")


def is_google_benchmark(content: Content) -> bool:
    document = content.document
    return isinstance(document, dict) and {"context", "benchmarks"} <= document.keys()


def google_benchmark(content: Content) -> Benchmark:
    context = dict(content.document["context"])
    runs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in content.document["benchmarks"]:
        runs[str(entry.get("run_name", entry["name"]))].append(entry)
    trials = [_trial(i, name, entries) for i, (name, entries) in enumerate(runs.items())]
    version = {"google-benchmark": str(context["library_version"])} if "library_version" in context else {}
    device = f"{context.get('num_cpus', '?')} CPUs at {context.get('mhz_per_cpu', '?')} MHz"
    return Benchmark(
        "google-benchmark", f"Google Benchmark of {str(context.get('executable', 'a program')).rsplit('/', 1)[-1]}",
        tuple(trials), Objective("latency_s"), device, ("benchmark",), str(context.get("date", "")),
        host={k: context[k] for k in HOST if k in context}, compilers=version,
    )  # fmt: skip


def _trial(i: int, name: str, entries: Sequence[Mapping[str, Any]]) -> Trial:
    point = {"benchmark": name}
    if errors := [e for e in entries if e.get("error_occurred")]:
        return failed(i, point, Stage.MEASURE, str(errors[0].get("error_message") or "no reason was told"))
    unit = UNITS[entries[0].get("time_unit", "ns")]
    single = [e for e in entries if e.get("run_type", "iteration") == "iteration"]
    told = {str(e.get("aggregate_name")): e for e in entries if e.get("run_type") == "aggregate"}
    samples: dict[str, tuple[float, ...]] = {}
    summaries: dict[str, Summary] = {}
    for theirs, ours in {**TIMES, **RATES}.items():
        scale = unit if theirs in TIMES else 1.0
        if readings := tuple(float(e[theirs]) * scale for e in single if number(e.get(theirs))):
            samples[ours] = readings
        elif values := {FIELDS[a]: scaled(e.get(theirs), scale) for a, e in told.items() if a in FIELDS}:
            known = {k: v for k, v in values.items() if v is not None}
            if known:
                summaries[ours] = Summary(**known, n=int(next(iter(told.values())).get("repetitions", 0)) or None)
    if not samples and not summaries:
        return failed(i, point, Stage.MEASURE, "the file has no time of it")
    return measured(i, point, samples, summaries)
