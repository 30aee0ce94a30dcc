"""Strategies against each other on recorded spaces: runs in processes, a table, curves, a file to go on from."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import cache
from importlib import util
from multiprocessing import get_context
from pathlib import Path

from optimizer import __version__
from optimizer.config import options_of, racer_of, strategy_names
from optimizer.device import physical_cores
from optimizer.errors import ConfigError, nearest
from optimizer.race import CHECKPOINTS, Racer, Run, Standings, Track, geometric_mean, raced, standings, track_of
from optimizer.readers.recording import key_of, recording
from optimizer.space import digest

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def command(
    files: Sequence[Path], strategies: Sequence[str], budget: int, repeats: int, out: Path, *, as_json: bool
) -> None:
    keys = _keys(files)
    for name in strategies:
        _racer(name)  # a wrong name fails before the first run
    for file in files:
        recording(file)
    out.mkdir(parents=True, exist_ok=True)
    runs = _run_all(keys, strategies, budget, repeats, out / "runs.jsonl")
    found = standings(runs)
    document = {space: {name: by[name].document() for name in strategies} for space, by in found.items()}
    (out / "result.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = table(found, strategies, [n for n in CHECKPOINTS if n <= budget] or [budget])
    (out / "table.md").write_text(text, encoding="utf-8")
    from optimizer.report.curves import draw

    pictures = draw(found, strategies, out)
    if as_json:
        print(json.dumps(document))
    else:
        print(text)
        print(f"Curves: {', '.join(map(str, pictures))}. Runs, to go on from: {out / 'runs.jsonl'}.")


def table(found: Standings, strategies: Sequence[str], checkpoints: Sequence[int]) -> str:
    """Markdown: mean of best so far over the optimum with its 95% interval; the geometric mean over the spaces."""
    header = ["space", "strategy", *(f"at {n}" for n in checkpoints), "within 5 %", "within 1 %", "ask ms"]
    lines = [header, ["---"] * len(header)]
    for space, by in found.items():
        for name in strategies:
            one = by[name]
            ratios = [
                f"{one.mean[n - 1]:.3f} ({one.low[n - 1]:.3f}–{one.high[n - 1]:.3f})" if n <= len(one.mean) else ""
                for n in checkpoints
            ]
            reached = [str(n) if (n := one.within(share)) is not None else "–" for share in (0.05, 0.01)]
            lines.append([space, name, *ratios, *reached, f"{one.ask_ms:.1f}"])
    for name in strategies:
        means = [geometric_mean(found, name, n) for n in checkpoints]
        lines.append(["**geometric mean**", name, *(f"**{m:.3f}**" if m else "" for m in means), "", "", ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _keys(files: Sequence[Path]) -> dict[str, Path]:
    keys = {key_of(file): file for file in files}
    if len(keys) < len(files):
        raise ConfigError("Two of the files have the same name: a space is called by its file's name.")
    return keys


def _run_all(keys: dict[str, Path], strategies: Sequence[str], budget: int, repeats: int, kept: Path) -> list[Run]:
    """Every run, those that an earlier race of the same recordings and strategies with the same budget has kept
    included."""
    made_of = {(space, name): _made_of(file, name) for space, file in keys.items() for name in strategies}
    wanted = [(space, name, seed) for space, name in made_of for seed in range(repeats)]
    known = {
        (r.space, r.strategy, r.seed): r
        for r in kept_runs(kept)
        if len(r.curve) == budget and r.made_of == made_of.get((r.space, r.strategy))
    }
    left = [job for job in wanted if job not in known]
    if left:
        os.environ.update(dict.fromkeys(THREADS, "1"))  # the processes share the cores among themselves
        with (
            ProcessPoolExecutor(physical_cores(), mp_context=get_context("spawn")) as pool,
            kept.open("a", encoding="utf-8") as file,
        ):
            started = [
                pool.submit(_one, str(keys[space]), space, name, seed, budget, made_of[space, name])
                for space, name, seed in left
            ]
            try:
                for done, future in enumerate(as_completed(started), start=1):
                    run = future.result()
                    known[run.space, run.strategy, run.seed] = run
                    file.write(json.dumps(asdict(run)) + "\n")
                    file.flush()
                    _progress(done, len(left))
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                print(f"\nInterrupted; the same command goes on from {kept}.", file=sys.stderr)
                raise
    return [known[job] for job in wanted]


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} runs", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % max(1, total // 10) == 0:
        print(f"{done} of {total} runs", file=sys.stderr, flush=True)


def kept_runs(path: Path) -> list[Run]:
    """Whole lines of the file; one torn by a kill is run again."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            told = json.loads(line)
            found.append(Run(**{**told, "curve": tuple(told["curve"]), "seconds": tuple(told["seconds"])}))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _one(file: str, space: str, strategy: str, seed: int, budget: int, made_of: str) -> Run:
    return raced(_track(file, space), strategy, _racer(strategy), seed, budget, made_of)


@cache
def _made_of(file: Path, name: str) -> str:
    """A run of another recording, of other options or of another version is another run, whatever it is called."""
    source, colon, _ = name.partition(".py:")
    made = Path(f"{source}.py").read_bytes().hex() if colon else [__version__, options_of(name)]
    return digest([hashlib.sha256(file.read_bytes()).hexdigest(), made])


@cache
def _track(file: str, space: str) -> Track:
    return track_of(space, recording(Path(file)))


@cache
def _racer(name: str) -> Racer:
    """A strategy of ours, or FILE.py:NAME: a function in somebody's file that runs one on a course."""
    file, colon, function = name.partition(".py:")
    if not colon:
        if name.partition("@")[0] not in strategy_names():
            raise ConfigError(f"There is no strategy '{name}'.{nearest(name, strategy_names())}")
        return racer_of(name)
    path = Path(f"{file}.py")
    spec = util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"{name}: there is no file {path}.")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    racer = getattr(module, function, None) or getattr(module, "RACERS", {}).get(function)
    if racer is None:
        known = [*getattr(module, "RACERS", {})]
        raise ConfigError(f"{path} has no racer '{function}'.{nearest(function, known)}")
    found: Racer = racer
    return found
