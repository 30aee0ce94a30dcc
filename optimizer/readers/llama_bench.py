"""What does llama.cpp's llama-bench write with `-o json` or `-o jsonl`?

An object a test: prompt processing (n_prompt tokens), generation (n_gen tokens) or both, at a depth, with the single
readings in nanoseconds and tokens per second.
"""

from collections.abc import Mapping
from typing import Any

from optimizer.objective import Direction, Objective
from optimizer.readers.benchmark import Benchmark, Content, measured, number, scaled, split
from optimizer.space import Value
from optimizer.trial import Samples, Summary, Trial

NS = 1e-9
WORK = ("n_prompt", "n_gen", "n_depth")
READINGS = ("avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts")
PLACE = (
    "build_commit",
    "build_number",
    "cpu_info",
    "gpu_info",
    "backends",
    "test_time",
    "model_size",
    "model_n_params",
)


def is_llama_bench(content: Content) -> bool:
    rows = content.document
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(isinstance(r, dict) and {"n_prompt", "n_gen", "avg_ts"} <= r.keys() for r in rows)
    )


def llama_bench(content: Content) -> Benchmark:
    rows: list[dict[str, Any]] = content.document
    settings = [{k: v for k, v in r.items() if k not in (*READINGS, *PLACE) and _is_value(v)} for r in rows]
    varying, constant = split(settings, WORK)
    first = rows[0]
    trials = [
        _trial(i, row, {n: s.get(n, "") for n in varying})
        for i, (row, s) in enumerate(zip(rows, settings, strict=True))
    ]
    models = sorted({str(r.get("model_type", "")) for r in rows})
    device = str(first.get("gpu_info") or first.get("cpu_info") or "not stated")
    sizes: dict[str, Any] = {k: first[k] for k in ("model_size", "model_n_params") if k in first and len(models) == 1}
    build = f"{first.get('build_number')} ({first.get('build_commit')})"
    return Benchmark(
        "llama-bench", "llama-bench", tuple(trials), Objective(_metric(first), Direction.MAXIMIZE), device, WORK,
        measured_at=str(first.get("test_time", "")), facts={**constant, **sizes},
        host={k: first[k] for k in ("cpu_info", "gpu_info", "backends") if k in first},
        compilers={"llama.cpp": build} if "build_commit" in first else {},
    )  # fmt: skip


def _metric(row: Mapping[str, Any]) -> str:
    return "tokens_per_s" if row["n_gen"] else "prefill_tokens_per_s"


def _is_value(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _trial(i: int, row: Mapping[str, Any], point: Mapping[str, Value]) -> Trial:
    """Tokens per second of a prompt and of an answer are two metrics, and both together a third."""
    samples: dict[str, tuple[float, ...]] = {}
    summaries: dict[str, Summary] = {}
    for name, theirs, mean, sd, unit in (
        (_metric(row), "samples_ts", "avg_ts", "stddev_ts", 1.0),
        ("latency_s", "samples_ns", "avg_ns", "stddev_ns", NS),
    ):
        if listed := tuple(float(v) * unit for v in row.get(theirs) or () if number(v)):
            samples[name] = listed
        elif number(row.get(mean)):
            summaries[name] = Summary(scaled(row[mean], unit), scaled(row.get(sd), unit))
    facts = {"model_bytes": float(row["model_size"])} if number(row.get("model_size")) else {}
    return measured(i, point, _unlike_zero(samples), summaries, facts=facts)


def _unlike_zero(samples: Samples) -> Samples:
    return {name: values for name, values in samples.items() if any(values)}
