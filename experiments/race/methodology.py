"""What score does the auto-tuning community's own methodology give our strategies (package `autotuning_methodology`)?

python experiments/race/methodology.py --strategies auto,genetic,tpe,kt:genetic_algorithm,kt:random_sample \
    --repeats 25 --work FOLDER --out experiments/race/methodology.json [FILE.json.gz ...]

Willemsen et al., "A Methodology for Comparing Auto-Tuning Optimization Algorithms" (FGCS 159, 2024): 0 is random search
and 1 the optimum, averaged over the time that random search needs to leave 5 % of the way from median to optimum. So
random search itself must score about 0: a space where it does not is left out. Simulated seconds count, and the real
ones of asking. Runs are kept in the work folder, and the same command goes on from there: a strategy that was changed
wants a new folder. Needs the extra `race`.
"""

import argparse
import contextlib
import gzip
import io
import json
import math
import os
import random
import sys
import warnings
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from optimizer.cli.race import THREADS
from optimizer.config import strategy_names
from optimizer.device import physical_cores
from optimizer.errors import ConfigError, nearest
from optimizer.readers.kernel_tuner import FAILURES, is_time
from optimizer.readers.recording import key_of
from optimizer.space import Json

HERE = Path(__file__).resolve().parent
DEFAULT_FILES = [f"{kernel}*" for kernel in ("conv-", "conv_milo-", "pnpoly-")]
RANDOM = "kt:random_sample"
TOLERANCE = 0.1  # how far from 0 random search may score
SHORTEST = 15  # evaluations of random search: in a shorter time there is nothing to learn from, and the score is noise
TIMES = ["compilation", "runtimes", "framework", "search_algorithm", "validation"]
INVALIDITY = {"CompilationFailedConfig": "compile", "RuntimeFailedConfig": "runtime", "InvalidConfig": "constraints"}
OWN_OPTIONS: Mapping[str, Json] = {
    "random_sample": {"fraction": 1.0},  # by itself it stops at a tenth of the space, budget left or not
}


# --- what the package reads


@dataclass(frozen=True)
class Course:
    """A recorded space as the package wants it: all paths are in the work folder."""

    space: str
    kernel: str
    gpu: str
    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cachefiles" / self.kernel / f"{self.gpu}.json"

    def runs(self, cutoff: float) -> Path:
        return self.folder / f"cutoff-{cutoff}"


def prepared(file: Path, work: Path) -> Course:
    """Writes cache, T4 results, T1 input and an empty kernel."""
    space = key_of(file)
    kernel, _, gpu = space.partition("-")
    course = Course(space, kernel, gpu or "device", (work / space).resolve())
    document = json.loads(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes())
    cache = {**document, "cache": {key: _entry(entry) for key, entry in document["cache"].items()}}
    course.cache.parent.mkdir(parents=True, exist_ok=True)
    _write(course.cache, cache)
    _write(course.cache.with_name(f"{course.gpu}_T4.json"), t4_of(cache))
    kernels = course.folder / "kernels"
    kernels.mkdir(exist_ok=True)
    (kernels / f"{kernel}.cu").write_text(f"__global__ void {document['kernel_name']}() {{}}\n", encoding="utf-8")
    _write(kernels / f"{kernel}.json", t1_of(cache, f"{kernel}.cu"))
    return course


def _write(path: Path, document: Json) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


def _entry(entry: Json) -> Json:
    """A recorded configuration; a time limit in simulation needs all three times of each."""
    return {"compile_time": 0.0, "benchmark_time": 0.0, "verification_time": 0.0, **entry}


def t4_of(cache: Json) -> Json:
    """The results format of Kernel Tuner's `get_t4_results`."""
    names = cache["tune_params_keys"]
    return {
        "schema_version": "1.0.0",
        "metadata": {"timeunit": "milliseconds"},
        "results": [_t4_result(names, entry) for entry in cache["cache"].values()],
    }


def _t4_result(names: Sequence[str], entry: Json) -> Json:
    valid = is_time(entry["time"])
    return {
        "configuration": {name: entry[name] for name in names},
        "times": {
            "compilation": entry["compile_time"],
            "benchmark": entry["benchmark_time"],
            "framework": 0.0,
            "search_algorithm": 0.0,
            "validation": entry["verification_time"],
            "runtimes": entry.get("times") or [],
        },
        "invalidity": "correct" if valid else INVALIDITY.get(str(entry["time"]), "runtime"),
        "correctness": 1,
        "measurements": [{"name": "time", "value": entry["time"] if valid else _failure(entry), "unit": "ms"}],
        "objectives": ["time"],
    }


