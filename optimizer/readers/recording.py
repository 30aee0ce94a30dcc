"""A search space that somebody measured before, in whatever format: what is in the file?"""

import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import MALFORMED, ConfigError
from optimizer.journal import FORMAT, read
from optimizer.readers.kernel_tuner import kernel_tuner_trials
from optimizer.readers.t4 import t4_trials
from optimizer.space import Choice, Effect, Float, Json, Knob, Point, Space, Value, canonical, is_number
from optimizer.trial import Measured, Trial

SUFFIXES = (".gz", ".jsonl", ".json")


@dataclass(frozen=True)
class Recording:
    """Points and what came of them. The space has no other points than these, where it is finite."""

    name: str
    space: Space
    trials: tuple[Trial, ...]

    @property
    def baseline(self) -> Point:
        """The first point that was measured: what a search of the recording starts from."""
        return next(t.point for t in self.trials if isinstance(t.outcome, Measured))


def key_of(path: Path) -> str:
    """The file's name without .json and .gz: how a race calls a space."""
    name = path.name
    while (suffix := Path(name).suffix) in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def recording(path: Path) -> Recording:
    """Reads a journal of ours, a cache file of Kernel Tuner or a T4 results file, plain or gzip.

    Raises ConfigError where the file is missing, damaged or of no known format, or holds no point that was measured.
    """
    text = _text(path)
    if _is_journal(text):
        study = read(path)
        trials, space = study.trials, study.recipe.space
        name = study.name
    else:
        document = _document(path, text)
        name = key_of(path)
        trials = tuple(_trials(path, document))
        space = space_of(trials)
    if not any(isinstance(t.outcome, Measured) for t in trials):
        raise ConfigError(f"{path} holds no configuration that was measured: there is nothing to search for.")
    if not any(isinstance(k.domain, Float) for k in space.knobs):
        try:
            space = space.listing(t.point for t in trials)
        except MALFORMED as error:
            raise ConfigError(f"{path} has a trial that is no point of its own space ({error}).") from None
    return Recording(name, space, trials)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"There is no file {path}.") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}.") from None


def _is_journal(text: str) -> bool:
    try:
        first = json.loads(text.partition("\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and first.get("format") == FORMAT


def _document(path: Path, text: str) -> Json:
    """A tuner that was stopped leaves its cache open at the end: that much is mended."""
    for ending in ("", "}}"):
        try:
            document = json.loads(text if not ending else text.rstrip().rstrip(",") + ending)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            return document
    raise ConfigError(f"{path} is neither a journal nor JSON. What can be read: {', '.join(FORMATS)}.")


FORMATS: Mapping[str, tuple[str, Callable[[Json], Sequence[Trial]]]] = {
    "a cache of Kernel Tuner": ("cache", kernel_tuner_trials),
    "T4 results": ("results", t4_trials),
}
"""A format → the key that shows it, and its reader. A new format is one line here and its file."""


def _trials(path: Path, document: Json) -> Sequence[Trial]:
    for what, (key, reader) in FORMATS.items():
        if key in document:
            try:
                return reader(document)
            except MALFORMED as error:
                raise ConfigError(f"{path} is not what {what} looks like: {error!r}.") from None
    raise ConfigError(f"{path} is JSON of an unknown kind. What can be read: {', '.join(FORMATS)}, a journal.")


def space_of(trials: Sequence[Trial]) -> Space:
    """Every parameter with the values that occur; numbers are ordered."""
    occurring: dict[str, dict[str, Value]] = {}
    for trial in trials:
        for name, value in trial.point.items():
            occurring.setdefault(name, {})[canonical(value)] = value
    return Space(tuple(_knob(name, list(values.values())) for name, values in occurring.items()))


def _knob(name: str, values: Sequence[Value]) -> Knob:
    numbers = all(is_number(v) for v in values)
    kept = sorted(values) if numbers else list(values)
    return Knob(name, Choice(tuple(kept), ordered=numbers), Effect("setting", name), kept[0])
