"""What was tried and what came of it. Values only: nothing here runs, reads or writes."""

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate, chain
from statistics import median
from struct import Struct
from typing import Any, TypeVar

from optimizer.space import Point, digest

_NONE: Mapping[str, Any] = {}
"""Nothing is written to the mappings of a value, so the empty one is the same for all."""


def _none() -> Mapping[str, Any]:
    return _NONE


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point that a strategy asks for. `number` counts from 0 in the order of asking; 0 is the baseline."""

    number: int
    point: Point


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something built and ready to run, addressed by the hash of all that it was built from."""

    key: str  # hash of sources, compiler and build settings
    code_key: str  # hash of the machine code (or whatever else decides what runs) alone
    path: str = ""  # the program or package, as a path on the host that built it
    arguments: tuple[str, ...] = ()  # run-time options: the program's own words
    environment: Mapping[str, str] = field(default_factory=_none)  # variables set for the running program
    command: tuple[str, ...] = ()  # the command that built it, for people
    log: str = ""  # what the compiler said
    facts: Mapping[str, float] = field(default_factory=_none)  # what the build told: compile_time_s, binary_bytes, …

    @property
    def identity(self) -> str:
        """Artifacts that share it run the same code in the same way: one measurement serves them all."""
        return digest([self.code_key, list(self.arguments), dict(self.environment)])


@dataclass(frozen=True, slots=True)
class Check:
    """How far an artifact's answers lie from the reference, and what they are worth."""

    errors: Mapping[str, float] = field(default_factory=_none)  # {"max_rel_error": 3e-3}
    quality: Mapping[str, float] = field(default_factory=_none)  # {"perplexity": 3.2}


Samples = Mapping[str, tuple[float, ...]]
"""Raw readings by metric, in SI base units: {"latency_s": (1.2e-3, …), "energy_j": …}."""


class Packed(Mapping[str, tuple[float, ...]]):
    """Readings at 8 bytes each: a long search keeps those of every trial, and a float object takes 32."""

    __slots__ = ("_readings", "_shape")

    def __init__(self, samples: Samples) -> None:
        self._shape = _shape(tuple((name, len(values)) for name, values in samples.items()))
        self._readings = array("d", chain.from_iterable(samples.values())).tobytes()  # an array keeps room to grow

    def __getitem__(self, name: str) -> tuple[float, ...]:
        start, end = self._shape[name]
        return tuple(memoryview(self._readings).cast("d")[start:end])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __repr__(self) -> str:
        return repr(dict(self))


class Numbers(Mapping[str, float]):
    """Named numbers at 8 bytes each; trials that have the same names share them."""

    __slots__ = ("_places", "_values")

    def __init__(self, values: Mapping[str, float]) -> None:
        self._places = _places(tuple(values))
        self._values = array("d", values.values()).tobytes()

    def __getitem__(self, name: str) -> float:
        number: float = _DOUBLE.unpack_from(self._values, self._places[name])[0]
        return number

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return repr(dict(self))


_DOUBLE = Struct("d")


@lru_cache(maxsize=4096)
def _places(names: tuple[str, ...]) -> Mapping[str, int]:
    return {name: i * _DOUBLE.size for i, name in enumerate(names)}


@lru_cache(maxsize=4096)
def _shape(lengths: tuple[tuple[str, int], ...]) -> Mapping[str, tuple[int, int]]:
    """Where each metric's readings begin and end; shared by the many trials that have as many of each."""
    ends = list(accumulate(length for _, length in lengths))
    starts = [0, *ends]
    return {name: (start, end) for (name, _), start, end in zip(lengths, starts, ends, strict=False)}


@dataclass(frozen=True, slots=True)
class Summary:
    """What somebody told of readings that are not listed, in SI base units. What was not told is None, never invented.

    `sd` is the standard deviation as told: whether divided by n or by n − 1 is rarely said.
    """

    mean: float | None = None
    sd: float | None = None
    low: float | None = None  # the smallest reading
    high: float | None = None  # the largest
    median: float | None = None
    p95: float | None = None
    n: int | None = None  # how many readings

    @property
    def typical(self) -> float | None:
        """The one number that stands for the readings: their median where it was told, else their mean."""
        return self.median if self.median is not None else self.mean


class Stage(StrEnum):
    BUILD = "build"
    VERIFY = "verify"
    MEASURE = "measure"


class Reason(StrEnum):
    REJECTED = "rejected"  # the point can't work and that is known without trying: an option out of range
    COMPILE = "compile"  # the compiler refused it
    WRONG = "wrong"  # it ran and its answer was wrong
    CRASH = "crash"  # it ended by a signal, a non-zero status or nonsense on its output
    MEMORY = "memory"  # it needed more memory than it may have
    TIMEOUT = "timeout"  # it took longer than it may


