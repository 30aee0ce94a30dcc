"""A C++ program as a target: built by a compiler with the point's flags and macros, run through the harness protocol.

Only the kernel's own translation unit is compiled with the point's flags. What no knob may touch (the harness, the
reference) is compiled once, with fixed flags, before the first trial.
"""

import hashlib
import json
import math
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from optimizer.errors import ConfigError
from optimizer.process import Conversation, Done, conversation, run_tool
from optimizer.space import Json, Point, Space, digest
from optimizer.targets.builds import file_hash, kept_or_made, knob_words
from optimizer.trial import Artifact, Check, Reason, Samples, TrialError

SUPPORT_FLAGS = ("-O2", "-std=c++17", "-fopenmp")
BASE_FLAGS = ("-std=c++17", "-fopenmp", "-O3")  # -O3 is what people use; a knob's -O comes later and wins


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler of this machine."""

    name: str  # as a knob's value names it: g++, clang++
    path: str
    version: str


@dataclass(frozen=True)
class Limits:
    timeout_s: float
    memory_bytes: int


@dataclass(frozen=True)
class NativeTarget:
    """One kernel of kernels/, or any program that speaks the protocol of kernels/harness.h.

    source: the translation unit that the knobs act on; support: those that they do not; options: the scenario, as
    run-time options; include: where headers lie; folder: where artifacts go, one subfolder a build.
    """

    source: Path
    support: tuple[Path, ...]
    include: Path
    options: Mapping[str, str]
    space: Space
    compilers: Mapping[str, Compiler]
    folder: Path
    limits: Limits
    flags: tuple[str, ...] = BASE_FLAGS
    files: Mapping[str, Path] = field(default_factory=dict)  # options that name data: their content is in the recipe
    shares_cpu: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def fingerprint(self) -> Mapping[str, Json]:
        return {
            "sources": digest(self._hashes),
            "files": {name: file_hash(path) for name, path in self.files.items()},
            "options": dict(self.options),
            "flags": list(self.flags),
        }

    def prepare(self) -> None:
        """Compiles what no knob touches. Raises ConfigError where the compiler can't: nothing would work then."""
        for compiler in self.compilers.values():
            for source in self.support:
                self._support_object(compiler, source)

    def command(self, point: Point) -> tuple[str, ...]:
        """The command that builds a point, sources and output named as they lie here."""
        compiler = self._compiler(point)
        objects = [str(self._support_path(compiler, s)) for s in self.support]
        words = (*self.flags, *knob_words(self.space, point), f"-I{self.include}", str(self.source))
        return (compiler.path, *words, *objects, "-o", "program")

    def preview(self, point: Point) -> tuple[str, ...]:
        """The commands that build and run a point, for people."""
        environment = [f"{name}={value}" for name, value in self.environment(point).items()]
        return (" ".join(self.command(point)), " ".join([*environment, "./program", *self.arguments(point)]))

    def arguments(self, point: Point) -> tuple[str, ...]:
        """The run-time words of a point: the scenario's options, then the knobs'."""
        options = dict(self.options) | {name: str(path) for name, path in self.files.items()}
        for name, value in point.items():
            effect = self.space.by_name[name].effect
            if effect.kind == "option":
                options[effect.name] = effect.word(value)
        return tuple(f"--{name}={value}" for name, value in options.items())

    def environment(self, point: Point) -> Mapping[str, str]:
        found = {}
        for name, value in point.items():
            effect = self.space.by_name[name].effect
            if effect.kind == "env" and (words := effect.words(value)):
                found[effect.name] = words[0]
        return found

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        words = (*self.flags, *knob_words(self.space, point))
        key = digest([self._hashes, self._compiler(point).version, list(words)])
        artifact = kept_or_made(self.folder, key, lambda scratch, place: self._made(point, scratch, place), fresh=fresh)
        return replace(artifact, arguments=self.arguments(point), environment=self.environment(point))

    def _made(self, point: Point, scratch: Path, place: Path) -> Artifact:
        command = self.command(point)
        done = self._compiled(command, scratch)
        program = scratch / "program"
        return Artifact(
            key=place.name,
            code_key=code_key(program),
            path=str(place / "program"),
            command=command,
            log=done.output,
            facts={
                "compile_time_s": done.wall_s,
                "compile_cpu_time_s": done.cpu_s,
                "binary_bytes": float(program.stat().st_size),
            },
        )

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator["NativeRunner"]:
        command = (artifact.path, *artifact.arguments)
        with (
            tempfile.TemporaryDirectory(prefix="optimizer-run-") as scratch,
            conversation(
                command, artifact.environment, Path(scratch), self.limits.timeout_s, self.limits.memory_bytes
            ) as program,
        ):
            yield NativeRunner(program, program.answer())

    def _compiled(self, command: Sequence[str], folder: Path) -> Done:
        done = run_tool(command, self.limits.timeout_s, folder)
        log = f"$ {' '.join(command)}\n{done.output}"
        if done.status is None:
            raise TrialError(Reason.TIMEOUT, f"the compiler took more than {self.limits.timeout_s:g} s\n{log}")
        if done.status != 0:
            raise TrialError(Reason.COMPILE, log)
        return done

    def _compiler(self, point: Point) -> Compiler:
        if (name := point.get("compiler")) is None:
            return next(iter(self.compilers.values()))
        if (compiler := self.compilers.get(str(name))) is None:
            raise TrialError(Reason.REJECTED, f"the compiler {name} is not on this machine")
        return compiler

    @cached_property
    def _hashes(self) -> Mapping[str, str]:
        """Everything that the build may read: the sources, and all headers beside them and above. Read once, so that
        one search never mixes two versions."""
        headers = [*self.source.parent.glob("*.h"), *self.include.glob("*.h")]
        return {os.path.relpath(p, self.include): file_hash(p) for p in {self.source, *self.support, *headers}}

    def _support_path(self, compiler: Compiler, source: Path) -> Path:
        headers = {name: hashed for name, hashed in self._hashes.items() if name.endswith(".h")}
        key = digest([file_hash(source), headers, compiler.version, list(SUPPORT_FLAGS)])
        return self.folder / "support" / f"{source.stem}-{key}.o"

    def _support_object(self, compiler: Compiler, source: Path) -> None:
        with self._lock:
            made = self._support_path(compiler, source)
            if made.exists():
                return
            made.parent.mkdir(parents=True, exist_ok=True)
            aside = made.with_suffix(f".{os.getpid()}")
            command = (compiler.path, *SUPPORT_FLAGS, f"-I{self.include}", "-c", str(source), "-o", str(aside))
            done = run_tool(command, self.limits.timeout_s, self.folder)
            if done.status != 0:
                raise ConfigError(
                    f"{compiler.name} can't compile {source.name}, which every trial needs; `optimizer doctor` shows "
                    f"the compilers of this machine.\n$ {' '.join(command)}\n{done.output}"
                )
            aside.replace(made)


