"""How does the search start a worker and talk to it? Through the fork server, which is started anew where it died."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from optimizer.errors import ConfigError
from optimizer.process import MAX_LOG, Conversation, adopted
from optimizer.space import Json
from optimizer.trial import Reason, TrialError

START_S = 300.0  # torch's first import on a cold disk
WORKER = "optimizer.targets.torch.worker"
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # NumPy's: its threads would be there before the fork
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of compiling processes: each worker pays for its own
    "TORCH_WARM_POOL": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


class Zygote:
    """A fork server, started at the first request. Many threads may ask it. A copy of it has not started."""

    def __init__(self, modules: Sequence[str] = ("torch",)) -> None:
        self.modules = tuple(modules)
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (Zygote, (self.modules,))

    @contextlib.contextmanager
    def worker(
        self,
        document: Json,
        environment: Mapping[str, str],
        folder: str,
        timeout_s: float,
        memory_bytes: int,
    ) -> Iterator[Conversation]:
        """A worker that is given `document`, within its limits. Raises TrialError(CRASH) where it can't be started."""
        with contextlib.ExitStack() as stack:
            stderr = stack.enter_context(tempfile.TemporaryFile())
            theirs_in, ours_in = os.pipe()
            stdin = stack.enter_context(_quiet(os.fdopen(ours_in, "wb")))
            ours_out, theirs_out = os.pipe()
            stdout = stack.enter_context(_quiet(os.fdopen(ours_out, "rb")))
            ours_status, theirs_status = os.pipe()
            status = stack.enter_context(os.fdopen(ours_status, "rb", buffering=0))
            request = {
                "module": WORKER,
                "document": document,
                "environment": dict(environment),
                "folder": folder,
                "memory_bytes": memory_bytes,
            }
            theirs = [theirs_in, theirs_out, stderr.fileno(), theirs_status]
            try:
                self._send(json.dumps(request).encode(), theirs)
            finally:
                for file in (theirs_in, theirs_out, theirs_status):
                    os.close(file)
            program = Forked(status, stdin, stdout, timeout_s)
            stack.callback(program.gone)
            stack.enter_context(adopted(program.pid))
            yield Conversation(program, stderr, timeout_s)

    def close(self) -> None:
        """Ends the server and its workers."""
        with self._lock:
            if self._running is not None:
                self._running.end()
                self._running = None

    def _send(self, message: bytes, files: Sequence[int]) -> None:
        with self._lock:
            if self._running is None or not self._running.alive:
                self._running = _started(self.modules)
            try:
                socket.send_fds(self._running.socket, [message], files)
            except OSError:  # it died between two requests
                self._running.end()
                self._running = _started(self.modules)
                socket.send_fds(self._running.socket, [message], files)


@contextlib.contextmanager
def _quiet(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Closed at the end; what a dead worker did not read is lost with it."""
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.close()


class Forked:
    """A process that the fork server started: what a Conversation needs of one."""

    def __init__(self, status: IO[bytes], stdin: IO[bytes], stdout: IO[bytes], timeout_s: float) -> None:
        self._status, self._told = status, b""
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._ended: int | None = None
        try:
            kind, value = self._line(timeout_s)
        except subprocess.TimeoutExpired:
            raise TrialError(Reason.TIMEOUT, f"the fork server started no worker within {timeout_s:g} s") from None
        if kind != "pid":
            raise TrialError(Reason.CRASH, f"the fork server started no worker: {kind} {value}")
        self.pid = int(value)

    def wait(self, timeout: float | None = None) -> int:
        if self._ended is None:
            kind, value = self._line(timeout)
            self._ended = int(value) if kind == "status" else -signal.SIGTERM  # the server is gone, the worker with it
        return self._ended

    def gone(self) -> None:
        """Waits until it has ended; it was killed a moment ago."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(5.0)

    def _line(self, timeout: float | None) -> tuple[str, str]:
        """The next word that the server sends of it; ("", "") where the server is gone."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._told:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._status], [], [], left)[0]:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            chunk = self._status.read(256)
            if not chunk:
                return "", ""
            self._told += chunk
        line, _, self._told = self._told.partition(b"\n")
        kind, _, value = line.decode().partition(" ")
        return kind, value


class _Running:
    """A server that is ready."""

    def __init__(self, process: "subprocess.Popen[bytes]", ours: socket.socket, ready: Mapping[str, Any]) -> None:
        self._process, self.socket, self.ready = process, ours, ready
        self._finalizer = weakref.finalize(self, _ended, process, ours)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._finalizer()


def _ended(process: "subprocess.Popen[bytes]", ours: socket.socket) -> None:
    ours.close()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _started(modules: Sequence[str]) -> _Running:
    """Raises ConfigError where torch can't be imported: nothing would work."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "optimizer.targets.torch.zygote", str(theirs.fileno()), *modules]
    with theirs, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )
        theirs.close()
        ours.settimeout(START_S)
        try:
            answer = ours.recv(1 << 12)
        except TimeoutError:
            answer = b""
        if not answer:
            _ended(process, ours)
            said.seek(0)
            text = said.read(MAX_LOG).decode(errors="replace")
            raise ConfigError(
                f"Torch models need a process that imports {', '.join(modules)}, and it did not start. "
                f"Mend what it says.\n$ {' '.join(command)}\n{text}"
            )
    ours.settimeout(None)
    return _Running(process, ours, json.loads(answer)["ready"])
