"""How is a file written so that nobody ever sees half of it? Aside, then renamed."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from optimizer.errors import ConfigError


def names_folder(name: object) -> bool:
    """Whether it can be the name of a folder (or file) in another one and never leads out of it."""
    return isinstance(name, str) and name not in ("", ".", "..") and not any(c in name for c in "/\\\0")


def stays_within(folder: Path, path: Path) -> bool:
    """Whether a path, with all links followed, lies in a folder."""
    return path.resolve().is_relative_to(folder.resolve())


def write_whole(path: Path, content: bytes, remedy: str = "") -> None:
    """Raises ConfigError, which ends in the remedy, where it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}. {remedy}".rstrip()) from None


def made_once(path: Path, make: Callable[[Path], None]) -> None:
    """A file or folder that takes long to make: `make` writes it where it is told, then it is put at `path`.

    Of several processes one makes it and the others wait. What a killed one left is thrown away by the next. Raises
    ConfigError where it can't be written, as where the disk is full.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return
            try:
                _remove(part)
                make(part)
                part.rename(path)
            finally:
                _remove(part)
    except OSError as error:
        there = next(p for p in path.parents if p.is_dir())
        free_mib = shutil.disk_usage(there).free >> 20
        raise ConfigError(
            f"{path} can't be made: {error.strerror or error}. {free_mib} MiB are free in {there}."
        ) from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
