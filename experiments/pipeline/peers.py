"""The same C++ kernel, space, two cores and wall-clock budget: who finds the fastest configuration, and how soon?

python -m venv /tmp/opentuner && /tmp/opentuner/bin/pip install opentuner
python experiments/pipeline/peers.py --opentuner /tmp/opentuner/bin/python     (an hour and a half: 5 repeats of 300 s)

The tools take turns, in an order that changes from repeat to repeat. What each calls its best (ours: the best trial as
measured, at the full budget, at half and at a quarter of it, before any confirmation) is built by the same command and
measured again, interleaved, in processes started anew each round. Writes peers.json beside itself after every repeat;
the same command goes on where it was interrupted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from optimizer.config import Setup, load
from optimizer.device import cpu_model, physical_cores
from optimizer.files import write_whole
from optimizer.journal import Study, read
from optimizer.resources import kernels_dir
from optimizer.space import Choice, Point
from optimizer.targets.native import SUPPORT_FLAGS, NativeTarget
from optimizer.trial import Trial

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-fopenmp", "-O3", "-march=native")
SPACE = ("target=gemm_cpu", "space=[gemm]", "space.threads=2", "device=cpu", "tracking=none")
WORDS = (*SPACE, f"target.flags=[{','.join(map(repr, FLAGS))}]", "build_cache.folder=null")
MEASURE = "quick"  # of ours: five readings at least, as the peers take seven
OURS = {"ours": 1.0, "ours_half_time": 0.5, "ours_quarter_time": 0.25}  # at which share of the budget
ROUNDS = 12
READINGS = 15


def setup_in(folder: Path) -> Setup:
    setup = load([*WORDS, f"studies_dir={folder}", "study=s"], (), date(2026, 1, 1))
    setup.made.prepare()
    return setup


def macros(setup: Setup) -> dict[str, dict[Any, Any]]:
    """By macro: its values as the compiler gets them → the knob's value. Numbers are numbers."""
    found: dict[str, dict[Any, Any]] = {}
    for knob in setup.made.space.knobs:
        if knob.effect.kind == "macro" and isinstance(knob.domain, Choice):
            words = [(knob.effect.word(value), value) for value in knob.domain.values]
            found[knob.effect.name] = {int(w) if w.isdigit() else w: value for w, value in words}
    return found


def asked_of(setup: Setup, budget_s: float, seed: int, folder: Path, *extra: str) -> dict[str, Any]:
    """What a peer is told. `extra`: flags for what no knob touches, compiled beforehand as ours is."""
    target = setup.made.target
    assert isinstance(target, NativeTarget)
    [compiler] = target.compilers.values()
    objects = []
    for source in target.support:
        objects.append(str(folder / f"{source.stem}.o"))
        command = [compiler.path, *SUPPORT_FLAGS, *extra, f"-I{kernels_dir()}", "-c", str(source)]
        subprocess.run([*command, "-o", objects[-1]], check=True)
    return {
        "source": str(target.source),
        "compiler": compiler.path,
        "flags": [*FLAGS, f"-I{kernels_dir()}"],
        "objects": objects,
        "options": ["--threads=2"],
        "params": {name: list(values) for name, values in macros(setup).items()},
        "restrictions": [c.expression.text for c in setup.made.space.constraints],
        "budget_s": budget_s,
        "seed": seed,
    }


