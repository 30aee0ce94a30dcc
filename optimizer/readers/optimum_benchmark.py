"""What is in a benchmark.json of optimum-benchmark (`config` and `report`)?

One configuration a file. Text generation reports load_model, prefill, generate, decode and per_token; other tasks
forward or call; each has latency (single readings), throughput, memory (MB = 10⁶ bytes) and energy (kWh).
"""

from collections.abc import Mapping
from typing import Any

from optimizer.objective import Direction, Objective
from optimizer.readers.benchmark import Benchmark, Content, measured, number
from optimizer.space import Value

MB, KWH = 1e6, 3.6e6
KNOBS = ("device", "torch_dtype", "quantization_scheme", "torch_compile", "attn_implementation", "no_weights")
LATENCIES = {"load_model": "load_s", "prefill": "ttft_s", "decode": "decode_s"}
WHOLE = ("generate", "call", "forward")  # what one inference is, by task
RATES = {
    "decode": "tokens_per_s",
    "prefill": "prefill_tokens_per_s",
    "call": "throughput_ips",
    "forward": "throughput_ips",
}
MEMORY = {"max_ram": "peak_memory_bytes", "max_process_vram": "peak_gpu_memory_bytes"}


def is_optimum_benchmark(content: Content) -> bool:
    document = content.document
    return (
        isinstance(document, dict)
        and {"config", "report"} <= document.keys()
        and "backend" in (document["config"] or {})
    )


def optimum_benchmark(content: Content) -> Benchmark:
    config, report = content.document["config"], content.document["report"]
    backend, scenario, place = config["backend"], config["scenario"], config.get("environment") or {}
    point: dict[str, Value] = {"backend": str(backend["name"])}
    point |= {k: backend[k] for k in KNOBS if isinstance(backend.get(k), bool | int | float | str)}
    shapes = {**(scenario.get("input_shapes") or {}), **(scenario.get("generate_kwargs") or {})}
    work = ", ".join([str(backend.get("task")), str(backend.get("model")), *(f"{k} {v}" for k, v in shapes.items())])
    samples = _samples(report)
    gpus = place.get("gpu") or []
    device = str(gpus[0] if gpus and backend.get("device") == "cuda" else place.get("cpu", "not stated")).strip()
    objective = Objective("tokens_per_s", Direction.MAXIMIZE) if "tokens_per_s" in samples else Objective("latency_s")
    versions = {k.removesuffix("_version"): str(v) for k, v in place.items() if k.endswith("_version") and v}
    return Benchmark(
        "optimum-benchmark", work, (measured(0, point, samples),), objective, device,
        facts={"model": backend.get("model"), "warmup_runs": scenario.get("warmup_runs")},
        host={k: place[k] for k in ("system", "machine", "cpu", "cpu_count") if k in place},
        compilers={str(backend["name"]): str(backend.get("version")), **versions},
    )  # fmt: skip


def _samples(report: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Readings of every part that was measured; the most memory of all parts."""
    found: dict[str, tuple[float, ...]] = {}
    whole = next((part for part in WHOLE if _of(report, part, "latency")), None)
    parts = dict(LATENCIES) | ({whole: "latency_s"} if whole else {})
    for part, ours in parts.items():
        if readings := tuple(float(v) for v in _of(report, part, "latency").get("values") or () if number(v)):
            found[ours] = readings
    for part, ours in RATES.items():
        if number(value := _of(report, part, "throughput").get("value")):
            found[ours] = (float(value),)
    for theirs, ours in MEMORY.items():
        peaks = [m[theirs] for part in report if number((m := _of(report, part, "memory")).get(theirs))]
        if peaks:
            found[ours] = (max(peaks) * MB,)
    if whole and number(energy := _of(report, whole, "energy").get("total")):
        found["energy_j"] = (float(energy) * KWH,)
    return found


def _of(report: Mapping[str, Any], part: str, what: str) -> Mapping[str, Any]:
    return (report.get(part) or {}).get(what) or {}