def _failure(entry: Json) -> str:
    told = str(entry["time"])
    return told if told in FAILURES else "RuntimeFailedConfig"


def t1_of(cache: Json, kernel_file: str) -> Json:
    """The input format. Its one condition lists the recorded configurations: the constraints were not recorded."""
    parameters: Mapping[str, Sequence[Any]] = {name: cache["tune_params"][name] for name in cache["tune_params_keys"]}
    types = {name: "int" if all(isinstance(v, int) for v in vs) else "string" for name, vs in parameters.items()}
    return {
        "General": {"FormatVersion": 1, "TimeUnit": "Milliseconds", "OutputFormat": "JSON"},
        "ConfigurationSpace": {
            "TuningParameters": [
                {"Name": name, "Type": types[name], "Values": repr(list(vs))} for name, vs in parameters.items()
            ],
            "Conditions": _conditions(parameters, list(cache["cache"].values())),
        },
        "KernelSpecification": {
            "Language": "CUDA",
            "KernelName": cache["kernel_name"],
            "KernelFile": kernel_file,
            "GlobalSize": {"X": "1"},
            "LocalSize": {"X": "1"},
            "ProblemSize": cache["problem_size"],
            "Arguments": [],
        },
    }


def _conditions(parameters: Mapping[str, Sequence[Any]], entries: Sequence[Json]) -> list[Json]:
    """`a*120 + b*12 + … in {…}`: a number for every configuration; none where every combination was recorded."""
    if len(entries) == math.prod(len(values) for values in parameters.values()):
        return []
    if not all(isinstance(v, int) and v >= 0 for values in parameters.values() for v in values):
        raise ConfigError("Only spaces of whole numbers from 0 on can be given to Kernel Tuner with their constraints.")
    weights: dict[str, int] = {}
    weight = 1
    for name in reversed(list(parameters)):
        weights[name] = weight
        weight *= max(parameters[name]) + 1
    codes = sorted(sum(entry[name] * w for name, w in weights.items()) for entry in entries)
    left = " + ".join(f"{name} * {w}" for name, w in weights.items())
    return [{"Parameters": list(parameters), "Expression": f"{left} in {{{', '.join(map(str, codes))}}}"}]


# --- an experiment


@dataclass(frozen=True)
class Entrant:
    """A strategy and how often it runs; the package keeps its runs under `key`."""

    name: str
    repeats: int

    @property
    def key(self) -> str:
        return f"{self.name.replace(':', '-')}-{self.repeats}"

    def document(self) -> Json:
        theirs, _, plain = self.name.rpartition(":")
        told = {"name": self.key, "display_name": self.name, "repeats": self.repeats, "autotuner": "KernelTuner"}
        if theirs:
            return {**told, "search_method": plain, **_options(OWN_OPTIONS.get(plain, {}))}
        custom = {"search_method": "Ours", "custom_search_method_path": str(HERE / "kernel_tuner_strategy.py")}
        return {**told, **custom, **_options({"strategy": plain})}


def _options(options: Json) -> Json:
    return {"search_method_hyperparameters": [{"name": k, "value": v} for k, v in options.items()]} if options else {}


def experiment(course: Course, entrants: Sequence[Entrant], cutoff: float) -> Path:
    """Writes the package's setup file: one kernel on one GPU. Its defaults, but for the names."""
    kernels = course.folder / "kernels"
    document = {
        "version": "1.2.0",
        "name": course.space,
        "parent_folder": str(course.runs(cutoff)),
        "experimental_groups_defaults": {
            "applications": [
                {
                    "name": course.kernel,
                    "folder": str(kernels),
                    "input_file": str(kernels / f"{course.kernel}.json"),
                    "objective_performance_keys": ["time"],
                    "minimization": True,
                }
            ],
            "gpus": [course.gpu],
            "pattern_for_full_search_space_filenames": {
                "regex": str(course.folder / "cachefiles" / "${applications}" / "${gpus}_T4.json")
            },
            "stochastic": True,
            "repeats": 25,
            "samples": 32,
            "minimum_fraction_of_budget_valid": 0.25,
            "minimum_number_of_valid_search_iterations": 25,
            "ignore_cache": False,
        },
        "search_strategies": [entrant.document() for entrant in entrants],
        "statistics_settings": {
            "cutoff_percentile": cutoff,
            "cutoff_percentile_start": 0.01,
            "cutoff_type": "time",
            "objective_time_keys": TIMES,
        },
        "visualization_settings": {"plots": [], "resolution": 1000, "confidence_level": 0.95},
    }
    path = course.folder / f"{'+'.join(e.key for e in entrants) if len(entrants) == 1 else 'all'}.json"
    _write(path, document)
    return path


