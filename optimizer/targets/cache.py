"""How are finished builds kept for later searches, shared by processes and users, and never trusted blindly?

An entry is one file, named by the hash of all that went into the build: a line with the hash of what follows, a line of
JSON (the build's own record and its files), then the files' bytes. It is written aside and renamed, so that a reader
finds it whole or not at all, and read with its hash, so that a damaged one is a build anew and never a wrong program.
A search works on copies in its own folder: an entry may be evicted at any moment without hurting anybody.
"""

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from filelock import FileLock, Timeout

from optimizer.errors import MALFORMED, ConfigError
from optimizer.files import names_folder
from optimizer.space import Json

MARK = "optimizer-build 1"
"""How an entry begins; the number is raised when the format changes."""
SUFFIX = ".build"
LEFT_SHARE = 0.9  # of the limit, after an eviction: not every build is to evict
LOOK_SHARE = 0.05  # of the limit, written by this process before it looks again at how much is there
STALE_S = 3600.0  # after which a file that was never renamed belongs to a process that is gone


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a cache; `oldest_s` and `newest_s`: when an entry was last used, seconds since 1970."""

    entries: int
    size_bytes: int
    oldest_s: float | None
    newest_s: float | None


@dataclass
class _Written:
    """What this process has added since it last looked at the whole cache; None: it has never looked."""

    since_bytes: int | None = None
    off: bool = False  # writing failed: it is not tried again


@dataclass(frozen=True)
class BuildCache:
    """A folder of entries. `made_on`: what else decides how a build turns out and how long it takes (processor, C
    library, assembler), part of every entry's name. Reading and writing never raise: what goes wrong is told by
    `news`, and the build is made."""

    folder: Path
    max_bytes: int
    made_on: str
    _news: "SimpleQueue[str]" = field(default_factory=SimpleQueue, repr=False, compare=False)
    _written: _Written = field(default_factory=_Written, repr=False, compare=False)

    @classmethod
    def opened(cls, folder: Path, max_bytes: int, made_on: str) -> "BuildCache":
        """Makes the folder where it is not there. Raises OSError where that can't be done, ConfigError where just
        anybody may write to it: who can write there chooses the programs that a search runs."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH:
            raise ConfigError(
                f"The build cache {folder} can be written by anybody, and a search runs what it finds there. Take that "
                f"right away (chmod o-w {folder}), or name another folder with build_cache.folder=FOLDER."
            )
        return cls(folder, max_bytes, made_on)

    def fetch(self, key: str, into: Path) -> Json | None:
        """The record of a build, its files written into a folder; None where there is no whole entry."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(f"The build cache's entry {path} can't be read ({error.strerror}); it is built anew.")
            return None
        try:
            record, files = _unpacked(content, path.stem)
        except MALFORMED as error:
            self._tell(f"The build cache's entry {path} is damaged ({error}); it is built anew.")
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        for name, (mode, data) in files.items():
            (into / name).write_bytes(data)
            (into / name).chmod(mode)
        with contextlib.suppress(OSError):  # another user's entry, in a folder that is only read
            os.utime(path)
        return record

    def put(self, key: str, record: Json, files: Sequence[Path]) -> None:
        """Keeps a build; where the disk is full or nothing may be written there, that is told once and left."""
        if self._written.off:
            return
        path = self._path(key)
        content = _packed(path.stem, record, files)
        aside = self.folder / f"{path.stem}.{os.getpid()}.{time.monotonic_ns()}.tmp"
        try:
            shared = self.folder.stat().st_mode & stat.S_IWGRP
            path.parent.mkdir(exist_ok=True, parents=True)
            if shared and path.parent.stat().st_uid == os.getuid():
                path.parent.chmod(0o2770)
            aside.write_bytes(content)
            aside.chmod(0o660 if shared else 0o600)
            aside.replace(path)
            self._make_room(len(content))
        except FileNotFoundError:
            pass  # somebody has cleared the cache meanwhile, or taken what is unfinished for old (a clock that jumped)
        except OSError as error:
            self._written.off = True
            self._tell(
                f"The build cache {self.folder} can't be written to ({error.strerror}); the search goes on without it."
            )
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)

    def news(self) -> list[str]:
        """What went wrong since it was last asked for."""
        told = []
        with contextlib.suppress(Empty):
            while True:
                told.append(self._news.get_nowait())
        return told

    def contents(self) -> Contents:
        entries = list(_listed(self.folder))
        used = [s for s, _, _ in entries]
        return Contents(
            len(entries), sum(size for _, size, _ in entries), min(used, default=None), max(used, default=None)
        )

    def prune(self, max_bytes: int) -> int:
        """Removes what was not used for the longest time until at most so much is left; how many entries went."""
        entries = sorted(_listed(self.folder))
        left, gone = sum(size for _, size, _ in entries), 0
        for _, size, path in entries:
            if left <= max_bytes:
                break
            with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                path.unlink()
            left, gone = left - size, gone + 1
        for aside in self.folder.glob("*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - aside.stat().st_mtime > STALE_S:
                    aside.unlink()
        self._written.since_bytes = 0
        return gone

    def _make_room(self, added_bytes: int) -> None:
        """Evicts when it is time to look. One process at a time: the others go on."""
        written = self._written
        if written.since_bytes is not None:
            written.since_bytes += added_bytes
            if written.since_bytes < LOOK_SHARE * self.max_bytes:
                return
        written.since_bytes = 0
        if self.contents().size_bytes <= self.max_bytes:
            return
        with contextlib.suppress(Timeout), FileLock(self.folder / "evict.lock", blocking=False, mode=0o660):
            self.prune(int(LEFT_SHARE * self.max_bytes))

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(f"{self.made_on}\n{key}".encode()).hexdigest()
        return self.folder / name[:2] / f"{name}{SUFFIX}"

    def _tell(self, text: str) -> None:
        self._news.put(text)


def _listed(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When last used, size and place of every entry."""
    for shelf in folder.iterdir():
        if len(shelf.name) == 2 and shelf.is_dir():
            for path in shelf.glob(f"*{SUFFIX}"):
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    yield found.st_mtime, found.st_size, path


def _packed(name: str, record: Json, files: Sequence[Path]) -> bytes:
    blobs = [path.read_bytes() for path in files]
    listed = [
        {"name": path.name, "bytes": len(blob), "runs": bool(path.stat().st_mode & stat.S_IXUSR)}
        for path, blob in zip(files, blobs, strict=True)
    ]
    head = json.dumps({"name": name, "record": record, "files": listed}, allow_nan=False).encode()
    body = b"\n".join([head, b"".join(blobs)])
    return f"{MARK} {hashlib.sha256(body).hexdigest()}\n".encode() + body


def _unpacked(content: bytes, name: str) -> tuple[Json, dict[str, tuple[int, bytes]]]:
    """The record, and each file's mode and bytes. Raises one of MALFORMED where it is not whole."""
    first, _, body = content.partition(b"\n")
    if first != f"{MARK} {hashlib.sha256(body).hexdigest()}".encode():
        raise ValueError("its hash is not that of its content")
    head, _, blobs = body.partition(b"\n")
    told = json.loads(head)
    if told["name"] != name:
        raise ValueError("it is that of another build")
    files, start = {}, 0
    for file in told["files"]:
        if not names_folder(file["name"]):
            raise ValueError("it names a file outside its folder")
        end = start + int(file["bytes"])
        files[file["name"]] = (0o755 if file["runs"] else 0o644, blobs[start:end])
        start = end
    if start != len(blobs):
        raise ValueError("its files have other lengths than it says")
    return told["record"], files