class TrialError(Exception):
    """A point failed. The only exception that a target may raise for a bad point.

    `again`: somebody else ended it (the system short of memory, a person), so it is worth trying once more.
    """

    def __init__(self, reason: Reason, log: str = "", *, again: bool = False) -> None:
        super().__init__(f"{reason}: {log}".rstrip(": "))
        self.reason = reason
        self.log = log
        self.again = again

    def told(self, log: str, reason: Reason | None = None) -> "TrialError":
        """The same with more, or less, said of it, and as worth trying once more."""
        return TrialError(reason or self.reason, log, again=self.again)


T = TypeVar("T")


def once_more(work: Callable[[], T]) -> T:
    """What `work` gives, tried a second time where somebody else ended the first. Raises TrialError as it does."""
    try:
        return work()
    except TrialError as error:
        if not error.again:
            raise
    return work()


@dataclass(frozen=True, slots=True)
class Measured:
    check: Check
    samples: Samples
    same_as: int | None = None  # the trial whose machine code this one shares and whose readings it took over
    summaries: Mapping[str, Summary] = field(default_factory=_none)  # of metrics whose single readings are not known


@dataclass(frozen=True, slots=True)
class Failed:
    stage: Stage
    reason: Reason
    log: str = ""
    same_as: int | None = None  # the trial whose machine code this one shares and whose failure it took over


Outcome = Measured | Failed


@dataclass(frozen=True, slots=True)
class Trial:
    candidate: Candidate
    outcome: Outcome
    seconds: Mapping[str, float] = field(default_factory=_none)  # wall time by stage: ask, build, verify, measure
    artifact: Artifact | None = None  # None where building failed
    started_at_s: float = 0.0  # seconds since 1970; for people and for MLflow, never compared
    elapsed_s: float = 0.0  # the search's own clock when the trial ended; pauses before a resume don't count

    @property
    def number(self) -> int:
        return self.candidate.number

    @property
    def point(self) -> Point:
        return self.candidate.point


def lean(trial: Trial) -> Trial:
    """The same trial in less memory, for a search that keeps them all."""
    outcome = trial.outcome
    if isinstance(outcome, Measured):
        samples = outcome.samples if isinstance(outcome.samples, Packed) else Packed(outcome.samples)
        check = Check(_lean(outcome.check.errors), _lean(outcome.check.quality))
        outcome = replace(outcome, check=check, samples=samples)
    artifact = trial.artifact
    if artifact is not None:
        artifact = replace(artifact, facts=_lean(artifact.facts), environment=artifact.environment or _NONE)
    return replace(trial, outcome=outcome, seconds=_lean(trial.seconds), artifact=artifact)


def _lean(values: Mapping[str, float]) -> Mapping[str, float]:
    if not values:
        return _NONE
    return values if isinstance(values, Numbers) else Numbers(values)


def artifact_document(artifact: Artifact) -> dict[str, Any]:
    """An artifact as JSON takes it."""
    told = {f.name: getattr(artifact, f.name) for f in fields(artifact)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in told.items()}


def samples_of(trial: Trial) -> Samples:
    """Every reading of a trial: what the build told, errors and quality (one each), and the runs' samples.

    A metric of which only a summary is known counts with one number, its median or else its mean.
    """
    facts = trial.artifact.facts if trial.artifact else {}
    once = {name: (value,) for name, value in facts.items()}
    if isinstance(trial.outcome, Failed):
        return once
    check = {name: (v,) for name, v in {**trial.outcome.check.errors, **trial.outcome.check.quality}.items()}
    told = {n: (s.typical,) for n, s in trial.outcome.summaries.items() if s.typical is not None}
    return once | check | told | dict(trial.outcome.samples)


def metrics_of(trial: Trial) -> dict[str, float]:
    """One number a metric: the median of its readings. A metric that was not read is absent, never 0."""
    return {name: median(values) for name, values in samples_of(trial).items() if values}


def quality_loss_pct(trial: Trial, baseline: Trial) -> float | None:
    """How much quality is lost against the baseline: 100 · (perplexity / baseline − 1), or points of accuracy lost.

    None where neither is known; negative where quality was gained.
    """
    mine, theirs = metrics_of(trial), metrics_of(baseline)
    if "perplexity" in mine and theirs.get("perplexity"):
        return 100.0 * (mine["perplexity"] / theirs["perplexity"] - 1.0)
    if "accuracy" in mine and "accuracy" in theirs:
        return 100.0 * (theirs["accuracy"] - mine["accuracy"])
    return None