def evaluations(course: Course, cutoff: float) -> int:
    """How many random search makes until the cut-off, on average."""
    from autotuning_methodology.searchspace_statistics import SearchspaceStatistics

    results = course.cache.with_name(f"{course.gpu}_T4.json")
    found = SearchspaceStatistics(course.kernel, course.gpu, True, TIMES, ["time"], results, full_validate=False)
    *_, end_s = found.cutoff_point_fevals_time_start_end(0.01, cutoff)
    return round(float(end_s / found.get_time_per_feval("mean_per_feval")))


def run(course: Course, entrant: Entrant, cutoff: float) -> float | None:
    """Runs one strategy on one space. Returns the seconds that it took; None where its runs were there."""
    from autotuning_methodology.experiments import execute_experiment

    if (course.runs(cutoff) / "run" / entrant.key / f"{course.gpu}_{course.kernel}.npz").is_file():
        return None
    seed = zlib.crc32(f"{course.space} {entrant.key}".encode())
    random.seed(seed)
    np.random.seed(seed)  # Kernel Tuner draws from it
    before = perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        execute_experiment(str(experiment(course, [entrant], cutoff)), full_validate_on_load=False)
    return perf_counter() - before


# --- scores


@dataclass(frozen=True)
class Scores:
    """What the package makes of the runs: the relative performance at 1000 times between start and cut-off."""

    space: str
    curves: Mapping[str, Any]  # strategy → array of 1000; 0 random search, 1 the optimum
    evaluations: int  # of random search in that time


def scores_of(course: Course, entrants: Sequence[Entrant], cutoff: float) -> Scores:
    """Of runs that are there."""
    from autotuning_methodology.experiments import execute_experiment
    from autotuning_methodology.report_experiments import (
        get_aggregation_data,
        get_strategies_aggregated_performance,
    )

    with contextlib.redirect_stdout(io.StringIO()):
        setup, groups, statistics, results = execute_experiment(
            str(experiment(course, entrants, cutoff)), full_validate_on_load=False
        )
    data = get_aggregation_data(
        setup["parent_folder_absolute_path"], setup, statistics, groups, results, cutoff, 0.01, 0.95, 1000
    )
    [one] = data.values()
    np.random.seed(0)  # its isotonic regressions are bagged
    curves, *_ = get_strategies_aggregated_performance([one], 0.95)
    by_name = {entrant.name: curve for entrant, curve in zip(entrants, curves, strict=True)}
    return Scores(course.space, by_name, evaluations(course, cutoff))


def sane(found: Sequence[Scores], tolerance: float) -> list[Scores]:
    """The spaces where random search scores about 0. Raises ConfigError where there is none."""
    kept = [s for s in found if abs(float(np.mean(s.curves[RANDOM]))) <= tolerance]
    if not kept:
        raise ConfigError(
            f"Random search scores further than {tolerance:g} from 0 on every space: the scores mean nothing. "
            "Try more --random-repeats."
        )
    return kept


def document_of(found: Sequence[Scores], tolerance: float) -> Json:
    """Strategy → score and error (mean and deviation over time of the mean over the sane spaces), and every space's."""
    kept = sane(found, tolerance)
    result = {}
    for name in found[0].curves:
        together = np.mean([s.curves[name] for s in kept], axis=0)
        result[name] = {
            "score": round(float(np.mean(together)), 3),
            "error": round(float(np.std(together)), 3),
            "spaces": {s.space: round(float(np.mean(s.curves[name])), 3) for s in kept},
            "left_out": {s.space: round(float(np.mean(s.curves[name])), 3) for s in found if s not in kept},
        }
    return result


