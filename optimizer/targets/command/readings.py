"""How do the numbers of a metric come out of what a program printed, wrote or cost?"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from optimizer.space import Json
from optimizer.targets.command.programs import MAX_OUTPUT, Ran
from optimizer.targets.command.units import EXAMPLES, POSITIVE, scale
from optimizer.trial import Reason, TrialError

Cost = Literal["wall", "cpu", "peak_memory"]
COSTS: Mapping[str, Callable[[Ran], float]] = {
    "wall": lambda ran: ran.wall_s,
    "cpu": lambda ran: ran.cpu_s,
    "peak_memory": lambda ran: ran.peak_memory_bytes,
}
"""What the system tells of a run: seconds from start to end, seconds of all processors, bytes."""

TAKES: Mapping[str, Callable[[Sequence[float]], Sequence[float]]] = {
    "all": tuple,
    "first": lambda values: values[:1],
    "last": lambda values: values[-1:],
    "min": lambda values: (min(values),),
    "max": lambda values: (max(values),),
    "sum": lambda values: (math.fsum(values),),
    "mean": lambda values: (fmean(values),),
    "median": lambda values: (median(values),),
}
"""Which of several numbers are the readings."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a metric's numbers come from: exactly one of `cost`, `pattern` (a regular expression) and `path` (in JSON).

    place: stdout, stderr, build (what the build commands printed), or a file that the program writes. unit: of the
    numbers as printed, where the pattern has no group of that name; base: the unit that the metric is kept in.
    """

    metric: str
    base: str
    cost: str = ""
    pattern: str = ""
    path: str = ""
    place: str = "stdout"
    unit: str = ""
    take: str = "all"

    def document(self) -> Json:
        return {
            "base": self.base, "cost": self.cost, "pattern": self.pattern, "path": self.path, "place": self.place,
            "unit": self.unit, "take": self.take,
        }  # fmt: skip


Find = Callable[[str, Path], Sequence[Mapping[str, str]]]
"""Programs.found: the matches of a pattern in a file."""


def readings(reading: Reading, file: Path, find: Find) -> tuple[float, ...]:
    """The readings in a file, in the metric's base unit. Raises TrialError where there is none, or one is none."""
    if not file.is_file():
        raise TrialError(Reason.CRASH, f"{reading.metric}: the program did not write {file.name}")
    if file.stat().st_size > MAX_OUTPUT:
        raise TrialError(Reason.CRASH, f"{reading.metric}: {file.name} is larger than {MAX_OUTPUT >> 20} MiB")
    if reading.pattern:
        values = [_number(reading, m["value"], m["unit"] or reading.unit) for m in find(reading.pattern, file)]
        what = f"nothing matches {reading.pattern!r}"
    else:
        told = in_json(file.read_text(encoding="utf-8", errors="replace"), reading.path)
        values = [_number(reading, value, reading.unit) for value in told]
        what = f"there is no {reading.path} in the JSON"
    if not values:
        raise TrialError(Reason.CRASH, f"{reading.metric}: {what} of {_named(reading)}")
    return tuple(TAKES[reading.take](values))


def _named(reading: Reading) -> str:
    return f"what the {reading.place} printed" if reading.place == "build" else reading.place


def _number(reading: Reading, value: Any, unit: str) -> float:
    scaled = scale(unit) if unit else (reading.base, 1.0)
    if scaled is None and unit != reading.base:
        raise TrialError(Reason.CRASH, f"{reading.metric}: '{unit}' is no unit that is known, as {EXAMPLES} are")
    base, factor = scaled or (reading.base, 1.0)
    if base != reading.base:
        raise TrialError(Reason.CRASH, f"{reading.metric} is in {reading.base}; '{unit}' is a unit of another thing")
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value) * factor
    except (TypeError, ValueError):
        raise TrialError(Reason.CRASH, f"{reading.metric}: {str(value)[:80]!r} is not a number") from None
    if not math.isfinite(number):
        raise TrialError(Reason.CRASH, f"{reading.metric} is {number}, which is no reading")
    if number < 0 and reading.base in POSITIVE:
        raise TrialError(Reason.CRASH, f"{reading.metric} is {number:g} {reading.base}, below 0")
    return number


def in_json(text: str, path: str) -> list[Any]:
    """What lies at a path (results.0.time_ms; * for each item): in the text as one document, or in each of its lines
    that is JSON. A list counts with each of its items."""
    steps = path.replace("[", ".").replace("]", "").split(".")
    if (document := _parsed(text)) is not None:
        return _at(document, steps)
    lines = (_parsed(line) for line in text.splitlines() if line.lstrip().startswith(("{", "[")))
    return [value for document in lines if document is not None for value in _at(document, steps)]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _at(document: Any, steps: Sequence[str]) -> list[Any]:
    """Nothing where the path leads nowhere."""
    if not steps:
        return list(document) if isinstance(document, list) else [document]
    step, rest = steps[0], steps[1:]
    if step == "*":
        items = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
        return [value for item in items for value in _at(item, rest)]
    if isinstance(document, dict):
        return _at(document[step], rest) if step in document else []
    if isinstance(document, list) and step.isdecimal() and int(step) < len(document):
        return _at(document[int(step)], rest)
    return []
