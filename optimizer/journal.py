"""How is a search written down so that nothing recorded is ever lost?

A journal is a file of JSON lines: a header (recipe, environment), then records that each have a `kind`: trial, drift,
verdict. A line is written whole, by one system call, before anything else hears of the trial; a process that is killed
leaves at most one torn line at the end, which is cut off when the journal is continued. The file is locked while a
search writes to it. The lines reach the disk at least once a second, so that a loss of power costs about that much.
"""

import errno
import gzip
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from sys import intern
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from optimizer.errors import MALFORMED, ConfigError, lacking
from optimizer.files import names_folder
from optimizer.protocols import Ending
from optimizer.recipe import Environment, Recipe, differences, environment_from, recipe_from
from optimizer.space import Json, Point
from optimizer.stats import Judgement, Verdict
from optimizer.trial import (
    Artifact,
    Candidate,
    Check,
    Failed,
    Measured,
    Packed,
    Reason,
    Samples,
    Stage,
    Summary,
    Trial,
    artifact_document,
    lean,
)

JOURNAL = "journal.jsonl"  # in a study's folder
FORMAT = "optimizer-journal"
VERSION = 1
FLUSH_S = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for, in the words of the configuration: enough to ask for it again."""

    words: tuple[str, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)  # group → file: {"target": "gemm_cpu", …}
    spaces: tuple[str, ...] = ()  # files of the space
    target: Mapping[str, Json] = field(default_factory=dict)  # the target's node, composed; {} in older journals


@dataclass(frozen=True)
class Study:
    """A search as it was written down."""

    name: str
    recipe: Recipe
    environment: Environment
    trials: tuple[Trial, ...]
    drift: tuple[tuple[int, Samples], ...] = ()
    ending: Ending | None = None  # the last one, where it has ended and no trial came after
    id: str = ""  # of this very journal, for tracking
    created_at_s: float = 0.0
    settings: Settings = field(default_factory=Settings)

    @property
    def baseline(self) -> Trial | None:
        """Number 0, where it was measured."""
        first = self.trials[0] if self.trials else None
        return first if first and isinstance(first.outcome, Measured) else None

    @property
    def best(self) -> Trial | None:
        """The best feasible trial as measured in the search, confirmed or not."""
        return self.ranked[0] if self.ranked else None

    @cached_property
    def ranked(self) -> list[Trial]:
        """The feasible trials, best first."""
        return self.recipe.goal.ranked(self.trials, self.baseline) if self.baseline else []

    @property
    def winner(self) -> Trial | None:
        """What the search ends with: the trial that was proved better, else number 0; None before a verdict."""
        if self.ending is None or self.ending.verdict is None:
            return None
        verdict = self.ending.verdict
        return self.trials[verdict.number if verdict.judgement is Judgement.BETTER else 0]


# --- to and from JSON


def header_document(study: Study) -> Json:
    """The first line."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": study.id,
        "study": study.name,
        "created_at_s": study.created_at_s,
        "settings": asdict(study.settings),
        "key": study.recipe.key,
        "recipe": study.recipe.document(),
        "environment": study.environment.document(),
    }


def journal_bytes(study: Study) -> bytes:
    """A whole study as a journal, for what was not searched here."""
    lines = [line_of(header_document(study)), *(line_of(trial_document(t)) for t in study.trials)]
    return b"".join(lines + ([line_of(_ending_document(study.ending))] if study.ending else []))


def trial_document(trial: Trial) -> Json:
    outcome = trial.outcome
    if isinstance(outcome, Measured):
        told: dict[str, Json] = {
            "check": {"errors": _numbers(outcome.check.errors), "quality": _numbers(outcome.check.quality)},
            "samples": {name: list(values) for name, values in outcome.samples.items()},
        }
        if outcome.summaries:
            told["summaries"] = {name: _told_of(summary) for name, summary in outcome.summaries.items()}
    else:
        told = {"failed": {"stage": outcome.stage, "reason": outcome.reason, "log": outcome.log}}
    return {
        "kind": "trial",
        "number": trial.number,
        "point": dict(trial.point),
        **told,
        "same_as": outcome.same_as,
        "artifact": artifact_document(trial.artifact) if trial.artifact else None,
        "seconds": dict(trial.seconds),
        "started_at_s": trial.started_at_s,
        "elapsed_s": trial.elapsed_s,
    }


def _told_of(summary: Summary) -> Json:
    return {name: value for name, value in asdict(summary).items() if value is not None}


def trial_from(document: Json) -> Trial:
    """The inverse of trial_document. Raises KeyError, TypeError or ValueError on anything else."""
    outcome: Measured | Failed
    if "failed" in document:
        failed = document["failed"]
        outcome = Failed(Stage(failed["stage"]), Reason(failed["reason"]), str(failed["log"]), document["same_as"])
    else:
        check = Check(_numbers(document["check"]["errors"]), _numbers(document["check"]["quality"]))
        summaries = {str(name): Summary(**told) for name, told in document.get("summaries", {}).items()}
        outcome = Measured(check, _samples(document["samples"]), document["same_as"], summaries)
    trial = Trial(
        candidate=Candidate(int(document["number"]), Point({intern(str(n)): v for n, v in document["point"].items()})),
        outcome=outcome,
        seconds=_numbers(document["seconds"]),
        artifact=_artifact(document["artifact"]),
        started_at_s=float(document["started_at_s"]),
        elapsed_s=float(document["elapsed_s"]),
    )
    return lean(trial)


