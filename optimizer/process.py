"""How is a foreign program run so that it can't hurt the search?

Every program gets a process group of its own, a time limit and a limit on what it may print, and, where it is a program
under test, a limit on its memory. When it must go, its whole group is killed.
"""

import contextlib
import json
import math
import os
import resource
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from optimizer.trial import Reason, TrialError

MAX_LOG = 16_000  # characters kept of a log, from both ends
MAX_LINE = 16 << 20  # bytes of one answer
MAX_FILE = 1 << 30  # bytes that a program under test may write into one file

_LIVE: set[int] = set()  # process groups to kill when the search is interrupted; the only state of this module


def kill_all() -> None:
    """Kills every program that is still running: the answer to an interrupt."""
    for group in list(_LIVE):
        _kill(group)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


@contextlib.contextmanager
def held_still(pid: int | None) -> Iterator[None]:
    """A program of ours (None, or not ours: nothing happens) is stopped meanwhile: one that waits may still burn
    processors, as OpenMP's threads do under OMP_WAIT_POLICY=active, and would slow down what is measured beside it."""
    if pid is None or pid not in _LIVE:
        yield
        return
    with contextlib.suppress(ProcessLookupError):  # it is gone: its next answer will say so
        os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGCONT)


@contextlib.contextmanager
def _group(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that leads a group of its own; whatever is left of the group is killed at the end."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    _LIVE.add(process.pid)
    try:
        yield process
    finally:
        _kill(process.pid)
        process.wait()
        _LIVE.discard(process.pid)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what the program did not read is lost with it
                    stream.close()


class Program(Protocol):
    """A running program as a conversation sees it: subprocess.Popen is one, a forked worker is another."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def wait(self, timeout: float | None = None) -> int:
        """Its status, negative for a signal. Raises subprocess.TimeoutExpired."""
        ...


@contextlib.contextmanager
def adopted(group: int) -> Iterator[None]:
    """A process group that somebody else started for us, held like those that are started here."""
    _LIVE.add(group)
    try:
        yield
    finally:
        _kill(group)
        _LIVE.discard(group)


@dataclass(frozen=True, slots=True)
class Done:
    """A tool that has ended. `status` is negative for a signal, None where the time limit ended it."""

    status: int | None
    output: str
    wall_s: float
    cpu_s: float  # of the tool and all processes that it waited for


def run_tool(command: Sequence[str], timeout_s: float, folder: Path) -> Done:
    """Runs a compiler or the like to its end, stdout and stderr together in `output` (shortened).

    Raises FileNotFoundError where the program does not exist.
    """
    start = time.monotonic()
    with (
        tempfile.TemporaryFile() as output,
        _group(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_c_locale()) as process,
    ):
        late = threading.Event()

        def end() -> None:
            late.set()
            _kill(process.pid)

        timer = threading.Timer(timeout_s, end)
        timer.start()
        try:
            _, waited, usage = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(waited)
        return Done(
            status=None if late.is_set() else process.returncode,
            output=_shortened(output),
            wall_s=time.monotonic() - start,
            cpu_s=usage.ru_utime + usage.ru_stime,
        )


def _c_locale() -> dict[str, str]:
    """Messages in one language, whatever the user's: logs are compared and searched."""
    return {**os.environ, "LC_ALL": "C"}


def _shortened(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size <= MAX_LOG:
        return file.read().decode(errors="replace")
    head = file.read(MAX_LOG // 2).decode(errors="replace")
    file.seek(size - MAX_LOG // 2)
    return f"{head}\n… {size - MAX_LOG} bytes left out …\n{file.read().decode(errors='replace')}"


class Conversation:
    """A program that answers each line of its stdin with one line of JSON (kernels/harness.h).

    Every failure is a TrialError: a crash, silence beyond the time limit, memory, nonsense.
    """

    def __init__(self, process: Program, stderr: IO[bytes], timeout_s: float) -> None:
        self._process, self._stderr, self._timeout_s = process, stderr, timeout_s
        self._unread = b""
        assert process.stdin and process.stdout
        self._stdin, self._stdout = process.stdin, process.stdout
        os.set_blocking(self._stdout.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: str) -> Mapping[str, Any]:
        """Sends a line, returns the JSON object that comes back."""
        try:
            self._stdin.write(line.encode() + b"\n")
            self._stdin.flush()
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None
        return self.answer()

    def answer(self) -> Mapping[str, Any]:
        """The next JSON object on the program's stdout."""
        line = self._line(time.monotonic() + self._timeout_s)
        try:
            answer = json.loads(line, parse_constant=lambda text: math.nan)
        except (ValueError, RecursionError):
            shown = line[:200].decode(errors="replace")
            raise TrialError(Reason.CRASH, f"the program printed what is not JSON: {shown!r}") from None
        if not isinstance(answer, dict):
            raise TrialError(Reason.CRASH, f"the program printed no JSON object: {str(answer)[:200]}")
        if "error" in answer:
            raise self._error(answer["error"])
        return answer

    def _line(self, deadline: float) -> bytes:
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TrialError(Reason.TIMEOUT, f"no answer within {self._timeout_s:g} s{self._said()}")
                chunk = self._stdout.read(1 << 16)
                if not chunk:
                    raise self._ended()
                self._unread += chunk
                if len(self._unread) > MAX_LINE:
                    raise TrialError(Reason.CRASH, f"the program printed a line of more than {MAX_LINE >> 20} MiB")
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _error(self, error: Any) -> TrialError:
        known = {r.value: r for r in (Reason.MEMORY, Reason.REJECTED, Reason.COMPILE, Reason.CRASH)}
        if not isinstance(error, dict):
            return TrialError(Reason.CRASH, str(error)[:MAX_LOG])
        reason = known.get(str(error.get("reason")), Reason.CRASH)
        return TrialError(reason, f"{str(error.get('message', ''))[:MAX_LOG]}{self._said()}")

    def _ended(self) -> TrialError:
        """Why a program that should have answered is gone."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return TrialError(Reason.CRASH, f"the program closed its output and went on{self._said()}")
        if status == -signal.SIGKILL:
            return TrialError(Reason.MEMORY, f"killed by the system, most likely for its memory{self._said()}")
        if status < 0:
            name = signal.Signals(-status).name
            hint = " (an instruction that this processor lacks)" if status == -signal.SIGILL else ""
            return TrialError(Reason.CRASH, f"ended by {name}{hint}{self._said()}")
        return TrialError(Reason.CRASH, f"ended with status {status} instead of an answer{self._said()}")

    def _said(self) -> str:
        said = _shortened(self._stderr).strip()
        return f"\nstderr: {said}" if said else ""


@contextlib.contextmanager
def conversation(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, timeout_s: float, memory_bytes: int | None
) -> Iterator[Conversation]:
    """Starts a program under test in `folder`, within its limits (memory_bytes None: as much address space as it
    likes, as what reserves it by the hundred GiB needs). Raises TrialError(CRASH) where it does not start."""
    with contextlib.ExitStack() as stack:
        stderr = stack.enter_context(tempfile.TemporaryFile())
        group = _group(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **environment},
        )
        try:
            process = stack.enter_context(group)
        except OSError as error:
            raise TrialError(Reason.CRASH, f"{command[0]} can't be run: {error}") from None
        _limit(process.pid, memory_bytes)
        yield Conversation(process, stderr, timeout_s)


def _limit(pid: int, memory_bytes: int | None) -> None:
    if not hasattr(resource, "prlimit"):
        return  # not Linux: time and output limits still hold
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if memory_bytes is not None:
            resource.prlimit(pid, resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (MAX_FILE, MAX_FILE))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
