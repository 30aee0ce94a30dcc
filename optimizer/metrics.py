"""What do the numbers mean? Each metric's unit, and which way is better."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A name that every target uses for the same thing. `better` is None where neither way is."""

    name: str
    unit: str
    better: Better | None
    text: str


_METRICS = (
    Metric("compile_time_s", "s", "lower", "time to build, wall clock"),
    Metric("compile_cpu_time_s", "s", "lower", "time to build, CPU time of all processes"),
    Metric("compile_warm_s", "s", "lower", "time to build with a warm cache"),
    Metric("compile_frontend_s", "s", "lower", "time spent in the compiler's front end"),
    Metric("compile_ptxas_s", "s", "lower", "time spent in ptxas"),
    Metric("build_cached", "1", None, "1: not built for this trial; its compile times are those of the first build"),
    Metric("units_cached", "1", None, "translation units that were not compiled for this trial"),
    Metric("load_s", "s", "lower", "time from start to ready: weights, inputs"),
    Metric("latency_s", "s", "lower", "time of one inference (one batch)"),
    Metric("throughput_ips", "1/s", "higher", "inferences per second"),
    Metric("tokens_per_s", "1/s", "higher", "generated tokens per second of the whole scenario"),
    Metric("ttft_s", "s", "lower", "time to the first token"),
    Metric("prompt_eval_s", "s", "lower", "time to process the prompt, as Ollama tells it"),
    Metric("eval_s", "s", None, "time to generate the whole answer, as Ollama tells it; it grows with the answer"),
    Metric("decode_s", "s", "lower", "time to generate all tokens after the first"),
    Metric("generated_tokens", "1", None, "length of the answer in tokens"),
    Metric("response_chars", "1", None, "length of the answer in characters"),
    Metric("items_per_s", "1/s", "higher", "items per second, as the benchmark counts them"),
    Metric("decode_tokens_per_s", "1/s", "higher", "generated tokens per second after the prompt was read"),
    Metric("prompt_tokens", "1", None, "length of the prompt in tokens"),
    Metric("reloads", "1", None, "readings that were dropped because the model was loaded before them"),
    Metric("short_answers", "1", None, "readings that were dropped because the answer ended early"),
    Metric("loaded_bytes", "B", "lower", "memory that a loaded model takes, as its server tells it"),
    Metric("loaded_gpu_bytes", "B", None, "the part of it on the GPU"),
    Metric("shared_answer_pct", "%", "higher", "share of the baseline's answers before the first word that differs"),
    Metric("prefill_tokens_per_s", "1/s", "higher", "prompt tokens per second"),
    Metric("cpu_time_s", "s", "lower", "CPU time of one inference, all threads"),
    Metric("given_up", "1", None, "1: sampling stopped early, worse than the best with high confidence"),
    Metric("foreign_load_pct", "%", None, "share of the machine that others used meanwhile"),
    Metric("gpu_utilization_pct", "%", "higher", "share of time in which the GPU ran a kernel"),
    Metric("memory_utilization_pct", "%", None, "share of time in which GPU memory was read or written"),
    Metric("peak_memory_bytes", "B", "lower", "most resident memory while running"),
    Metric("peak_gpu_memory_bytes", "B", "lower", "most GPU memory while running"),
    Metric("power_w", "W", "lower", "power draw"),
    Metric("energy_j", "J", "lower", "energy of one inference: mean power while it was measured, times its duration"),
    Metric("temperature_c", "°C", None, "temperature of the device"),
    Metric("sm_clock_hz", "Hz", None, "clock of the streaming multiprocessors"),
    Metric("mem_clock_hz", "Hz", None, "clock of the GPU's memory"),
    Metric("gpu_memory_used_bytes", "B", None, "GPU memory in use by all processes"),
    Metric("throttled_pct", "%", None, "share of time in which heat or the power supply held the clocks down"),
    Metric("achieved_bytes_per_s", "B/s", "higher", "memory traffic achieved"),
    Metric("achieved_flop_per_s", "FLOP/s", "higher", "arithmetic achieved"),
    Metric("transform_s", "s", "lower", "time to quantise and prune"),
    Metric("graphs", "1", None, "parts of the model that were compiled as one"),
    Metric("graph_breaks", "1", "lower", "places where a compiler gave up and Python went on"),
    Metric("recompiles", "1", "lower", "compilations after the first answer"),
    Metric("cache_hits", "1", None, "graphs that came from the compile cache"),
    Metric("cache_misses", "1", None, "graphs that were compiled anew"),
    Metric("threads", "1", None, "threads that an operator computes with"),
    Metric("operators", "1", None, "operators of the traced graph"),
    Metric("package_bytes", "B", "lower", "size of the compiled package, weights included"),
    Metric("binary_bytes", "B", "lower", "size of the program"),
    Metric("model_bytes", "B", "lower", "size of the weights as stored"),
    Metric("shared_bytes", "B", "lower", "shared memory per block"),
    Metric("constant_bytes", "B", "lower", "constant memory"),
    Metric("registers", "1", "lower", "registers per thread"),
    Metric("spill_bytes", "B", "lower", "bytes spilled per thread"),
    Metric("occupancy_pct", "%", "higher", "theoretical occupancy"),
    Metric("unverified", "1", None, "1: the answer was not checked, or not on the hardware that computes it"),
    Metric("max_rel_error", "1", "lower", "largest error relative to the reference's largest value"),
    Metric("top1_agreement_pct", "%", "higher", "share of answers equal to the unmodified model's"),
    Metric("perplexity", "1", "lower", "perplexity on held-out text"),
    Metric("accuracy", "1", "higher", "share of right answers on held-out data"),
    Metric("quality_loss_pct", "%", "lower", "quality lost against the baseline"),
)
METRICS = {m.name: m for m in _METRICS}
"""Targets may report others too (flop, bytes_moved, …); an objective over one of them states its direction."""


def better(metric: str) -> Better | None:
    return METRICS[metric].better if metric in METRICS else None


_BY_ENDING = {
    "_bytes_per_s": "B/s", "_flop_per_s": "FLOP/s", "_per_s": "1/s", "_ips": "1/s", "_s": "s", "_bytes": "B",
    "_w": "W", "_j": "J", "_hz": "Hz", "_pct": "%", "_c": "°C",
}  # fmt: skip


def unit_of(metric: str) -> str | None:
    """The unit that a metric's name promises, a known one's or one's of the same style; None where it promises none."""
    if metric in METRICS:
        return METRICS[metric].unit
    return next((unit for ending, unit in _BY_ENDING.items() if metric.endswith(ending)), None)