def _artifact(document: Json) -> Artifact | None:
    if document is None:
        return None
    words = {name: tuple(document[name]) for name in ("arguments", "command")}
    return Artifact(**{**document, **words, "facts": _numbers(document["facts"])})


def _samples(document: Mapping[str, Any]) -> Samples:
    return Packed({intern(str(name)): tuple(float(v) for v in values) for name, values in document.items()})


def _settings_from(document: Json) -> Settings:
    return Settings(
        tuple(document["words"]), dict(document["choices"]), tuple(document["spaces"]), document.get("target", {})
    )


def _numbers(document: Mapping[str, Any]) -> dict[str, float]:
    """Names are the same in every line, and a long study has many lines."""
    return {intern(str(name)): float(value) for name, value in document.items()}


def _ending_document(ending: Ending) -> Json:
    return {
        "kind": "verdict",
        "verdict": asdict(ending.verdict) if ending.verdict else None,
        "gains": list(ending.gains),
        "load_pct": ending.load_pct,
        "interrupted": ending.interrupted,
        "seconds": dict(ending.seconds),
        "passed_over": {str(number): why for number, why in ending.passed_over.items()},
    }


def verdict_from(document: Json) -> Verdict | None:
    if not document:
        return None
    ratios = {name: float(document[name]) for name in ("ratio", "low", "high")}
    kept = {**document, **ratios, "judgement": Judgement(document["judgement"]), "number": int(document["number"])}
    return Verdict(**kept)


def _ending_from(document: Json) -> Ending:
    return Ending(
        verdict_from(document["verdict"]),
        tuple(document["gains"]),
        float(document["load_pct"]),
        interrupted=bool(document["interrupted"]),
        seconds=_numbers(document["seconds"]),
        passed_over={int(number): str(why) for number, why in document.get("passed_over", {}).items()},
    )


def line_of(document: Json) -> bytes:
    """One line of the journal. A number that is not finite is a bug of the target and stops the search here."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode() + b"\n"


# --- reading


@dataclass
class _Read:
    header: Json = None
    trials: list[Trial] = field(default_factory=list)
    drift: list[tuple[int, Samples]] = field(default_factory=list)
    ending: Ending | None = None
    whole_bytes: int = 0
    lines: int = 0
    apart: bool = False  # its trials lie elsewhere


def read_apart(path: Path) -> Study:
    """A journal whose trials lie elsewhere: what it was and how it ended. Raises ConfigError as `read` does."""
    return _study(path, _read(path, _Read(apart=True)))


def read(path: Path) -> Study:
    """Raises ConfigError where the file is missing, foreign or damaged, naming the line."""
    return _study(path, _read(path))


def _study(path: Path, found: _Read) -> Study:
    header = found.header
    try:
        if not names_folder(header["study"]):
            raise ValueError(f"{header['study']!r} can't be the name of a study")
        return Study(
            name=header["study"],
            recipe=recipe_from(header["recipe"]),
            environment=environment_from(header["environment"]),
            trials=tuple(found.trials),
            drift=tuple(found.drift),
            ending=found.ending,
            id=header["id"],
            created_at_s=header["created_at_s"],
            settings=_settings_from(header["settings"]),
        )
    except MALFORMED as error:
        raise ConfigError(f"{path}: line 1 has no recipe that this version can read ({lacking(error)}).") from None


class Tail:
    """A journal that another process is writing: `study` grows with every `poll`."""

    def __init__(self, path: Path) -> None:
        self.path, self._found = path, _Read()

    def poll(self) -> Study:
        """What stands in the file now. Raises ConfigError as `read` does."""
        _read(self.path, self._found)
        return _study(self.path, self._found)


def _read(path: Path, found: _Read | None = None) -> _Read:
    """Reads on from where `found` ends."""
    found = found or _Read()
    for line, end in whole_lines(path, found.whole_bytes):
        found.lines += 1
        number = found.lines
        try:
            _take(found, json.loads(line), first=number == 1)
        except MALFORMED as error:
            raise ConfigError(
                f"{path}: line {number} is damaged or foreign ({lacking(error)}). A journal is only ever appended to; "
                f"to go on without this line and what follows, cut the file before it: head -n {number - 1}."
            ) from None
        found.whole_bytes = end
    if found.header is None:
        raise ConfigError(f"{path} is not a journal: it holds no whole line.")
    return found


def _take(found: _Read, document: Json, *, first: bool) -> None:
    if first:
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"the first line of a journal says format: {FORMAT}")
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']}; this program reads {VERSION}")
        found.header = document
        return
    match document["kind"]:
        case "trial":
            trial = trial_from(document)
            if trial.number != len(found.trials):
                raise ValueError(f"trial {trial.number} stands where number {len(found.trials)} is due")
            found.trials.append(trial)
            found.ending = None
        case "drift":
            found.drift.append((int(document["after"]), _samples(document["samples"])))
        case "verdict":
            ending = _ending_from(document)
            if ending.verdict is not None and not (found.apart or 0 <= ending.verdict.number < len(found.trials)):
                raise ValueError(f"a verdict on trial {ending.verdict.number}, of which there is none")
            found.ending = ending
        case kind:
            raise ValueError(f"a record of kind {kind!r}")


def whole_lines(path: Path, start: int) -> Iterator[tuple[bytes, int]]:
    """Each whole line and where it ends. A last line without its newline was torn by a kill and does not count."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            end = file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield line, end
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.") from None


