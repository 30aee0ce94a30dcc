"""How often does another configuration of flags alone give machine code that is known already?

python experiments/pipeline/same_code.py            (200 drawn, 100 searched, a space; about half an hour on two cores)

Three ways to meet the same code: configurations drawn at random, those that change one knob of the baseline, and those
that a strategy asks for. Beside the key that the search compares stands what the instructions alone would say, which
no key may fall below: where both count the same, the key is not too strict. Writes same_code.json beside itself after
every space.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from typing import Any

from elftools.elf.elffile import ELFFile

from optimizer.config import Setup, load
from optimizer.device import cpu_model, physical_cores
from optimizer.journal import read
from optimizer.space import Choice, Point
from optimizer.trial import TrialError

HERE = Path(__file__).parent
PINNED = ("space.omp_proc_bind=none", "space.omp_wait_policy=none")
SPACES: Mapping[str, Sequence[str]] = {
    "g++, gemm": ("target=gemm_cpu", "space=[gxx]", *PINNED),
    "g++, mlp": ("target=mlp_cpu", "space=[gxx]", "objective=latency", *PINNED),
    "NVRTC, gemm": ("target=gemm_cuda", "device=none", "space=[cuda_flags]", "space.compiler=nvrtc"),
    "NVRTC, conv": ("target=conv_cuda", "device=none", "space=[cuda_flags]", "space.compiler=nvrtc"),
}
SMALL = {
    "target=gemm_cpu": ("target.options.m=64", "target.options.n=64", "target.options.k=64"),
    "target=mlp_cpu": (),
}
SEARCH = ("measure=quick", "measure.confirm.max_seconds=1", "measure.max_seconds=0.1", "tracking=none", "seed=1")
STRATEGIES = ("auto", "genetic")


@dataclass(frozen=True)
class Built:
    key: str  # what the search compares
    instructions: str  # a hash of the sections of instructions alone


def instructions_of(program: Path) -> str:
    with program.open("rb") as file:
        sections = [s for s in ELFFile(file).iter_sections() if s["sh_flags"] & 4]  # SHF_EXECINSTR
        told = sorted((s.name, hashlib.sha256(s.data()).hexdigest()) for s in sections)
    return hashlib.sha256(repr(told).encode()).hexdigest()


def built(setup: Setup, points: Sequence[Point]) -> list[Built | None]:
    """None: it does not compile."""

    def one(point: Point) -> Built | None:
        try:
            artifact = setup.made.target.build(point)
        except TrialError:
            return None
        return Built(artifact.identity, instructions_of(Path(artifact.path)))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, points))


def counted(found: Sequence[Built | None]) -> dict[str, Any]:
    works = [b for b in found if b is not None]
    return {
        "configurations": len(found),
        "failed": len(found) - len(works),
        "distinct": len({b.key for b in works}),
        "distinct by instructions alone": len({b.instructions for b in works}),
        "evaluations saved": share([b.key for b in works]),
    }


def share(keys: Sequence[str]) -> float:
    return round(1 - len(set(keys)) / max(1, len(keys)), 3)


def drawn(setup: Setup, many: int) -> dict[str, Any]:
    """Different valid configurations at random."""
    rng, points = Random(0), dict[str, Point]()
    while len(points) < many:
        point = setup.feasible.sample(rng)
        points.setdefault(point.key, point)
    return counted(built(setup, list(points.values())))


def near(setup: Setup) -> dict[str, Any]:
    """Each other value of each knob, one at a time: what leaves the baseline's code as it was."""
    baseline, changes = setup.recipe.start[0], list(changes_of(setup))
    first, *others = built(setup, [baseline, *(point for _, point in changes)])
    assert first is not None
    idle = [text for (text, _), b in zip(changes, others, strict=True) if b is not None and b.key == first.key]
    return {**counted([first, *others]), "without effect on the baseline": idle}


def changes_of(setup: Setup) -> Iterator[tuple[str, Point]]:
    space, baseline = setup.made.space, setup.recipe.start[0]
    for knob in space.knobs:
        if knob.name not in baseline or not isinstance(knob.domain, Choice):
            continue
        for value in knob.domain.values:
            point = space.baseline({**baseline, knob.name: value})
            if point.key != baseline.key and point in space:
                yield f"{knob.name}={value}", point


def searched(words: Sequence[str], strategy: str, trials: int) -> dict[str, Any]:
    """What a search by a strategy did not have to measure."""
    with tempfile.TemporaryDirectory() as name:
        command = [
            *words,
            *SMALL.get(words[0], ()),
            *SEARCH,
            f"strategy={strategy}",
            f"budget.trials={trials}",
            "study=s",
        ]
        subprocess.run(
            [sys.executable, "-m", "optimizer", "search", *command, "build_cache.folder=null"],
            cwd=name, check=True, capture_output=True,
        )  # fmt: skip
        found = read(Path(name) / "studies" / "s" / "journal.jsonl").trials
    works = [t for t in found if t.artifact is not None]
    same = [t.number for t in works if t.outcome.same_as is not None]
    halves = [sum(n < trials // 2 for n in same), sum(n >= trials // 2 for n in same)]
    return {
        "trials": len(found),
        "failed to build": len(found) - len(works),
        "not measured": len(same),
        "in the first and the second half": halves,
        "evaluations saved": round(len(same) / max(1, len(works)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--configurations", type=int, default=200)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--space", choices=list(SPACES), help="unset: all")
    given = parser.parse_args()
    path = HERE / "same_code.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in [given.space] if given.space else SPACES:
        words = SPACES[name]
        with tempfile.TemporaryDirectory() as folder:
            kept = [*words, f"studies_dir={folder}", "study=s", "build_cache.folder=null"]
            setup = load(kept, (), date(2026, 1, 1))
            setup.made.prepare()
            parts = {"drawn": drawn(setup, given.configurations), "one knob of the baseline": near(setup)}
        parts |= {f"searched by {s}": searched(words, s, given.trials) for s in STRATEGIES}
        result[name] = {
            "hardware": f"{cpu_model()}, {physical_cores()} cores",
            "at": datetime.now(UTC).isoformat(timespec="minutes"),
            "load": round(os.getloadavg()[0], 1),
            **parts,
        }
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name, json.dumps(result[name], indent=1, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
