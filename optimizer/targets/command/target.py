"""Anybody's program as a target: some commands build a point, another runs it, its numbers are where it puts them."""

import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from filelock import FileLock

from optimizer.space import Json, Point, Space, digest
from optimizer.targets.builds import RECORD, knob_variables, recorded, write_record
from optimizer.targets.command.answers import Answer
from optimizer.targets.command.placeholders import braced, filled, filled_text, placed
from optimizer.targets.command.programs import Programs, ending, programs
from optimizer.targets.command.readings import Reading, readings
from optimizer.targets.command.runner import BuiltOnly, CommandRunner
from optimizer.targets.command.sources import Sources
from optimizer.targets.native import Limits, code_key
from optimizer.trial import Artifact, Reason, TrialError

BUILD = "build"
"""Where a reading is that comes of what the build commands printed."""


@dataclass(frozen=True, slots=True)
class Commands:
    """Command lines and what surrounds them, with placeholders (placeholders.py).

    products: what a build leaves, the program first; what runs is told apart by them.
    """

    build: tuple[tuple[str, ...], ...]
    run: tuple[str, ...]
    build_folder: str = "{out}"
    folder: str = "{scratch}"
    build_environment: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    products: tuple[str, ...] = ()

    def document(self) -> Json:
        return {
            "build": [list(step) for step in self.build],
            "run": list(self.run),
            "build_folder": self.build_folder,
            "folder": self.folder,
            "build_environment": dict(self.build_environment),
            "environment": dict(self.environment),
            "products": list(self.products),
        }


