"""Whom does a search wait for, and how is a person told?"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import psutil

from optimizer.device import lock_path
from optimizer.protocols import Device, Watch
from optimizer.recipe import Environment

TOLD_S = 5.0  # of waiting, before it is told


@dataclass(frozen=True)
class Announced:
    """A device; `say` is told of whoever keeps a search from it."""

    device: Device
    say: Callable[[str], None]

    @property
    def lock(self) -> str:
        return self.device.lock

    @contextmanager
    def alone(self) -> Iterator[None]:
        timer = Timer(TOLD_S, self._tell)
        timer.daemon = True
        timer.start()
        try:
            with self.device.alone():
                timer.cancel()
                yield
        finally:
            timer.cancel()

    def watch(self, pid: int | None) -> AbstractContextManager[Watch]:
        return self.device.watch(pid)

    def describe(self) -> Environment:
        return self.device.describe()

    def _tell(self) -> None:
        if told := known_as(Path(lock_path(self.lock))):
            self.say(f"Waiting for {self.lock}, which another process holds{told}.")


def holder(path: Path) -> int | None:
    """The process that holds a lock file; None where it is free, or the system does not say (proc(5), /proc/locks)."""
    try:
        inode, lines = path.stat().st_ino, Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for words in map(str.split, lines):
        if "->" not in words and words[1] == "FLOCK" and words[5].endswith(f":{inode}") and int(words[4]) > 0:
            return int(words[4])
    return None


def known_as(path: Path) -> str:
    """What is told of the holder of a lock file: " (pid 12: python -m …, stopped)"; "" where nothing is known of it."""
    if (pid := holder(path)) is None:
        return ""
    try:
        process = psutil.Process(pid)
        stopped = ", stopped" if process.status() == psutil.STATUS_STOPPED else ""
        return f" (pid {pid}: {' '.join(process.cmdline())[:80]}{stopped})"
    except psutil.Error:
        return f" (pid {pid})"
