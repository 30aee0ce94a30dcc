"""What do GGUF types, types of the KV cache and llama.cpp's own build cost in speed and in quality?

python experiments/llamacpp/run.py [--seconds 200] [--rounds 8] [--threads 1] [--cache FOLDER] [--build]

A search for both, tokens a second and perplexity, finds the front; then its members, the baseline, and with --build the
baseline in a llama.cpp that was not built for this processor, are measured again in rounds that take turns, each in a
process of its own. Figures go into result.json beside this file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

from optimizer.config import load
from optimizer.config.objects import Setup
from optimizer.device import cpu_model, physical_cores
from optimizer.journal import Study, read
from optimizer.space import Point
from optimizer.stats import estimate
from optimizer.trial import Artifact, metrics_of

RESULT = Path(__file__).parent / "result.json"
TYPES = ("Q8_0", "Q6_K", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_NL")
GENERIC = "ggml_native"
READINGS = 2  # of a configuration in a round
WITHOUT_NATIVE = "the baseline, GGML_NATIVE=0"


def words_of(folder: Path, cache: str, windows: int, threads: int, build: bool) -> list[str]:
    good = ", ".join(f"{{type: {name}}}" for name in TYPES)
    caches = "{flash_attn: true}, {flash_attn: true, type_k: q8_0, type_v: q8_0}, {flash_attn: true, type_k: q4_0}"
    words = [
        "target=llamacpp", f"studies_dir={folder}", "study=front", "tracking=none",
        "objective.metrics={tokens_per_s: maximize, perplexity: minimize}", "objective.limits={}",
        f"target.windows={windows}", "space.repack=choice(false)", f"known_good=[{good}, {caches}]",
        f"space.n_threads=choice({threads})", f"baseline.n_threads={threads}", "measure.confirm.max_seconds=1",
    ]  # fmt: skip
    words += [f"target.cache={cache}"] if cache else []
    if build:  # one setting of the build, so that one wheel is built
        fixed = {"ggml_llamafile": "true", "ggml_openmp": "true", "ggml_lto": "false"}
        words += ["space=[llamacpp,llamacpp_build]", *(f"space.{n}=choice({v})" for n, v in fixed.items())]
    return words


def front_of(study: Study) -> Mapping[str, Point]:
    """The front's points by what they change of the baseline."""
    if study.baseline is None:
        raise SystemExit("The baseline could not be measured.")
    start = study.baseline.point
    return {
        " ".join(f"{name}={value}" for name, value in trial.point.items() if value != start[name]) or "baseline": (
            trial.point
        )
        for trial in study.recipe.goal.front(study.trials, study.baseline)
    }


def measured(setup: Setup, points: Mapping[str, Point], rounds: int) -> dict[str, Any]:
    """Every point in every round, in turn forwards and backwards."""
    setup.made.prepare()
    target, device = setup.made.target, setup.made.device
    built: dict[str, Artifact] = {name: target.build(point) for name, point in points.items()}
    speeds: dict[str, list[float]] = {name: [] for name in points}
    firsts: dict[str, list[float]] = {name: [] for name in points}
    quality: dict[str, Mapping[str, float]] = {}
    loads: list[float] = []
    with device.alone():
        for number in range(rounds):
            for name in list(points)[:: -1 if number % 2 else 1]:
                with target.open(built[name]) as runner:
                    if number == 0:
                        quality[name] = dict(runner.verify().quality)
                    runner.run(1)
                    with device.watch(runner.pid) as watched:
                        taken = runner.run(READINGS)
                speeds[name].append(fmean(taken["tokens_per_s"]))
                firsts[name].append(fmean(taken["prefill_tokens_per_s"]))
                loads += watched.samples.get("foreign_load_pct", ())
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return {"load_pct_of_others": sorted(loads)[len(loads) // 2] if loads else None, "points": {
        name: {
            "tokens_per_s": described(speeds[name]), "prefill_tokens_per_s": described(firsts[name]),
            "times_the_baseline": described(
                [a / b for a, b in zip(speeds[name], speeds["baseline"], strict=True)]
            ),
            **{metric: quality[name][metric] for metric in ("perplexity", "top1_agreement_pct")},
            "tensors": {n: v for n, v in built[name].facts.items() if n.startswith("tensors_")},
        }
        for name in points
    }}  # fmt: skip


def described(values: list[float]) -> dict[str, float]:
    found = estimate(values)
    return {"median": found.median, "low": found.low, "high": found.high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--windows", type=int, default=8, help="of 256 tokens, for the perplexity")
    parser.add_argument("--threads", type=int, default=1, help="several wait for each other where others compute too")
    parser.add_argument("--cache", default="")
    parser.add_argument("--build", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        words = words_of(Path(name), asked.cache, asked.windows, asked.threads, asked.build)
        command = [sys.executable, "-m", "optimizer", "search", *words, f"budget.seconds={asked.seconds}"]
        subprocess.run(command, check=True)
        study = read(Path(name) / "front" / "journal.jsonl")
        baseline = study.recipe.start[0]
        points = {"baseline": baseline, **front_of(study)}
        if asked.build:
            points[WITHOUT_NATIVE] = Point({**baseline, GENERIC: False})
        found = measured(load(words, (), date.today()), points, asked.rounds)
    tried = [
        {**dict(t.point), **{m: metrics_of(t).get(m) for m in ("tokens_per_s", "perplexity")}} for t in study.trials
    ]
    result = {
        "date": date.today().isoformat(), "processor": cpu_model(), "cores": physical_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30), "versions": dict(study.environment.compilers),
        "search_s": asked.seconds, "threads": asked.threads,
        "windows": asked.windows, "rounds": asked.rounds, **found, "trials": tried,
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