@dataclass(frozen=True)
class CommandTarget:
    """programs: those that the commands name, by name, with a version or a hash; paths: where they lie, by the word
    that names them. runs: whether they can run here; where
    they can't, what the build tells is all there is. variables: of every run, besides those of the point."""

    commands: Commands
    sources: Sources | None
    copy_source: bool
    reads: tuple[Reading, ...]
    answer: Answer
    space: Space
    programs: Mapping[str, str]
    paths: Mapping[str, str]
    folder: Path
    limits: Limits
    limit_memory: bool = True
    runs: bool = True
    variables: Mapping[str, str] = field(default_factory=dict)
    shares_cpu: bool = True

    def fingerprint(self) -> Mapping[str, Json]:
        return {
            "commands": self.commands.document(),
            "sources": self._source_hash,
            "metrics": {r.metric: r.document() for r in self.reads},
            "check": self.answer.document(),
        }

    def preview(self, point: Point) -> Sequence[str]:
        """The commands that build and run a point, for people."""
        folders = {**self._folders(self.folder / "KEY"), "scratch": "SCRATCH"}
        lines = [shlex.join(placed(filled(step, self.space, point), folders)) for step in self.commands.build]
        if self.commands.run and self.runs:
            settings = [f"{name}={value}" for name, value in self._environment(point).items()]
            lines.append(shlex.join(placed([*settings, *filled(self.commands.run, self.space, point)], folders)))
        return lines

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        if not self.commands.build:
            made = Artifact(key="", code_key=digest([self._source_hash, dict(self.programs)]))
        else:
            key = self._key(point)
            self.folder.mkdir(parents=True, exist_ok=True)
            if fresh:
                with tempfile.TemporaryDirectory(dir=self.folder, prefix="fresh-") as elsewhere:
                    built = self._built(point, key, Path(elsewhere))
                made = replace(built, path=self._moved(built.path, Path(elsewhere), self.folder / key))
            else:
                made = self._kept_or_built(point, key)
        return replace(
            made, arguments=filled(self.commands.run, self.space, point), environment=self._environment(point)
        )

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator[CommandRunner | BuiltOnly]:
        if not self.runs:
            yield BuiltOnly()
            return
        with tempfile.TemporaryDirectory(prefix="optimizer-run-") as room:
            scratch, logs = Path(room) / "scratch", Path(room) / "logs"
            scratch.mkdir()
            logs.mkdir()
            folders = {**self._folders(self.folder / artifact.key), "scratch": str(scratch)}
            variables = dict(zip(artifact.environment, placed(artifact.environment.values(), folders), strict=True))
            memory_bytes = self.limits.memory_bytes if self.limit_memory else None
            with programs(
                self.paths, {**variables, **self.variables}, logs, self.limits.timeout_s, memory_bytes
            ) as started:
                yield CommandRunner(
                    programs=started,
                    command=placed(artifact.arguments, folders),
                    folder=Path(placed([self.commands.folder], folders)[0]),
                    folders=folders,
                    reads=tuple(r for r in self.reads if r.place != BUILD),
                    answer=self.answer,
                    sources=None if self.copy_source else self.sources,
                )

    def _key(self, point: Point) -> str:
        steps = [list(filled(step, self.space, point)) for step in self.commands.build]
        told = [r.document() for r in self.reads if r.place == BUILD]
        products = list(filled(self.commands.products, self.space, point))
        where = [self._build_folder(point), self.copy_source]
        environment = dict(self._build_environment(point))
        return digest([self._source_hash, dict(self.programs), steps, environment, where, products, told])

    def _kept_or_built(self, point: Point, key: str) -> Artifact:
        """A build stays where it was made: many a program has the path of what lies beside it in itself."""
        place = self.folder / key
        with FileLock(self.folder / f"{key}.lock"):
            if (known := recorded(place / RECORD)) is not None:
                return Artifact(**known)
            if place.exists():
                shutil.rmtree(place)  # of a build that was interrupted
            place.mkdir()
            artifact = self._built(point, key, place)
            write_record(place, artifact)
            return artifact

    def _built(self, point: Point, key: str, place: Path) -> Artifact:
        self._refuse_leaving(point)
        folders = self._folders(place)
        Path(folders["out"]).mkdir(exist_ok=True)
        before = self._prepared(folders)
        environment = {k: placed([v], folders)[0] for k, v in self._build_environment(point).items()}
        cwd = Path(placed([self._build_folder(point)], folders)[0])
        cwd.mkdir(parents=True, exist_ok=True)
        steps = [placed(filled(step, self.space, point), folders) for step in self.commands.build]
        with (
            tempfile.TemporaryDirectory(prefix="optimizer-build-") as logs,
            programs(self.paths, {"LC_ALL": "C"}, Path(logs), self.limits.timeout_s, None) as started,
        ):
            facts, log = self._steps(steps, cwd, environment, started)
        if self.sources is not None and before and (names := self.sources.changed(before)):
            raise TrialError(
                Reason.REJECTED,
                f"the build wrote into its source folder ({names}), where builds of other points would find it. Build "
                "into {out}, set target.copy_source=true, or leave the names out with target.ignore.",
            )
        products = [Path(p) for p in placed(filled(self.commands.products, self.space, point), folders)]
        if products:
            facts["binary_bytes"] = float(sum(_size(p) for p in products))
        return Artifact(
            key=key,
            code_key=digest([code_key(p) for p in products]) if products else key,
            path=str(products[0]) if products else "",
            command=_as_typed(steps, cwd, environment),
            log=log,
            facts=facts,
        )

    def _build_folder(self, point: Point) -> str:
        template = self.commands.build_folder
        if (text := filled_text(template, self.space, point)) is None:
            raise TrialError(Reason.REJECTED, f"target.build_folder={template} names a knob that is not active here")
        return text

    def _refuse_leaving(self, point: Point) -> None:
        """What is made and read lies where the words put it, whatever a knob's value is: no value leads up from it."""
        for template in (self.commands.build_folder, *self.commands.products):
            text = filled_text(template, self.space, point) or ""
            if ".." in Path(text).parts and ".." not in Path(template).parts:
                raise TrialError(
                    Reason.REJECTED, f"with this point's values, {template} is {text}: it leaves its folder"
                )

    def _prepared(self, folders: Mapping[str, str]) -> Mapping[str, tuple[int, int]]:
        """The sources as they are before a build: copied, or remembered."""
        if self.sources is None:
            return {}
        if self.copy_source:
            self.sources.copy(Path(folders["source"]))
            return {}
        return self.sources.stamps()

    def _steps(
        self, steps: Sequence[Sequence[str]], cwd: Path, environment: Mapping[str, str], started: Programs
    ) -> tuple[dict[str, float], str]:
        """Runs the build; what it told, and its log."""
        wall_s = cpu_s = 0.0
        everything = started.logs / "build.log"
        log = ""
        with everything.open("wb") as file:
            for step in steps:
                ran = started.run(step, cwd, environment, Reason.COMPILE)
                wall_s, cpu_s = wall_s + ran.wall_s, cpu_s + ran.cpu_s
                file.write(ran.stdout.read_bytes() + ran.stderr.read_bytes())
                log += f"$ {shlex.join(step)}\n{ending(ran.stdout, ran.stderr)}\n"
        facts = {"compile_time_s": wall_s, "compile_cpu_time_s": cpu_s}
        for reading in self.reads:
            if reading.place == BUILD:
                facts[reading.metric] = readings(reading, everything, started.found)[-1]
        return facts, log

    def _build_environment(self, point: Point) -> Mapping[str, str]:
        return _environment(self.commands.build_environment, self.space, point)

    def _environment(self, point: Point) -> Mapping[str, str]:
        """The variables of a run: the target's, then the knobs'; folders are still to be filled in."""
        found = dict(_environment(self.commands.environment, self.space, point))
        return found | {name: braced(text) for name, text in knob_variables(self.space, point).items()}

    def _folders(self, place: Path) -> dict[str, str]:
        out = {"out": str(place / "out")}
        if self.sources is None:
            return out
        return {**out, "source": str(place / "source" if self.copy_source else self.sources.folder)}

    def _moved(self, path: str, old: Path, new: Path) -> str:
        return str(new / Path(path).relative_to(old)) if path and Path(path).is_relative_to(old) else path

    @cached_property
    def _source_hash(self) -> str | None:
        """Read once, so that one search never mixes two versions."""
        return self.sources.hash() if self.sources else None


def _environment(templates: Mapping[str, str], space: Space, point: Point) -> Mapping[str, str]:
    """A variable whose text names a knob that is not active is not set."""
    texts = {name: filled_text(text, space, point) for name, text in templates.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _size(path: Path) -> int:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise TrialError(
            Reason.COMPILE, f"the build ended well and left no {path.name} ({error.strerror}): target.program names it"
        ) from None
    if not path.is_file():
        raise TrialError(Reason.COMPILE, f"the build left a folder {path.name}: target.program names a file")
    return size_bytes


def _as_typed(steps: Sequence[Sequence[str]], cwd: Path, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The build as one would type it: cd FOLDER && NAME=VALUE command … && …"""
    words = ["cd", str(cwd)]
    for step in steps:
        words += ["&&", *(f"{name}={value}" for name, value in environment.items()), *step]
    return tuple(words)
