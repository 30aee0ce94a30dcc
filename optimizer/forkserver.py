"""How is a process asked of a server that forks it? One that died is started anew, one whose search is gone ends."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from optimizer.errors import ConfigError

START_S = 300.0  # torch's first import on a cold disk
DIE_S = 5.0  # for what was killed to end
SEND_S = 60.0  # for a server to make room for a request
MAX_SAID = 16_000  # bytes shown of what a server printed that did not start


class NotStartedError(Exception):
    """The server is there and started no process; `errno` where the system said why; or it is `gone` meanwhile."""

    def __init__(self, text: str, *, gone: bool = False) -> None:
        self.gone = gone
        number, _, words = text.partition(" ")
        self.errno = int(number) if number.isdigit() else None
        super().__init__(words if self.errno is not None else text)


class _SilentError(NotStartedError):
    """The server lives and does not answer: something has stopped it, or holds it in the kernel."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a process. `status` is negative for a signal."""

    status: int
    cpu_s: float  # of the process and all that it waited for
    broke: str = ""  # the limit for which it was ended: memory, output, files
    with_server: bool = False  # the server was killed, and its processes with it


class Child:
    """A process that a server has started: what a conversation needs of one."""

    def __init__(self, status: IO[bytes], stdin: IO[bytes] | None, stdout: IO[bytes] | None, timeout_s: float) -> None:
        self._status, self._told = status, b""
        self._poll = select.poll()  # select() knows no file beyond 1023
        self._poll.register(status, select.POLLIN)
        self.stdin, self.stdout = stdin, stdout
        self._ended: Ended | None = None
        try:
            kind, value = self._line(timeout_s)
        except subprocess.TimeoutExpired:
            raise _SilentError(f"the fork server started nothing within {timeout_s:g} s", gone=True) from None
        if kind != "pid":
            raise NotStartedError(value or "the fork server was killed", gone=not kind)
        self.pid = int(value)

    def ended(self, timeout: float | None = None) -> Ended:
        """Raises subprocess.TimeoutExpired."""
        if self._ended is None:
            kind, value = self._line(timeout)
            if kind == "status":
                status, cpu_s, broke = value.split(" ", 2)
                self._ended = Ended(int(status), float(cpu_s), broke)
            else:
                self._ended = Ended(-signal.SIGKILL, 0.0, with_server=True)
        return self._ended

    @property
    def alive(self) -> bool:
        """Whether it is not known to have ended."""
        try:
            self.ended(0.0)
        except subprocess.TimeoutExpired:
            return True
        return False

    def killed(self) -> None:
        """Kills its group, unless it is known to have ended: its number may be another's by now."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.ended(0.0)
        if self._ended is None or self._ended.with_server:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.ended(DIE_S)

    def _line(self, timeout: float | None) -> tuple[str, str]:
        """The next word that the server sends of it; ("", "") where the server is gone."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._told:
            left_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1e3
            if not self._poll.poll(left_ms):
                raise subprocess.TimeoutExpired("process", timeout or 0.0)
            chunk = self._status.read(512)
            if not chunk:
                return "", ""
            self._told += chunk
        line, _, self._told = self._told.partition(b"\n")
        kind, _, value = line.decode(errors="replace").partition(" ")
        return kind, value


