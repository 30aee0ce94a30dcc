"""What did earlier checks of an export find? A journal of its own: JSON lines, a header and a record a check.

A line is written by one system call and reaches the disk before anything else hears of it; a process that is killed
leaves at most one torn line at the end, which is cut off when the history is continued.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from optimizer.errors import MALFORMED, ConfigError, lacking
from optimizer.export.exported import Exported
from optimizer.journal import append, line_of, whole_lines
from optimizer.production.verify import Finding
from optimizer.recipe import Environment, environment_from
from optimizer.space import Json

FORMAT, VERSION = "optimizer-monitor", 1
HISTORY = "history.jsonl"


@dataclass(frozen=True)
class Check:
    """One re-measurement. ratio, low, high: None where it could not be measured; `changed`: what is new in the
    environment since the check before (of the first: since the proof); `level`: what a change-point test said of the
    checks up to this one, "" for nothing."""

    number: int
    at_s: float  # seconds since 1970
    finding: Finding
    ratio: float | None
    low: float | None
    high: float | None
    load_pct: float
    environment: Environment
    why: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    level: str = ""  # regression, improvement
    since: int | None = None  # the first check on the new level
    before: float | None = None  # medians of the ratio on both sides
    after: float | None = None

    @property
    def regressed(self) -> bool:
        return self.finding is Finding.BROKEN or self.level == REGRESSION


REGRESSION, IMPROVEMENT = "regression", "improvement"


@dataclass
class History:
    """The file, held by one monitor at a time."""

    path: Path
    id: str
    checks: list[Check] = field(default_factory=list)
    researched: list[str] = field(default_factory=list)  # environments for which a search was started

    def add(self, check: Check) -> None:
        self._append({"kind": "check", **asdict(check)})
        self.checks.append(check)

    def add_research(self, environment: str) -> None:
        self._append({"kind": "research", "environment": environment})
        self.researched.append(environment)

    def _append(self, document: Json) -> None:
        """Raises OSError where the disk is full, and leaves no torn line then."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            append(file, document, self.path)
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def history_of(exported: Exported, folder: Path) -> Iterator[History]:
    """The history of this very export, begun where there is none. Raises ConfigError where it is of another export,
    is damaged, is held by another monitor, or can't be written."""
    path = folder / HISTORY
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "history.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"Another monitor is writing to {path}: wait for it, or name another --out.") from None
    except OSError as error:
        raise ConfigError(f"{folder} can't be written to ({error.strerror}): name another --out.") from None
    try:
        yield _opened(exported, path)
    finally:
        lock.release()


def identity(exported: Exported) -> Json:
    """What makes two exports the same."""
    return {"recipe": exported.recipe.key, "point": dict(exported.point)}


def _opened(exported: Exported, path: Path) -> History:
    if not path.exists() or not path.stat().st_size:
        header = {"format": FORMAT, "version": VERSION, "id": os.urandom(8).hex(), "study": exported.study}
        path.write_bytes(line_of({**header, **identity(exported)}))
    history, end = History(path, ""), 0
    for number, (line, end) in enumerate(whole_lines(path, 0), 1):  # noqa: B007 - the last end is wanted
        try:
            _take(history, json.loads(line), exported, first=number == 1)
        except MALFORMED as error:
            raise ConfigError(
                f"{path}: line {number} is damaged or foreign ({lacking(error)}). Move the file away to begin a new "
                "history."
            ) from None
    if not history.id:
        raise ConfigError(f"{path} holds no whole line. Move the file away to begin a new history.")
    os.truncate(path, end)
    return history


def _take(history: History, document: Json, exported: Exported, *, first: bool) -> None:
    if first:
        if document["format"] != FORMAT or document["version"] != VERSION:
            raise ValueError(f"the first line says format: {FORMAT}, version: {VERSION}")
        if {name: document[name] for name in identity(exported)} != identity(exported):
            raise ConfigError(
                f"{history.path} is of another export ({document['study']}): name another folder with --out."
            )
        history.id = document["id"]
        return
    kind = document.pop("kind")
    if kind == "research":
        history.researched.append(str(document["environment"]))
        return
    if kind != "check":
        raise ValueError(f"a record of kind {kind!r}")
    told = {
        **document,
        "finding": Finding(document["finding"]),
        "environment": environment_from(document["environment"]),
        "why": tuple(document["why"]),
        "changed": tuple(document["changed"]),
    }
    history.checks.append(Check(**told))