# --- writing


def append(file: int, document: Json, path: Path) -> None:
    """A line at the end of an open file, by one system call. Raises OSError where the disk is full."""
    line = line_of(document)
    written = os.write(file, line)
    if written < len(line):  # leave no torn line behind
        os.ftruncate(file, os.fstat(file).st_size - written)
        raise OSError(errno.ENOSPC, f"No space left on the device for {path}")


class Journal:
    """The file of a running search; a Listener. Create with `create` or `resume`, use as a context manager."""

    def __init__(self, path: Path, lock: FileLock, recorded: Sequence[Trial]) -> None:
        self.path, self.recorded, self._lock = path, tuple(recorded), lock
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._synced_s = time.monotonic()

    @classmethod
    def create(cls, path: Path, name: str, recipe: Recipe, environment: Environment, settings: "Settings") -> "Journal":
        """A new journal. Raises ConfigError where there is one already or the folder can't be written to."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _locked(path)
            if path.exists() and path.stat().st_size:
                lock.release()
                raise ConfigError(
                    f"The study {name} exists already ({path}). Continue it with --resume, or give the new one "
                    "another name with study=NAME."
                )
            journal = cls(path, lock, ())
        except OSError as error:
            raise ConfigError(
                f"The study can't be written to {path.parent}: {error.strerror}. Name another folder with "
                "studies_dir=FOLDER."
            ) from None
        study = Study(
            name, recipe, environment, (), id=os.urandom(8).hex(), created_at_s=time.time(), settings=settings
        )
        journal.write(header_document(study))
        return journal

    @classmethod
    def resume(cls, path: Path, recipe: Recipe, environment: Environment) -> "Journal":
        """Continues a journal of the same recipe on the same device. Raises ConfigError naming what differs."""
        lock = _locked(path)
        try:
            found = _read(path)
            study = _study(path, found)
            _same_recipe(path, study.recipe, recipe)
            _same_place(path, study.environment, environment)
            os.truncate(path, found.whole_bytes)
            return cls(path, lock, study.trials)
        except BaseException:
            lock.release()
            raise

    def write(self, document: Json) -> None:
        """Appends one line. Raises OSError where the disk is full: a search does not go on unrecorded."""
        append(self._file, document, self.path)
        if time.monotonic() - self._synced_s > FLUSH_S:
            os.fdatasync(self._file)
            self._synced_s = time.monotonic()

    def forget_if_empty(self) -> None:
        """Removes a journal in which nothing was recorded, so that the same command can be given again."""
        if not read(self.path).trials:
            self.path.unlink()

    def on_start(self, recipe: Recipe, environment: Environment) -> None:
        pass  # the header was written when the file was made: a bad path fails before anything runs

    def on_trial(self, trial: Trial) -> None:
        self.write(trial_document(trial))

    def on_drift(self, after: int, samples: Samples) -> None:
        self.write({"kind": "drift", "after": after, "samples": {n: list(v) for n, v in samples.items()}})

    def on_end(self, ending: Ending) -> None:
        self.write(_ending_document(ending))
        os.fdatasync(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        self._lock.release()


def _locked(path: Path) -> FileLock:
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"Another search is writing to {path}. Wait for it, or name another study.") from None
    except OSError as error:
        raise ConfigError(
            f"The study can't be written to {path.parent}: {error.strerror}. Name another folder with "
            "studies_dir=FOLDER."
        ) from None
    return lock


def _same_recipe(path: Path, old: Recipe, new: Recipe) -> None:
    if old.key == new.key:
        return
    changed = differences(old.document(), new.document())
    shown = "\n  ".join(changed[:8]) + (f"\n  … and {len(changed) - 8} more" if len(changed) > 8 else "")
    raise ConfigError(
        f"{path} was made by another search and can't be continued by this one. What differs:\n  {shown}\n"
        "Give the same settings as then, or start a new study with study=NAME."
    )


def _same_place(path: Path, old: Environment, new: Environment) -> None:
    def compared(environment: Environment) -> Json:
        return {"device": environment.device, "driver": environment.driver, "compilers": dict(environment.compilers)}

    if changed := differences(compared(old), compared(new)):
        shown = "\n  ".join(changed)
        raise ConfigError(
            f"{path} was measured elsewhere and its trials can't be compared with new ones. What differs:\n  {shown}\n"
            "Continue it on the same device with the same compilers, or start a new study with study=NAME."
        )