class ForkServer:
    """A server, started at the first request. Many threads may ask it; a process that was forked starts its own.

    `command` and the number of its socket start it; `needs`: what does not work without it, for people.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], needs: str) -> None:
        self._command, self._environment, self._needs = tuple(command), dict(environment), needs
        self._lock = threading.Lock()
        self._running: _Running | None = None

    @property
    def ready(self) -> Mapping[str, Any]:
        """What it said when it was ready. Raises ConfigError where it can't be started."""
        with self._lock:
            return self._alive().ready

    @contextlib.contextmanager
    def child(
        self, request: Mapping[str, Any], stderr: IO[bytes], timeout_s: float, stdout: IO[bytes] | None = None
    ) -> Iterator[Child]:
        """A process, killed with all that it started at the end. Where `stdout` is given there is no conversation:
        it writes there and reads nothing. Raises NotStartedError."""
        with contextlib.ExitStack() as stack:
            try:
                child = self._begun(stack, request, stderr, timeout_s, stdout)
            except NotStartedError as error:
                if not error.gone:
                    raise
                child = self._begun(stack, request, stderr, timeout_s, stdout)  # it was killed, or was silent
            stack.callback(child.killed)
            yield child

    def _begun(
        self,
        stack: contextlib.ExitStack,
        request: Mapping[str, Any],
        stderr: IO[bytes],
        timeout_s: float,
        stdout: IO[bytes] | None,
    ) -> Child:
        if stdout is None:
            theirs_in, ours_in = os.pipe()
            stdin: IO[bytes] | None = stack.enter_context(_quiet(os.fdopen(ours_in, "wb")))
            ours_out, theirs_out = os.pipe()
            answers: IO[bytes] | None = stack.enter_context(_quiet(os.fdopen(ours_out, "rb")))
        else:
            theirs_in, theirs_out = os.open(os.devnull, os.O_RDONLY), os.dup(stdout.fileno())
            stdin = answers = None
        ours_status, theirs_status = os.pipe()
        status = stack.enter_context(os.fdopen(ours_status, "rb", buffering=0))
        try:
            asked = self._send(json.dumps(request).encode(), [theirs_in, theirs_out, stderr.fileno(), theirs_status])
        finally:
            for file in (theirs_in, theirs_out, theirs_status):
                os.close(file)
        try:
            return Child(status, stdin, answers, timeout_s)
        except _SilentError:
            self._dismiss(asked)
            raise

    def close(self) -> None:
        """Ends the server and its processes."""
        with self._lock:
            if self._running is not None:
                self._running.end()
                self._running = None

    def _send(self, message: bytes, files: Sequence[int]) -> "_Running":
        """The server that was asked."""
        with self._lock:
            running = self._alive()
            try:
                socket.send_fds(running.socket, [message], files)
            except (BrokenPipeError, ConnectionResetError, TimeoutError):  # it died between two requests, or is stuck
                running.end()
                running = self._alive()
                socket.send_fds(running.socket, [message], files)
            return running

    def _dismiss(self, running: "_Running") -> None:
        """Ends a server that does not answer, with what runs there; the next request starts another."""
        with self._lock:
            running.end()

    def _alive(self) -> "_Running":
        if self._running is None or not self._running.alive:
            if self._running is not None:
                self._running.end()
            self._running = _started(self._command, self._environment, self._needs)
        return self._running


@contextlib.contextmanager
def _quiet(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Closed at the end; what a dead process did not read is lost with it."""
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.close()


class _Running:
    """A server that is ready."""

    def __init__(self, process: "subprocess.Popen[bytes]", ours: socket.socket, ready: Mapping[str, Any]) -> None:
        self._process, self.socket, self.ready = process, ours, ready
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _ended, process, ours)

    @property
    def alive(self) -> bool:
        """Of this very process: a fork of it must not speak on the same socket."""
        return self._owner == os.getpid() and self._process.poll() is None

    def end(self) -> None:
        if self._owner == os.getpid():
            self._finalizer()
        else:
            self._finalizer.detach()


def _ended(process: "subprocess.Popen[bytes]", ours: socket.socket) -> None:
    ours.close()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _started(command: Sequence[str], environment: Mapping[str, str], needs: str, attempts: int = 2) -> _Running:
    """Raises ConfigError where it does not start: nothing would work. One that somebody killed is started again."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    numbered = [word.replace("{socket}", str(theirs.fileno())) for word in command]
    with theirs, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            numbered,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **environment},
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
            if process.returncode == -signal.SIGKILL and attempts > 1:
                return _started(command, environment, needs, attempts - 1)
            said.seek(0)
            text = said.read(MAX_SAID).decode(errors="replace")
            raise ConfigError(
                f"{needs} needs a process that did not start. Mend what it says.\n$ {' '.join(numbered)}\n{text}"
            )
    ours.settimeout(SEND_S)
    return _Running(process, ours, json.loads(answer)["ready"])
