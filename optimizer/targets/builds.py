"""What every target that builds files has in common: words of a point, hashes of sources, finished builds on disk."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optimizer.errors import ConfigError
from optimizer.space import Point, Space
from optimizer.trial import Artifact

RECORD = "artifact.json"


def knob_words(space: Space, point: Point) -> tuple[str, ...]:
    """Flags and macros of a point, in the order of the space's knobs."""
    words: list[str] = []
    for knob in space.knobs:
        if knob.name not in point:
            continue
        effect, value = knob.effect, point[knob.name]
        if effect.kind == "flag":
            words += effect.words(value)
        elif effect.kind == "macro":
            words.append(f"-D{effect.name}={effect.word(value)}")
    return tuple(words)


def file_hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}.") from None


def kept_or_made(folder: Path, key: str, make: Callable[[Path, Path], Artifact], *, fresh: bool) -> Artifact:
    """The artifact of this key in `folder`: an earlier build's own record, else (or where it is to be `fresh`) what
    `make` builds in the first folder that it is given, of an artifact that names the second, where it then lies."""
    place = folder / key
    if not fresh and (known := recorded(place / RECORD)) is not None:
        return Artifact(**known)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as scratch:
        artifact = make(Path(scratch), place)
        (Path(scratch) / RECORD).write_text(json.dumps(asdict(artifact), indent=1), encoding="utf-8")
        moved(Path(scratch), place)
    return artifact


def recorded(path: Path) -> dict[str, Any] | None:
    """A build's own record; None where there is none or it is not whole."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["command"], record["arguments"] = tuple(record["command"]), tuple(record["arguments"])
        return record if Path(record["path"]).exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def moved(scratch: Path, place: Path) -> None:
    """Puts a finished build where it belongs; another process that was faster made the same."""
    whole = scratch.with_name(scratch.name + "-whole")
    shutil.copytree(scratch, whole)
    try:
        whole.rename(place)
    except OSError:
        shutil.rmtree(whole)
