"""What every target that builds files has in common: words of a point, hashes of sources, finished builds on disk."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

from optimizer.errors import MALFORMED, ConfigError
from optimizer.space import EffectKind, Point, Space
from optimizer.targets.cache import BuildCache
from optimizer.trial import Artifact, artifact_document

RECORD = "artifact.json"
CACHED = "build_cached"
"""The fact of an artifact that was not built for this trial."""

_GUARD = Lock()
_MAKING: "WeakValueDictionary[Path, Lock]" = WeakValueDictionary()  # a lock for each build that is wanted now


def words_of(space: Space, point: Point, *kinds: EffectKind) -> tuple[str, ...]:
    """What the knobs of some kinds (flag, macro, option) add to a command line, in the order of the space's knobs."""
    words: list[str] = []
    for knob in space.knobs:
        if knob.name not in point or knob.effect.kind not in kinds:
            continue
        effect, value = knob.effect, point[knob.name]
        if effect.kind == "flag":
            words += effect.words(value)
        else:
            words.append(f"{'-D' if effect.kind == 'macro' else '--'}{effect.name}={effect.word(value)}")
    return tuple(words)


def knob_words(space: Space, point: Point) -> tuple[str, ...]:
    """Flags and macros of a point."""
    return words_of(space, point, "flag", "macro")


def knob_variables(space: Space, point: Point) -> dict[str, str]:
    """The environment variables that a point sets."""
    found = {}
    for name, value in point.items():
        effect = space.by_name[name].effect
        if effect.kind == "env" and (words := effect.words(value)):
            found[effect.name] = words[0]
    return found


def sha256_of(path: Path) -> str:
    """Of a file's content. Raises ConfigError where it can't be read."""
    try:
        with path.open("rb") as file:  # a model may be larger than memory
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.") from None


def file_hash(path: Path) -> str:
    return sha256_of(path)[:16]


def kept_or_made(
    folder: Path,
    key: str,
    make: Callable[[Path, Path], Artifact],
    *,
    fresh: bool,
    cache: BuildCache | None = None,
) -> Artifact:
    """The artifact of this key in `folder`: an earlier build's own record, of this search or of another one by way of
    the cache, else (or where it is to be `fresh`) what `make` builds in the first folder that it is given, of an
    artifact that names the second, where it then lies.

    What was not built for this call has the fact build_cached, and the compile times of the build that it is.
    """
    place = folder / key
    if fresh:
        return _made(folder, place, make)
    with _one_at_a_time(place):
        if (known := recorded(place / RECORD)) is not None:
            return _from_record(known)
        shutil.rmtree(place, ignore_errors=True)  # what is not whole would stay
        if cache is not None and (known := _fetched(folder, place, cache)) is not None:
            return _from_record(known)
        artifact = _made(folder, place, make)
        if cache is not None:
            cache.put(key, artifact_document(artifact), [Path(artifact.path)])
        return artifact


def _made(folder: Path, place: Path, make: Callable[[Path, Path], Artifact]) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as scratch:
        artifact = make(Path(scratch), place)
        write_record(Path(scratch), artifact)
        moved(Path(scratch), place)
    return artifact


def _fetched(folder: Path, place: Path, cache: BuildCache) -> dict[str, Any] | None:
    """The record of the cache's entry, which then lies in its place."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as scratch:
        record = cache.fetch(place.name, Path(scratch))
        if record is None:
            return None
        record["path"] = str(place / Path(str(record["path"])).name)
        (Path(scratch) / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        moved(Path(scratch), place)
    return recorded(place / RECORD)


def _from_record(record: Mapping[str, Any]) -> Artifact:
    artifact = Artifact(**record)
    return replace(artifact, facts={**artifact.facts, CACHED: 1.0})


@contextmanager
def _one_at_a_time(place: Path) -> Iterator[None]:
    """Threads of the pool that want the same build: the second takes what the first has made."""
    with _GUARD:
        lock = _MAKING.setdefault(place, Lock())
    with lock:
        yield


def write_record(folder: Path, artifact: Artifact) -> None:
    """What `recorded` reads, into the folder of a build."""
    (folder / RECORD).write_text(json.dumps(artifact_document(artifact), indent=1), encoding="utf-8")


def recorded(path: Path) -> dict[str, Any] | None:
    """A build's own record; None where there is none or it is not whole."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["command"], record["arguments"] = tuple(record["command"]), tuple(record["arguments"])
        return record if Path(record["path"]).exists() else None
    except (OSError, *MALFORMED):
        return None


def moved(scratch: Path, place: Path) -> None:
    """Puts a finished build where it belongs; another process that was faster made the same."""
    with suppress(OSError):
        scratch.rename(place)
