"""What every target that builds files has in common: words of a point, hashes of sources, finished builds on disk."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from optimizer.errors import ConfigError
from optimizer.space import Point, Space


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


def recorded(path: Path) -> dict[str, Any] | None:
    """A build's own record; None where there is none or it is not whole."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["command"] = tuple(record["command"])
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
