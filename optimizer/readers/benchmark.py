"""What does a file of benchmark results hold? The values that every reader fills in, in SI units."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from optimizer.objective import Objective
from optimizer.space import Json, Point, Value
from optimizer.trial import Artifact, Candidate, Check, Failed, Measured, Reason, Samples, Stage, Summary, Trial

MS = 1e-3


@dataclass(frozen=True)
class Content:
    """A file, read once: what readers look at."""

    path: Path
    text: str
    document: Json = None  # where it is JSON, or JSON lines (then a list)

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class Benchmark:
    """What a reader found. Two of the same `work` may be compared; work_knobs are knobs that say what was run (a
    benchmark's name, a prompt), so trials that differ in one are not alternatives."""

    kind: str
    work: str
    trials: tuple[Trial, ...]
    objective: Objective
    device: str = "not stated"
    work_knobs: tuple[str, ...] = ()
    measured_at: str = ""  # as the file states it, ISO 8601
    facts: Mapping[str, Json] = field(default_factory=dict)  # what else is the same for all trials
    host: Mapping[str, Json] = field(default_factory=dict)
    compilers: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""


def number(value: object) -> TypeGuard[int | float]:
    """A finite number; booleans are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def scaled(value: object, unit: float = 1.0) -> float | None:
    return float(value) * unit if number(value) else None


def summary(told: Mapping[str, object], names: Mapping[str, str], unit: float = 1.0, n: int | None = None) -> Summary:
    """A Summary of the keys of a file: names maps our field to the file's."""
    known = {ours: scaled(told.get(theirs), unit) for ours, theirs in names.items()}
    return Summary(**{ours: value for ours, value in known.items() if value is not None}, n=n)


def measured(
    n: int,
    point: Mapping[str, Value],
    samples: Samples,
    summaries: Mapping[str, Summary] | None = None,
    *,
    arguments: Sequence[str] = (),
    facts: Mapping[str, float] | None = None,
    log: str = "",
    errors: Mapping[str, float] | None = None,
) -> Trial:
    """A trial that was measured; `arguments`: what else the file says of this configuration, word by word."""
    place = Point(point)
    outcome = Measured(Check(errors or {}), samples, summaries=dict(summaries or {}))
    return Trial(Candidate(n, place), outcome, _seconds(facts), _artifact(place, arguments, facts, log))


def failed(n: int, point: Mapping[str, Value], stage: Stage, log: str, arguments: Sequence[str] = ()) -> Trial:
    """A trial that failed with this text."""
    place = Point(point)
    return Trial(Candidate(n, place), Failed(stage, reason_of(log, stage), log), artifact=_artifact(place, arguments))


def reason_of(text: str, stage: Stage) -> Reason:
    """What kind of failure an error's text tells of."""
    words = text.lower()
    if "timed out" in words or "timeout" in words:
        return Reason.TIMEOUT
    if "out of memory" in words or "bad_alloc" in words:
        return Reason.MEMORY
    return Reason.COMPILE if stage is Stage.BUILD else Reason.CRASH


def _artifact(
    point: Point, arguments: Sequence[str], facts: Mapping[str, float] | None = None, log: str = ""
) -> Artifact | None:
    if not (arguments or facts or log):
        return None
    return Artifact(point.key, point.key, arguments=tuple(arguments), facts=dict(facts or {}), log=log)


def _seconds(facts: Mapping[str, float] | None) -> dict[str, float]:
    return {Stage.BUILD.value: facts["compile_time_s"]} if facts and "compile_time_s" in facts else {}


def split(rows: Sequence[Mapping[str, Value]], always: Sequence[str]) -> tuple[list[str], dict[str, Value]]:
    """The columns that vary (and those that always count as knobs), and the others with their one value."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    varying = [n for n in names if n in always or len({(type(r.get(n)), r.get(n)) for r in rows}) > 1]
    return varying, {n: rows[0][n] for n in names if n not in varying}


def value_of(text: str) -> Value:
    """A value as text: a whole number, a number, or the text itself."""
    for kind in (int, float):
        try:
            found = kind(text)
        except ValueError:
            continue
        return found if math.isfinite(found) else text
    return text