class NativeRunner:
    """A running program."""

    def __init__(self, program: Conversation, first: Mapping[str, Any]) -> None:
        ready = _part(first, "ready", "its start")
        self._program = program
        self.facts = _numbers({"load_s": ready.get("load_s"), **_object(ready.get("facts", {}))})

    @property
    def pid(self) -> int:
        return self._program.pid

    def verify(self) -> Check:
        check = _part(self._program.ask("verify"), "check", "verify")
        tolerances = _numbers(check.get("tolerances", {}))
        errors, quality = _numbers(_nothing_null(check, "errors")), _numbers(_nothing_null(check, "quality"))
        if not errors:
            raise TrialError(Reason.WRONG, "the program compared nothing with its reference")
        for name, error in errors.items():
            if error > (bound := tolerances.get(name, 0.0)):
                raise TrialError(Reason.WRONG, f"{name} is {error:g}; at most {bound:g} is right")
        return Check(errors, quality)

    def run(self, n: int) -> Samples:
        samples = _part(self._program.ask(f"run {n}"), "samples", "run")
        return {str(name): _readings(name, values) for name, values in samples.items()}


def _part(answer: Mapping[str, Any], name: str, asked: str) -> dict[str, Any]:
    if not isinstance(part := answer.get(name), dict):
        raise TrialError(Reason.CRASH, f"the program answered {asked} with {json.dumps(answer)[:200]}")
    return part


def _nothing_null(check: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Errors or quality; one that is null, NaN or infinite is a wrong answer."""
    found = _object(check.get(name, {}))
    for metric, value in found.items():
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            raise TrialError(Reason.WRONG, f"{metric} is not a finite number")
    return found


def _readings(name: str, values: Any) -> tuple[float, ...]:
    try:
        readings = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        raise TrialError(Reason.CRASH, f"the program's readings of {name} are not numbers") from None
    if not all(map(math.isfinite, readings)):
        raise TrialError(Reason.CRASH, f"the program's readings of {name} are not finite")
    return readings


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TrialError(Reason.CRASH, f"the program printed {str(value)[:80]!r} where an object was due")
    return value


def _numbers(facts: Any) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in _object(facts).items()}
    except (TypeError, ValueError):
        raise TrialError(Reason.CRASH, f"the program printed facts that are not numbers: {facts}") from None


def code_key(program: Path) -> str:
    """A hash of what runs: the sections that are loaded, without notes (build ids) and unwinding tables.

    Raises TrialError where the compiler left no program.
    """
    try:
        with program.open("rb") as file:
            sections = ELFFile(file).iter_sections()
            loaded = [
                (s.name, hashlib.sha256(s.data()).hexdigest())
                for s in sections
                if s["sh_flags"] & 2 and s["sh_type"] != "SHT_NOBITS"  # SHF_ALLOC
            ]
    except ELFError:
        return hashlib.sha256(program.read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        raise TrialError(Reason.COMPILE, "the compiler ended well and left no program") from None
    return digest([s for s in loaded if not s[0].startswith((".note", ".eh_frame"))])
