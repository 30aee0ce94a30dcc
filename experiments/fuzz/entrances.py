"""Where does text that we did not write come in, and what may come of it?"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from optimizer.config.domains import parse_domain, parse_word
from optimizer.errors import ConfigError
from optimizer.expression import parse
from optimizer.forkserver import Ended
from optimizer.journal import journal_bytes, read
from optimizer.process import Conversation
from optimizer.readers.formats import DamagedFileError, read_file
from optimizer.readers.ingest import study_of, taken
from optimizer.readers.recording import recording
from optimizer.report.noise import noise_warnings
from optimizer.targets.cache import BuildCache
from optimizer.targets.native import NativeRunner
from optimizer.trial import TrialError

CHECKOUT = Path(__file__).parents[2]
SEED_BYTES = 6000  # of a seed: larger ones are cut, or their lists are


@dataclass(frozen=True)
class Entrance:
    """`take` is given an input; `allowed` is what it may raise. share: of all inputs."""

    name: str
    seeds: Sequence[bytes]
    take: Callable[[bytes], None]
    allowed: tuple[type[Exception], ...]
    share: float


def entrances(scratch: Path) -> list[Entrance]:
    """All of them; files are written to `scratch`."""
    files = _files()
    return [
        Entrance("expressions", EXPRESSIONS, _expression, (ConfigError,), 0.47),
        Entrance("domains", DOMAINS, _domain, (ConfigError,), 0.01),
        Entrance("benchmark files", list(files.values()), _reader(files, scratch), (DamagedFileError,), 0.03),
        Entrance("recordings", _recordings(scratch), _recording(scratch), (ConfigError,), 0.015),
        Entrance("journal", _journals(scratch), _journal(scratch), (ConfigError,), 0.035),
        Entrance("harness protocol", ANSWERS, _protocol, (TrialError,), 0.37),
        Entrance("build cache", _cache_entries(scratch), _cached(scratch), (), 0.07),
    ]


# --- expressions and domains


EXPRESSIONS = [
    b"unroll * batch <= 512", b"bits < 16", b"a in (1, 2, 4) and not (b == 'x')", b"x if y > 2 else z != 0",
    b"min(a, b, 3) + max(1, c) ** 2 - abs(-d) // 3 % 2 >= log2(8) * ceil(1.5) - floor(x / y)", b"1 < a <= b < 10",
    b"TILE_M % MICRO_M == 0 and TILE_N % MICRO_N == 0", b"true or false", b"'a' == opt",
]  # fmt: skip
VALUES: dict[str, Any] = {
    "unroll": 4, "batch": 8, "bits": 8, "a": 1, "b": "x", "x": 2.5, "y": 0, "z": True, "c": 3, "d": -7, "opt": "a",
    "TILE_M": 64, "MICRO_M": 4, "TILE_N": 128, "MICRO_N": 8,
}  # fmt: skip
DOMAINS = [
    b"choice(1, 2, 4, 8)", b"range(1, 17)", b"range(0, 1, 0.1)", b"interval(0.0, 0.5)", b"int(interval(1, 64))",
    b"tag(log, interval(1e-4, 1))", b"tag(ordered, choice(a, b, c))", b"sort(choice(3, 1, 2))",
    b"[a, 'b c', true]", b"7",
]  # fmt: skip


def _expression(data: bytes) -> None:
    expression = parse(data.decode(errors="surrogateescape"))
    if expression.names <= VALUES.keys():
        expression.holds(VALUES)
        columns = {name: np.array([value, value]) for name, value in VALUES.items()}
        expression.holds_for(columns, 2)
        expression.instance(VALUES)


def _domain(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    parse_domain(text, "knob")
    parse_word(f"space.knob={text}")


# --- files


@cache
def _files() -> dict[str, bytes]:
    """Name → content, of every kind that a reader knows."""
    found = {}
    for folder in ("benchmarks", "chimera"):
        for path in sorted((CHECKOUT / "tests" / "data" / folder).iterdir()):
            if path.suffix in (".json", ".jsonl", ".csv", ".md") and path.name != "README.md":
                found[path.name] = _small(path.read_bytes())
    found["cache.json"] = KERNEL_TUNER
    found["t4.json"] = T4
    return found


def _small(content: bytes) -> bytes:
    """A file that is still of its kind: lists of many are cut to three."""
    try:
        document = json.loads(content)
    except ValueError:
        return content if len(content) <= SEED_BYTES else content[: content.rfind(b"\n", 0, SEED_BYTES) + 1]
    return json.dumps(_shortened(document)).encode()


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _shortened(v) for k, v in value.items()}
    return [_shortened(v) for v in value[:3]] if isinstance(value, list) else value


def _reader(files: dict[str, bytes], scratch: Path) -> Callable[[bytes], None]:
    names = list(files)

    def take(data: bytes) -> None:
        for name in (names[len(data) % len(names)], "x.json", "x.csv")[: 1 + len(data) % 3]:
            (scratch / name).write_bytes(data)
            found = taken(scratch / name)
            if found.study is None:
                raise DamagedFileError(found.why)
            journal_bytes(found.study)

    return take


KERNEL_TUNER = json.dumps({
    "device_name": "A", "kernel_name": "k", "problem_size": [1, 2], "tune_params_keys": ["x", "y"],
    "tune_params": {"x": [1, 2], "y": [3]}, "objective": "time",
    "cache": {"1,3": {"x": 1, "y": 3, "time": 1.5, "times": [1.4, 1.6], "compile_time": 3.0, "verification_time": 0.1,
                      "benchmark_time": 2.0, "timestamp": "2025-01-01 00:00:00"},
              "2,3": {"x": 2, "y": 3, "time": "CompilationFailedConfig", "compile_time": 1.0}},
}).encode()  # fmt: skip
T4 = json.dumps({
    "schema_version": "1.0.0",
    "results": [{"timestamp": "2025-01-01", "configuration": {"x": 1}, "objectives": ["time"],
                 "times": {"compilation_time": 1.0, "runtimes": [1.0, 2.0], "framework": 1.0, "search_algorithm": 0.1,
                           "validation": 0.0},
                 "invalidity": "correct", "correctness": 1,
                 "measurements": [{"name": "time", "value": 1.5, "unit": "ms"}]}],
}).encode()  # fmt: skip


def _recordings(scratch: Path) -> list[bytes]:
    return [KERNEL_TUNER, T4, *_journals(scratch)]


def _recording(scratch: Path) -> Callable[[bytes], None]:
    path = scratch / "record.json"

    def take(data: bytes) -> None:
        path.write_bytes(data)
        recording(path)

    return take


# --- journal


def _journals(scratch: Path) -> list[bytes]:
    """A journal of a replayed file: measured and failed trials, with its verdict missing."""
    path = scratch / "cache.json"
    path.write_bytes(KERNEL_TUNER)
    _, benchmark = read_file(path, KERNEL_TUNER)
    study = study_of(benchmark, path, KERNEL_TUNER)
    drift = json.dumps({"kind": "drift", "after": 1, "samples": {"latency_s": [1.0, 2.0]}}).encode() + b"\n"
    verdict = json.dumps({
        "kind": "verdict", "gains": [1.0, 1.1], "load_pct": 3.0, "interrupted": False, "seconds": {"total": 3.0},
        "passed_over": {"1": "it failed"},
        "verdict": {"ratio": 1.1, "low": 1.0, "high": 1.2, "judgement": "better", "metric": "latency_s", "number": 1},
    }).encode() + b"\n"  # fmt: skip
    whole = journal_bytes(study)
    return [whole, whole + drift, whole + drift + verdict]


def _journal(scratch: Path) -> Callable[[bytes], None]:
    path = scratch / "journal.jsonl"

    def take(data: bytes) -> None:
        path.write_bytes(data)
        study = read(path)
        _ = study.best, study.winner
        noise_warnings(study)

    return take


# --- the harness protocol


ANSWERS = [
    b'{"ready":{"load_s":0.01,"facts":{"weights_bytes":12}}}\n{"check":{"errors":{"max_rel_error":1e-7},'
    b'"tolerances":{"max_rel_error":1e-4},"quality":{"perplexity":3.2}}}\n'
    b'{"samples":{"latency_s":[0.1,0.2],"throughput_ips":[10,5],"peak_memory_bytes":[1000]}}\n',
    b'{"ready":{}}\n{"check":{"errors":{"max_rel_error":null}}}\n{"samples":{"latency_s":[1]}}\n',
    b'{"error":{"reason":"memory","message":"all gone"}}\n',
]


class _Said:
    """A program that has said all that it will say."""

    def __init__(self, data: bytes) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        os.write(theirs, data[: 1 << 15])
        os.close(theirs)
        self.stdout: IO[bytes] = os.fdopen(ours, "rb")
        self.stdin: IO[bytes] = _NULL
        self.pid = 0

    def ended(self, timeout: float | None = None) -> Ended:
        return Ended(0, 0.0)


_NULL = open(os.devnull, "wb")  # noqa: SIM115, PTH123 - for as long as the process lives
_ERRORS = tempfile.TemporaryFile()  # noqa: SIM115


def _protocol(data: bytes) -> None:
    program = _Said(data)
    with program.stdout:
        talk = Conversation(program, _ERRORS, 5.0)  # type: ignore[arg-type]
        runner = NativeRunner(talk, talk.answer())
        runner.verify()
        runner.run(2)


# --- the build cache


def _cache_entries(scratch: Path) -> list[bytes]:
    cache, program = _cache_of(scratch), scratch / "program"
    program.write_bytes(b"\x7fELF program")
    cache.put("key", {"key": "key", "path": "program", "facts": {}}, [program])
    return [cache._path("key").read_bytes()]


def _cache_of(scratch: Path) -> BuildCache:
    return BuildCache.opened(scratch / "builds", 1 << 30, "here")


def _cached(scratch: Path) -> Callable[[bytes], None]:
    cache = _cache_of(scratch)
    path, into = cache._path("key"), scratch / "into"
    into.mkdir(exist_ok=True)

    def take(data: bytes) -> None:
        path.write_bytes(data)
        cache.fetch("key", into)
        cache.news()

    return take
