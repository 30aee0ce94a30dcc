"""What is in the CSV files that Chimera's benchmarks write of Ollama?

Three kinds, told apart by their columns: a grid of options (a row a run: one reading of each metric, or an error),
answers to prompts, and a summary of a grid (sorted; its means are of the grid's single readings).
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from optimizer.readers.benchmark import Benchmark, Content, measured, value_of
from optimizer.readers.chimera_json import OLLAMA, TOKENS, ollama_trial, prompt_benchmark
from optimizer.space import Value
from optimizer.trial import Summary, Trial

GRID = ("num_gpu", "num_ctx", "temperature")
MEANS = {"mean_tokens_s": "tokens_per_s", "mean_ttft_s": "ttft_s", "mean_load_s": "load_s"}
WORK = "generation by Ollama (prompt not stated)"


def header(content: Content) -> Sequence[str]:
    first = content.text.partition("\n")[0].strip()
    return first.split(",") if "," in first else ()


def is_grid(content: Content) -> bool:
    return {*GRID, "ttft_s", "tokens_s"} <= set(header(content))


def is_prompts(content: Content) -> bool:
    return {"prompt", "ttft_s", "tokens_s"} <= set(header(content))


def is_means(content: Content) -> bool:
    return {*GRID, *MEANS} <= set(header(content))


def grid(content: Content) -> Benchmark:
    """Rows in the order of running, which matters: a first run in a context loads the model."""
    trials = [ollama_trial(i, row, GRID) for i, row in enumerate(_rows(content))]
    return _grid(content, "chimera-grid", trials)


def means(content: Content) -> Benchmark:
    trials = [_mean(i, row) for i, row in enumerate(_rows(content))]
    return _grid(content, "chimera-grid-means", trials)


def prompts(content: Content) -> Benchmark:
    trials = [ollama_trial(i, row, ("prompt",)) for i, row in enumerate(_rows(content))]
    return prompt_benchmark(trials, model_of(content.name))


def model_of(name: str) -> str:
    """gemma3_1b-it-qat_baseline.csv → gemma3:1b-it-qat: the files don't say it inside."""
    stem = re.sub(r"_(baseline|param_tuning|param_tuning_summary)\.csv$", "", name)
    return stem.replace("_", ":", 1)


def _grid(content: Content, kind: str, trials: list[Trial]) -> Benchmark:
    return Benchmark(kind, WORK, tuple(trials), TOKENS, facts={"model": model_of(content.name)})


def _mean(i: int, row: Mapping[str, Any]) -> Trial:
    told = {ours: Summary(mean=float(row[theirs])) for theirs, ours in MEANS.items()}
    return measured(i, {name: row[name] for name in GRID}, {}, told)


def _rows(content: Content) -> list[dict[str, Value]]:
    """Numbers as numbers; an empty field is absent. A row that is longer or shorter than the header is damage."""
    rows: list[dict[str, Value]] = []
    reader = csv.DictReader(io.StringIO(content.text))
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num} has not as many fields as the header")
        rows.append({k: v if k in ("prompt", "error") else value_of(v) for k, v in row.items() if v != ""})
    for row in rows:
        for name in {*OLLAMA, *MEANS} & row.keys():
            if isinstance(row[name], str):
                raise ValueError(f"{name} is {row[name]!r}, no number")
    return rows
