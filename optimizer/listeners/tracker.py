"""How is a running search tracked without being held up? By a process beside it that reads the journal.

Importing mlflow takes seconds and logging a trial 100 ms, so neither happens in the search's own process. The tracker
polls the journal and sends what is new, a trial at a time. On a CPU target it would disturb the measurements, so there
it works only while it holds the device, a measurement waits for it a tenth of a second at the most, and the search
begins when it has opened the store. How far it is stands in tracking.json beside the journal.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from optimizer.device import lock_path
from optimizer.errors import ConfigError
from optimizer.journal import Study, Tail
from optimizer.listeners.mlflow import StudyCopy
from optimizer.listeners.system import System
from optimizer.readers.store import StoreError, store_errors
from optimizer.waiting import known_as

RETRY_S = 10.0  # until a store that did not answer is asked again; doubled each time, since asking takes the device
MOST_RETRY_S = 160.0
OTHER_S = 60.0  # that another process which sends the study is waited for, once the search has ended
POLL_S = 0.2


@dataclass(frozen=True)
class Status:
    """How far the copy is; written beside the journal as tracking.json for whoever asks."""

    uri: str
    experiment_id: str | None = None
    run_id: str | None = None
    sent: int = 0
    error: str | None = None


def status_path(journal: Path) -> Path:
    return journal.with_name("tracking.json")


def read_status(journal: Path) -> Status | None:
    try:
        return Status(**json.loads(status_path(journal).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_status(journal: Path, status: Status) -> None:
    aside = status_path(journal).with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(asdict(status)), encoding="utf-8")
    aside.replace(status_path(journal))


class Tracker:
    """The tracking process of one search."""

    def __init__(self, journal: Path, uri: str, experiment: str, device_lock: str) -> None:
        self.journal, self.uri = journal, uri
        status_path(journal).unlink(missing_ok=True)  # of an earlier run
        self._words = (str(journal), uri, experiment, device_lock)
        self._process = self._started()

    def _started(self) -> "subprocess.Popen[bytes]":
        with self.journal.with_name("tracking.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "optimizer.listeners.tracker", *self._words],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the search, which then ends us in order
            )

    @property
    def status(self) -> Status:
        return read_status(self.journal) or Status(self.uri)

    def wait_until_ready(self, timeout_s: float) -> None:
        """Until it has opened the store, has failed to, or time is up."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until and self._process.poll() is None:
            if self.status.run_id is not None or self.status.error is not None:
                return
            time.sleep(0.02)

    def revive(self) -> None:
        """Starts it again where somebody has killed it (one that crashed would crash again); the store has the rest."""
        if (self._process.poll() or 0) < 0:
            assert self._process.stdin
            self._process.stdin.close()
            self._process = self._started()

    def finish(self, waiting: Callable[[Status], None]) -> Status:
        """Lets it send what is left; calls `waiting` a few times a second meanwhile."""
        self.revive()
        assert self._process.stdin
        self._process.stdin.close()
        while self._process.poll() is None:
            waiting(self.status)
            time.sleep(0.1)
        status = self.status
        if self._process.returncode and status.error is None:
            log = self.journal.with_name("tracking.log")
            return Status(status.uri, status.experiment_id, status.run_id, status.sent, f"it crashed; see {log}")
        return status

    def abandon(self) -> None:
        """Ends it at once; `optimizer track` sends the rest."""
        self._process.kill()
        self._process.wait()


def follow(journal: Path, uri: str, experiment: str, finished: Callable[[], bool], device_lock: str) -> Status:
    """Sends trials as they are written, until `finished` and all is sent, or finished and the store does not answer.

    One process at a time sends a study: the one of a search that was killed may still be at it when the next begins.
    """
    try:
        with sending(journal, finished):
            return _followed(journal, uri, experiment, finished, device_lock)
    except ConfigError as error:
        status = Status(uri, error=str(error))
        write_status(journal, status)
        return status


