"""What is in the JSON files that Chimera's benchmarks write (https://github.com/Sahil170595/Chimera)?

Three kinds: backends of one torch model (compile time; mean, deviation, extremes of the latency), single kernels
(the same four numbers, nothing else), and prompts answered by Ollama (its own timings, one reading each).
"""

from collections.abc import Mapping
from typing import Any

from optimizer.objective import Direction, Objective
from optimizer.readers.benchmark import MS, Benchmark, Content, failed, measured, number, scaled, summary
from optimizer.space import Value
from optimizer.trial import Stage, Trial

TIMES = {"mean": "mean_time_ms", "sd": "std_time_ms", "low": "min_time_ms", "high": "max_time_ms"}
OLLAMA: Mapping[str, str] = {
    "ttft_s": "ttft_s",
    "tokens_s": "tokens_per_s",
    "load_s": "load_s",
    "prompt_eval_s": "prompt_eval_s",
    "eval_s": "eval_s",
    "eval_count": "generated_tokens",
    "response_chars": "response_chars",
}
TOKENS = Objective("tokens_per_s", Direction.MAXIMIZE)
LONG = ("graph_preview", "error", "compile_time_s")  # of a backend's metadata: told elsewhere


def is_backends(content: Content) -> bool:
    document = content.document
    return isinstance(document, dict) and {"model", "settings", "backends"} <= document.keys()


def backends(content: Content) -> Benchmark:
    """A trial a backend. A backend that failed stands in the file with the time 0.0: here it failed."""
    document = content.document
    model = dict(document["model"])
    device = str(model.pop("device"))
    settings = {k: v for k, v in document["settings"].items() if k != "backends"}
    runs = settings.get("runs")
    told = document["backends"].items()
    trials = [_backend(i, name, entry, runs) for i, (name, entry) in enumerate(told)]
    work = ", ".join([str(model.pop("name")), *(f"{k} {v}" for k, v in sorted(model.items()))])
    facts = {**model, **settings}
    return Benchmark(
        "chimera-backends", work, tuple(trials), Objective("latency_s"), device,
        measured_at=str(document.get("generated_at", "")), facts=facts,
    )  # fmt: skip


def _backend(i: int, name: str, entry: Mapping[str, Any], runs: int | None) -> Trial:
    compilation, told = entry.get("compilation") or {}, entry["benchmark"]
    metadata = dict(told.get("metadata") or {})
    words = words_of(metadata)
    point = {"backend": name}
    error = compilation.get("error") or metadata.get("error")
    if compilation.get("success") is False or error:
        stage = Stage.BUILD if compilation.get("success") is False else Stage.MEASURE
        return failed(i, point, stage, str(error or "no reason was told"), words)
    time = scaled(compilation.get("compile_time_s"))  # absent where nothing was compiled, though the file says 0.0
    graph = metadata.get("graph_preview") or []
    return measured(
        i, point, {}, {"latency_s": summary(told, TIMES, MS, runs)},
        arguments=words, facts={} if time is None else {"compile_time_s": time}, log="\n".join(map(str, graph)),
    )  # fmt: skip


def words_of(metadata: Mapping[str, Any]) -> list[str]:
    """What a backend says of itself, as NAME=VALUE."""
    kept = {k: v for k, v in metadata.items() if k not in LONG}
    return [f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in kept.items()]


def is_kernels(content: Content) -> bool:
    document = content.document
    return isinstance(document, dict) and bool(document) and all(_is_kernel_group(v) for v in document.values())


def _is_kernel_group(group: object) -> bool:
    return (
        isinstance(group, dict)
        and bool(group)
        and all(isinstance(k, dict) and TIMES["mean"] in k for k in group.values())
    )


def kernels(content: Content) -> Benchmark:
    """A trial a kernel; they are different work, but for the two of a group that do the same in two ways."""
    trials: list[Trial] = []
    for group, found in content.document.items():
        for name, told in found.items():
            point: dict[str, Value] = {"group": group, "kernel": name}
            trials.append(measured(len(trials), point, {}, {"latency_s": summary(told, TIMES, MS)}))
    return Benchmark(
        "chimera-kernels", "single kernels", tuple(trials), Objective("latency_s"), work_knobs=("group",)
    )  # fmt: skip


def is_prompts(content: Content) -> bool:
    document = content.document
    return (
        isinstance(document, dict) and {"model", "results"} == document.keys() and isinstance(document["results"], list)
    )


def prompts(content: Content) -> Benchmark:
    """A trial a prompt: different work each."""
    document = content.document
    trials = [ollama_trial(i, row, ("prompt",)) for i, row in enumerate(document["results"])]
    return prompt_benchmark(trials, str(document["model"]))


def prompt_benchmark(trials: list[Trial], model: str) -> Benchmark:
    return Benchmark(
        "chimera-prompts", "answers to prompts by Ollama", tuple(trials), TOKENS, work_knobs=("prompt",),
        facts={"model": model},
    )  # fmt: skip


def ollama_trial(i: int, row: Mapping[str, Any], knobs: tuple[str, ...]) -> Trial:
    """One answer: a reading of each metric; what is empty is absent."""
    point = {name: row[name] for name in knobs}
    if error := row.get("error"):
        return failed(i, point, Stage.MEASURE, str(error))
    samples = {ours: (float(row[theirs]),) for theirs, ours in OLLAMA.items() if number(row.get(theirs))}
    if not samples:
        return failed(i, point, Stage.MEASURE, "the file has neither a reading nor an error")
    return measured(i, point, samples)