def table(found: Sequence[Scores], result: Json, tolerance: float) -> str:
    """Markdown: a line a space, a column a strategy."""
    names = list(result)
    lines = [["space", "random's evaluations", *names], ["---"] * (len(names) + 2)]
    kept = {s.space for s in sane(found, tolerance)}
    for one in found:
        figures = [f"{float(np.mean(one.curves[name])):.3f}" for name in names]
        space = one.space if one.space in kept else f"{one.space} (left out)"
        lines.append([space, str(one.evaluations), *figures])
    totals = [f"**{result[n]['score']:.3f} ± {result[n]['error']:.3f}**" for n in names]
    lines.append(["**all**", "", *totals])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def draw(found: Sequence[Scores], tolerance: float, path: Path) -> None:
    """The mean over the sane spaces, over the share of each space's time."""
    from matplotlib.figure import Figure

    kept = sane(found, tolerance)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in found[0].curves:
        together = np.mean([s.curves[name] for s in kept], axis=0)
        axes.plot(np.linspace(0, 1, len(together)), together, label=name)
    axes.set(xlabel="share of the time", ylabel="0 random search, 1 the optimum", ylim=(-0.5, 1.05))
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.legend()
    figure.savefig(path)


# --- the command


def entrants_of(names: Sequence[str], repeats: int, random_repeats: int) -> list[Entrant]:
    """Random search first, as the check asks for it."""
    known = strategy_names()
    for name in names:
        tuner, colon, _ = name.partition(":")
        if (colon and tuner != "kt") or (not colon and name not in known):
            raise ConfigError(f"There is no strategy '{name}'.{nearest(name, known)} Kernel Tuner's are kt:NAME.")
    others = [Entrant(name, repeats) for name in dict.fromkeys(names) if name != RANDOM]
    return [Entrant(RANDOM, max(repeats, random_repeats)), *others]


def run_all(courses: Sequence[Course], entrants: Sequence[Entrant], cutoff: float, processes: int) -> None:
    """Every strategy on every space, several at once; tells the seconds a run."""
    os.environ.update(dict.fromkeys(THREADS, "1"))  # the processes share the cores among themselves
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_quiet) as pool:
        jobs = {pool.submit(run, c, e, cutoff): (c, e) for e in entrants for c in courses}
        for done, future in enumerate(as_completed(jobs), start=1):
            course, entrant = jobs[future]
            try:
                taken_s = future.result()
            except RuntimeError as error:  # the package's, where a strategy ends too early
                pool.shutdown(cancel_futures=True)
                raise ConfigError(f"{entrant.name} on {course.space}: {error}") from error
            told = "its runs were there" if taken_s is None else f"{taken_s / entrant.repeats:.2f} s a run"
            print(f"{done} of {len(jobs)}: {entrant.name} on {course.space}, {told}", flush=True)


def _quiet() -> None:
    warnings.simplefilter("ignore")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="caches of Kernel Tuner; without: conv, conv_milo, pnpoly")
    parser.add_argument("--strategies", default=f"auto,genetic,tpe,random,kt:genetic_algorithm,{RANDOM}")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--random-repeats", type=int, default=300, help=f"of {RANDOM}, which the check needs exactly")
    parser.add_argument("--cutoff", type=float, default=0.95)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="how far from 0 random search may score")
    parser.add_argument("--processes", type=int, default=physical_cores())
    parser.add_argument("--work", type=Path, required=True, help="a folder for what the package reads and writes")
    parser.add_argument("--out", type=Path, required=True, help="the result, JSON; .md and .png lie beside it")
    words = parser.parse_args(argv)
    try:
        _run(words)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(words: argparse.Namespace) -> None:
    files = words.files or sorted(f for p in DEFAULT_FILES for f in (HERE / "data").glob(f"{p}.json.gz"))
    entrants = entrants_of(words.strategies.split(","), words.repeats, words.random_repeats)
    courses = [prepared(file, words.work) for file in files]
    lengths = {course.space: evaluations(course, words.cutoff) for course in courses}
    for space in (s for s, n in lengths.items() if n < SHORTEST):
        print(f"{space} is left out: random search is at the cut-off after {lengths[space]} evaluations.")
    courses = [c for c in courses if lengths[c.space] >= SHORTEST]
    if not courses:
        raise ConfigError(f"No space is left whose cut-off lies at {SHORTEST} evaluations of random search or later.")
    run_all(courses, entrants, words.cutoff, words.processes)
    found = [scores_of(course, entrants, words.cutoff) for course in courses]
    print(f"\nThe check: {RANDOM}, {entrants[0].repeats} repeats, must score within {words.tolerance:g} of 0.")
    for one in found:
        score = float(np.mean(one.curves[RANDOM]))
        print(f"  {one.space}: {score:+.3f}{'' if abs(score) <= words.tolerance else '  LEFT OUT'}")
    result = document_of(found, words.tolerance)
    text = table(found, result, words.tolerance)
    words.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    words.out.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(found, words.tolerance, words.out.with_suffix(".png"))
    print(f"\n{text}")


if __name__ == "__main__":
    sys.exit(main())