@contextmanager
def sending(journal: Path, hurried: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Waits for whoever else is sending this study, and where it is `hurried` for no longer than they get on with it.
    Raises ConfigError then."""
    path = journal.with_name("tracking.lock")
    lock = FileLock(path)
    last_s, seen = time.monotonic(), read_status(journal)
    while True:
        with suppress(Timeout):
            lock.acquire(timeout=0.1)
            break
        now = read_status(journal)
        if not hurried() or now != seen:
            last_s, seen = time.monotonic(), now
        elif time.monotonic() - last_s > OTHER_S:
            raise ConfigError(
                f"Another process{known_as(path)} sends the same study and has got no further for {OTHER_S:g} s. Let "
                f"it end, or end it where it is stuck, then: python -m optimizer track {journal}"
            )
    try:
        yield
    finally:
        lock.release()


def _followed(journal: Path, uri: str, experiment: str, finished: Callable[[], bool], device_lock: str) -> Status:
    tail, copy, system = Tail(journal), None, System()
    status, retry_s = Status(uri), RETRY_S
    while True:
        last = finished()  # asked before the journal is read: what was written until then is sent
        try:
            study = tail.poll()
            if copy is None:
                with _device_idle(device_lock, finished), store_errors():  # importing mlflow takes seconds of CPU
                    copy, status = StudyCopy.opened(uri, experiment, study), Status(uri)
            with store_errors():
                status = Status(uri, copy.experiment_id, copy.parent, status.sent)
                write_status(journal, status)
                for trial in study.trials[status.sent :]:
                    known = copy.has(trial)  # after a reconnect: many thousands, of which nothing is sent
                    with nullcontext() if known else _device_idle(device_lock, finished):
                        copy.trial(trial, study)
                    status = replace(status, sent=trial.number + 1)
                    if not known or status.sent == len(study.trials):
                        write_status(journal, status)
                if last:
                    copy.ending(study, _pages(study, copy))
                    return status
                retry_s = RETRY_S
                if system.due():
                    with _device_idle(device_lock, finished):
                        copy.system(system.read(), len(study.trials))
        except StoreError as error:
            status = Status(uri, status.experiment_id, status.run_id, status.sent, str(error))
            write_status(journal, status)
            if last:
                return status
            copy = None  # a request that failed may have been carried out: the store is asked again what it has
            _sleep(retry_s, finished)
            retry_s = min(2 * retry_s, MOST_RETRY_S)
        _sleep(POLL_S, finished)


def _pages(study: Study, copy: StudyCopy) -> Mapping[str, str]:
    from optimizer.listeners.pages import pages

    return pages(study, copy)


def _sleep(seconds: float, finished: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not finished():
        time.sleep(0.05)


@contextmanager
def _device_idle(device_lock: str, finished: Callable[[], bool]) -> Iterator[None]:
    """Holds the device while it is idle, so that no measurement begins beside us; where it is busy, waits its turn
    (once the search has finished there is nothing left to disturb)."""
    if not device_lock:
        yield
        return
    lock = FileLock(lock_path(device_lock), mode=0o666)
    while not finished():
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            time.sleep(0.02)
    try:
        yield
    finally:
        lock.release()


def _until_stdin_ends() -> Callable[[], bool]:
    """True once the search that started this process has closed our stdin, or is gone."""
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return ended.is_set


def patience() -> None:
    """How MLflow's client behaves here. It does not ask again by itself: what makes a run would make two."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


def main(argv: Sequence[str]) -> int:
    """python -m optimizer.listeners.tracker JOURNAL URI EXPERIMENT LOCK, with stdin open while the search runs.

    LOCK is empty where measuring and tracking don't share a processor.
    """
    journal, uri, experiment, device_lock = argv
    patience()
    os.nice(10)
    status = follow(Path(journal), uri, experiment, _until_stdin_ends(), device_lock)
    return 1 if status.error else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
