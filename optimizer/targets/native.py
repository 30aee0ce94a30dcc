"""A C++ program as a target: built by a compiler with the point's flags and macros, run through the harness protocol.

Only the kernel's own translation units are compiled with the point's flags: one with the link in one command, several
beside each other, each kept by its content, then linked. What no knob may touch (the harness, the reference) is
compiled once, with fixed flags, before the first trial.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from optimizer.errors import ConfigError
from optimizer.process import Conversation, Done, conversation
from optimizer.space import Json, Point, Space, digest
from optimizer.targets.builds import CACHED, file_hash, kept_or_made, knob_variables, knob_words
from optimizer.targets.cache import BuildCache
from optimizer.targets.sources import Closure, canonical, closure, include_folders
from optimizer.targets.units import TIMES, Compiler, Launcher, Units, compiled
from optimizer.trial import Artifact, Check, Reason, Samples, TrialError, once_more

SUPPORT_FLAGS = ("-O2", "-std=c++17", "-fopenmp")
BASE_FLAGS = ("-std=c++17", "-fopenmp", "-O3")  # -O3 is what people use; a knob's -O comes later and wins


@dataclass(frozen=True)
class Limits:
    timeout_s: float
    memory_bytes: int


@dataclass(frozen=True)
class NativeTarget:
    """One kernel of kernels/, or any program that speaks the protocol of kernels/harness.h.

    source: the translation unit that the knobs act on, and more, where it has several; support: those that they do
    not; options: the scenario, as run-time options; include: where headers lie; folder: where artifacts go, one
    subfolder a build; cache: what other searches have built; launcher: before the compiler, for object files.
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
    hashes: Mapping[str, str] = field(default_factory=dict)  # of the content of files, where it is known already
    more: tuple[Path, ...] = ()
    cache: BuildCache | None = None
    launcher: Launcher | None = None
    times_count: bool = False  # the goal is about compile times: no launcher may answer for the knobs' units
    shares_cpu: bool = True

    def fingerprint(self) -> Mapping[str, Json]:
        return {
            "sources": digest(self._hashes),
            "files": {name: self.hashes.get(name) or file_hash(path) for name, path in self.files.items()},
            "options": dict(self.options),
            "flags": list(self.flags),
        }

    def prepare(self) -> None:
        """Compiles what no knob touches. Raises ConfigError where the compiler can't: nothing would work then."""
        todo = [(compiler, source) for compiler in self.compilers.values() for source in self.support]
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="support") as pool:
            for _ in pool.map(lambda one: self._support_object(*one), todo):
                pass

    @property
    def sources(self) -> tuple[Path, ...]:
        """The units on which the knobs act."""
        return (self.source, *self.more)

    def command(self, point: Point) -> tuple[str, ...]:
        """The command that builds a point, sources and output named as they lie here."""
        return self._command(point, self.words(point))

    def _command(self, point: Point, words: Sequence[str]) -> tuple[str, ...]:
        sources = (str(s) for s in self.sources)
        return self.linking(point, [*words, f"-I{self.include}", *sources])

    def linking(self, point: Point, words: Sequence[str]) -> tuple[str, ...]:
        compiler = self.compiler(point)
        support = [str(self._support_path(compiler, s)) for s in self.support]
        return (compiler.path, *words, *support, "-o", "program")

    def words(self, point: Point) -> tuple[str, ...]:
        """Flags and macros of a point."""
        return (*self.flags, *knob_words(self.space, point))

    def preview(self, point: Point) -> tuple[str, ...]:
        """The commands that build and run a point, for people."""
        environment = [f"{name}={value}" for name, value in self.environment(point).items()]
        run = " ".join([*environment, "./program", *self.arguments(point)])
        return (" ".join(self.command(point)), run)

    def arguments(self, point: Point) -> tuple[str, ...]:
        """The run-time words of a point: the scenario's options, then the knobs'."""
        options = dict(self.options) | {name: str(path) for name, path in self.files.items()}
        for name, value in point.items():
            effect = self.space.by_name[name].effect
            if effect.kind == "option":
                options[effect.name] = effect.word(value)
        return tuple(f"--{name}={value}" for name, value in options.items())

    def environment(self, point: Point) -> Mapping[str, str]:
        return knob_variables(self.space, point)

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        return self.built(point, self.words(point), fresh=fresh, cache=self._sure_cache)

    def built(
        self, point: Point, words: Sequence[str], *, fresh: bool = False, cache: BuildCache | None = None
    ) -> Artifact:
        """A point compiled with these words in place of its own. Files that they name (@file, -include) are told apart
        by their paths alone, so what is built of them is no matter for the cache."""
        key = digest([self._hashes, self.compiler(point).version, list(canonical(words))])

        def made(scratch: Path, place: Path) -> Artifact:
            log, times = self._compiled(point, words, scratch, fresh=fresh)
            program = scratch / "program"
            return Artifact(
                key=place.name,
                code_key=code_key(program),
                path=str(place / "program"),
                log=log,
                facts={**times, "binary_bytes": float(program.stat().st_size)},
            )

        artifact = kept_or_made(self.folder, key, made, fresh=fresh, cache=cache)
        return replace(
            artifact,
            command=self._command(point, words),
            arguments=self.arguments(point),
            environment=self.environment(point),
        )

    def _compiled(
        self, point: Point, words: Sequence[str], scratch: Path, *, fresh: bool
    ) -> tuple[str, dict[str, float]]:
        """What the compiler said and how long it took; the program lies in `scratch`. Of several units the time is
        that of one after the other and the link, whenever and beside whatever each was compiled."""
        if not self.more:
            done = self.ran(self._command(point, words), scratch)
            return done.output, dict(zip(TIMES, (done.wall_s, done.cpu_s), strict=True))
        compiler = self.compiler(point)
        units = self._units(None if self.times_count else self.launcher)
        objects = list(
            self._pool.map(lambda s: units.object(compiler, s, self._read_by(s), words, fresh=fresh), self.sources)
        )
        done = self.ran(self.linking(point, [*words, *(o.path for o in objects)]), scratch)
        link = dict(zip(TIMES, (done.wall_s, done.cpu_s), strict=True))
        told = {t: link[t] + sum(o.facts[t] for o in objects) for t in TIMES if all(t in o.facts for o in objects)}
        kept = sum(CACHED in o.facts for o in objects)
        return "".join([*(o.log for o in objects), done.output]), {**told, **({"units_cached": kept} if kept else {})}

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

    def ran(self, command: Sequence[str], scratch: Path) -> Done:
        """A compiler that did its work, within the limits of a build. Raises TrialError: COMPILE, TIMEOUT, MEMORY."""
        return compiled(command, self.limits.timeout_s, scratch, self.limits.memory_bytes)

    def compiler(self, point: Point) -> Compiler:
        if (name := point.get("compiler")) is None:
            return next(iter(self.compilers.values()))
        if (compiler := self.compilers.get(str(name))) is None:
            raise TrialError(Reason.REJECTED, f"the compiler {name} is not on this machine")
        return compiler

    @cached_property
    def _hashes(self) -> Mapping[str, str]:
        """Everything that the build may read: the sources, what they include, all headers beside them and above, and
        files that the flags name. Read once, so that one search never mixes two versions."""
        headers = [*self.source.parent.glob("*.h"), *self.include.glob("*.h")]
        named = [path for path in map(Path, self.flags) if path.is_absolute() and path.is_file()]
        read = {*headers, *named, *(p for reads in self._reads.values() for p in reads.files)}
        return {self._name(p): file_hash(p) for p in read}

    @cached_property
    def _reads(self) -> Mapping[Path, Closure]:
        folders = [self.include, *include_folders(self.flags)]
        return {source: closure([source], folders) for source in (*self.sources, *self.support)}

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self.include)

    def _read_by(self, source: Path) -> Mapping[str, str]:
        return {name: self._hashes[name] for name in map(self._name, self._reads[source].files)}

    @property
    def _sure_cache(self) -> BuildCache | None:
        """The cache, where the sources' text says all that they read."""
        return None if any(reads.computed for reads in self._reads.values()) else self.cache

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """For the units of all builds that are going on: together no more than there are processors."""
        return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="unit")

    def _units(self, launcher: Launcher | None) -> Units:
        return Units(
            self.folder / "objects",
            self.include,
            self.limits.timeout_s,
            self._sure_cache,
            launcher,
            self.limits.memory_bytes,
        )

    def _support_path(self, compiler: Compiler, source: Path) -> Path:
        return self._units(None).place(compiler, source, self._read_by(source), SUPPORT_FLAGS)

    def _support_object(self, compiler: Compiler, source: Path) -> None:
        read = self._read_by(source)
        try:
            once_more(lambda: self._units(self.launcher).object(compiler, source, read, SUPPORT_FLAGS))
        except TrialError as error:
            raise ConfigError(
                f"{compiler.name} can't compile {source.name}, which every trial needs; `optimizer doctor` shows "
                f"the compilers of this machine.\n{error.log}"
            ) from None


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
    except (TypeError, ValueError, OverflowError):
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
    except (TypeError, ValueError, OverflowError):
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