def peer(python: str, script: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    done = subprocess.run(
        [python, str(HERE / script)], input=json.dumps(asked), capture_output=True, text=True, check=False,
        cwd=tempfile.gettempdir(), env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{script} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "wall_s": time.perf_counter() - start}


def ours(setup: Setup, folder: Path, budget_s: float, seed: int) -> tuple[dict[str, Any], dict[str, Point]]:
    start = time.perf_counter()
    words = [
        *WORDS,
        f"measure={MEASURE}",
        f"seed={seed}",
        f"budget.seconds={budget_s:g}",
        "study=ours",
        "measure.confirm.max_seconds=1",
    ]
    subprocess.run(
        [sys.executable, "-m", "optimizer", "search", *words], cwd=folder, check=True, capture_output=True, text=True
    )
    study = read(folder / "studies" / "ours" / "journal.jsonl")
    bests = {name: best_until(study, budget_s * share) for name, share in OURS.items()}
    told = {
        "evaluations": len(study.trials),
        "took_s": study.trials[-1].elapsed_s,
        "wall_s": time.perf_counter() - start,
    }
    return told, {name: trial.point for name, trial in bests.items()}


def best_until(study: Study, seconds: float) -> Trial:
    found = study.recipe.goal.best(
        [t for t in study.trials if t.elapsed_s <= seconds] or study.trials[:1], study.trials[0]
    )
    assert found is not None
    return found


def point_of(setup: Setup, found: Mapping[str, Any]) -> Point:
    """A peer's macros as a point of ours."""
    known = macros(setup)
    by_macro = {k.effect.name: k.name for k in setup.made.space.knobs}
    values = {by_macro[name]: known[name][value] for name, value in found.items()}
    return setup.made.space.active({"threads": 2, **values})


def measured_again(setup: Setup, points: Mapping[str, Point], seed: int) -> dict[str, dict[str, Any]]:
    """Medians of each round, one process a configuration and round, in a shuffled order."""
    rng, readings = Random(seed), {name: list[float]() for name in points}
    artifacts = {name: setup.made.target.build(point) for name, point in points.items()}
    for _ in range(ROUNDS):
        for name in rng.sample(list(points), len(points)):
            with setup.made.target.open(artifacts[name]) as runner:
                runner.run(3)
                readings[name].append(median(runner.run(READINGS)["latency_s"]))
    return {name: {"median_s": median(values), "rounds_s": values} for name, values in readings.items()}


def interval(repeats: Sequence[Sequence[float]]) -> list[float]:
    """A bootstrapped 95% interval of the median of all rounds: repeats are drawn, then rounds of each."""
    rng = Random(0)

    def drawn() -> Iterator[float]:
        for rounds in rng.choices(repeats, k=len(repeats)):
            yield from rng.choices(rounds, k=len(rounds))

    medians = sorted(median(drawn()) for _ in range(2000))
    return [medians[49], medians[1950]]


def ratios(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Latency of each over that of ours, round by round: above 1, ours is faster."""
    found = {}
    for mine in OURS:
        for name in ("kernel_tuner", "opentuner", "baseline"):
            both = [r["again"] for r in repeats if name in r["again"] and mine in r["again"]]
            each = [by_round(again[name], again[mine]) for again in both]
            if each:
                values = [ratio for rounds in each for ratio in rounds]
                summary = {"median": median(values), "interval_95": interval(each)}
                found[f"{name}_to_{mine}"] = {**summary, "repeats": [median(rounds) for rounds in each]}
    return found


def by_round(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> list[float]:
    return [a / b for a, b in zip(theirs["rounds_s"], own["rounds_s"], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for each tool and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kernel-tuner", default=sys.executable, help="a Python that has kernel_tuner")
    parser.add_argument("--opentuner", help="a Python that has opentuner; unset: without it")
    parser.add_argument("--strategy", default="genetic_algorithm", help="of Kernel Tuner")
    parser.add_argument("--anew", action="store_true", help="leave what peers.json has of the same comparison")
    given = parser.parse_args()
    compared = {
        "hardware": f"{cpu_model()}, {physical_cores()} cores",
        "budget_s": given.budget,
        "kernel_tuner_strategy": given.strategy,
        "opentuner": given.opentuner is not None,
        "measure": MEASURE,
    }
    path = HERE / "peers.json"
    repeats = [] if given.anew else known_repeats(path, compared)
    with tempfile.TemporaryDirectory() as name:
        for number in range(len(repeats), given.repeats):
            folder = Path(name) / str(number)
            folder.mkdir()
            repeats.append(one(setup_in(folder / "again"), folder, given, number))
            at = datetime.now(UTC).isoformat(timespec="minutes")
            result = {**compared, "at": at, "ratios": ratios(repeats), "repeats": repeats}
            write_whole(path, (json.dumps(result, indent=1) + "\n").encode())
            print(json.dumps(result["ratios"], indent=1), flush=True)


def known_repeats(path: Path, compared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of an earlier run of the same comparison, which was interrupted or is to have more."""
    if not path.exists():
        return []
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if any(before.get(name) != value for name, value in compared.items()):
        return []
    known: list[dict[str, Any]] = before["repeats"]
    return known


def one(setup: Setup, folder: Path, given: argparse.Namespace, number: int) -> dict[str, Any]:
    """A repeat: each tool once, then all that they found again."""
    told: dict[str, Any] = {}
    points: dict[str, Point] = {"baseline": setup.recipe.start[0]}

    def run_ours() -> None:
        told["ours"], found = ours(setup, folder, given.budget, number)
        points.update(found)

    def run_kernel_tuner() -> None:
        asked = asked_of(setup, given.budget, number, folder, "-fPIC")
        asked |= {"strategy": given.strategy, "objects": [f"-Wl,{path}" for path in asked["objects"]]}
        told["kernel_tuner"] = peer(given.kernel_tuner, "kernel_tuner_peer.py", asked)

    def run_opentuner() -> None:
        told["opentuner"] = peer(given.opentuner, "opentuner_peer.py", asked_of(setup, given.budget, number, folder))

    tools: list[Callable[[], None]] = [run_ours, run_kernel_tuner, *([run_opentuner] if given.opentuner else [])]
    loads = [os.getloadavg()[0]]
    for turn in range(len(tools)):
        tools[(turn + number) % len(tools)]()
        loads.append(os.getloadavg()[0])
    points |= {name: point_of(setup, found["point"]) for name, found in told.items() if "point" in found}
    again = measured_again(setup, points, number)
    return {"tools": told, "loads": loads, "again": again, "points": {n: dict(p) for n, p in points.items()}}


if __name__ == "__main__":
    main()
