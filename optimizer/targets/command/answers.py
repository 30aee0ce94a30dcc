"""Is what a program answered what was expected?"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from optimizer.space import Json
from optimizer.trial import Check, Reason, TrialError

SHOWN = 60  # characters of a wrong answer


@dataclass(frozen=True, slots=True)
class Answer:
    """How a program is checked before it is timed.

    command: a program of its own that says so with status 0; (): the program itself, whose status must be 0. place:
    where the answer is: stdout, or a file that it writes. expected: what the answer is to be; None: the status alone.
    tolerance: how far a number may be from the expected one, relative to the largest of those; None: byte for byte.
    """

    command: tuple[str, ...] = ()
    place: str = "stdout"
    expected: bytes | None = None
    tolerance: float | None = None

    @property
    def checks(self) -> bool:
        """Whether anything but the status of the program itself is looked at."""
        return bool(self.command) or self.expected is not None

    def document(self) -> Json:
        expected = None if self.expected is None else hashlib.sha256(self.expected).hexdigest()[:16]
        return {"command": list(self.command), "place": self.place, "expected": expected, "tolerance": self.tolerance}


def compared(answer: Answer, file: Path) -> Check:
    """The errors of an answer in a file. Raises TrialError(WRONG) with the first place that is wrong."""
    if answer.expected is None:
        return Check({"max_rel_error": 0.0})
    try:
        found = file.read_bytes()
    except FileNotFoundError:
        raise TrialError(Reason.WRONG, f"the program did not write its answer, {file.name}") from None
    if answer.tolerance is None:
        _same_bytes(found, answer.expected)
        return Check({"max_rel_error": 0.0})
    error = largest_error(found.decode(errors="replace").split(), answer.expected.decode(errors="replace").split())
    if error > answer.tolerance:
        raise TrialError(Reason.WRONG, f"max_rel_error is {error:g}; at most {answer.tolerance:g} is right")
    return Check({"max_rel_error": error})


def _same_bytes(found: bytes, expected: bytes) -> None:
    if found == expected:
        return
    lines = zip(found.splitlines(), expected.splitlines(), strict=False)
    for number, (mine, theirs) in enumerate(lines, 1):
        if mine != theirs:
            raise TrialError(Reason.WRONG, f"line {number} is {_shown(mine)}; {_shown(theirs)} is right")
    raise TrialError(Reason.WRONG, f"the answer has {len(found)} bytes; {len(expected)} are right")


def largest_error(found: list[str], expected: list[str]) -> float:
    """The largest difference of two texts' numbers, word by word, relative to the largest number that is expected.

    Raises TrialError(WRONG) where words differ that are not numbers, or are not as many.
    """
    largest = max((abs(n) for w in expected if (n := _number(w)) is not None and math.isfinite(n)), default=0.0)
    worst = 0.0
    for place, (mine, theirs) in enumerate(zip(found, expected, strict=False), 1):
        if mine == theirs:
            continue
        number, right = _number(mine), _number(theirs)
        if number is None or right is None or not (math.isfinite(number) and math.isfinite(right)):
            raise TrialError(Reason.WRONG, f"word {place} is {mine[:SHOWN]!r}; {theirs[:SHOWN]!r} is right")
        worst = max(worst, abs(number - right) / max(largest, 1e-300))
    if len(found) != len(expected):
        raise TrialError(Reason.WRONG, f"the answer has {len(found)} words; {len(expected)} are right")
    return worst


def _number(word: str) -> float | None:
    """Of a word like 1.5e-3, -2, 3.0, or (what is printed in lists) 3,"""
    try:
        return float(word.strip("()[]{},;:"))
    except ValueError:
        return None


def _shown(line: bytes) -> str:
    return repr(line[:SHOWN].decode(errors="replace"))
