"""How is a foreign program run so that it can't hurt the search?

Every program is started by a process of ours that does nothing else (keeper.py). It leads a process group, has a time
limit, and limits on what it may print, write and take of memory; when it must go, all goes that it has started. A
program under test has a scratch folder of its own and, where the system allows it, no network.
"""

import contextlib
import errno
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from optimizer import keeper
from optimizer.conditions import listed
from optimizer.errors import ConfigError
from optimizer.forkserver import Child, Ended, ForkServer, NotStartedError
from optimizer.kills import killed, tells_of_a_kill
from optimizer.space import Json
from optimizer.trial import Reason, TrialError

MAX_LOG = 16_000  # characters kept of a log, from both ends
MAX_LINE = 16 << 20  # bytes of one answer
MAX_FILE = 1 << 30  # bytes that a program may write into one file
MAX_FOLDER = 4 << 30  # bytes that the files of a program under test may take together
START_S = 60.0  # for the system to start a program
WATCH_S = 0.25  # between two looks at what a program takes
LIFE_S = 1.0  # between two looks at whether a program that says nothing lives


@dataclass
class _Place:
    """Where programs under test run."""

    cpus: frozenset[int] = frozenset()  # none: wherever this process may
    nice: int = 0


_PLACE = _Place()
_LIVE: set[int] = set()  # process groups to kill when the search is interrupted
_KEEPER = ForkServer((sys.executable, "-I", "-S", keeper.__file__, "{socket}"), {}, "Running programs")


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


def isolation() -> Mapping[str, Json]:
    """What programs under test are kept from on this machine, for the record: namespaces and limits in force, besides
    those on time and memory that a plan sets. Raises ConfigError."""
    return {
        "network": _KEEPER.ready["network"],
        "file_bytes": MAX_FILE,
        "folder_bytes": MAX_FOLDER,
        "output_bytes": keeper.MAX_OUTPUT,
        "core_dumps": "off",
        "daemons": "killed with their program",
    }


def request_of(
    environment: Mapping[str, str],
    folder: str,
    memory_bytes: int | None,
    files: tuple[int, int],
    *,
    reserves: bool,
    watch_s: float,
) -> dict[str, Any]:
    """What a fork server is asked for a program under test: variables, its scratch folder, its limits.

    `files`: bytes that one file may have, and all in the folder together; `reserves`: it reserves address space by the
    hundred GiB, so only what it really takes is limited.
    """
    limits = {"RLIMIT_FSIZE": files[0], "RLIMIT_CORE": 0}
    if memory_bytes is not None and not reserves:
        limits["RLIMIT_AS"] = memory_bytes
    return {
        "environment": dict(environment),
        "folder": folder,
        "scratch": True,
        "limits": limits,
        "memory_bytes": memory_bytes,
        "folder_bytes": files[1],
        "network": False,
        "watch_s": watch_s,
        "cpus": sorted(_PLACE.cpus),
        "nice": _PLACE.nice,
    }


def place(cpus: Collection[int], nice: int) -> None:
    """Where programs under test run from now on (none: wherever this process may), and what is added to their priority.
    Raises ConfigError where the system does not allow that."""
    allowed = os.sched_getaffinity(0)
    if foreign := set(cpus) - allowed:
        raise ConfigError(
            f"measure.cpus names processors {listed(foreign)}, and this search may use {listed(allowed)} alone."
        )
    _PLACE.cpus, _PLACE.nice = frozenset(cpus), nice
    if not cpus and not nice:
        return
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        request = request_of(os.environ, folder, None, (MAX_FILE, MAX_FOLDER), reserves=True, watch_s=WATCH_S)
        try:
            with _KEEPER.child({**request, "command": ["true"]}, output, START_S, stdout=output):
                pass
        except NotStartedError as error:
            _PLACE.cpus, _PLACE.nice = frozenset(), 0
            raise ConfigError(
                f"Programs can't be run with measure.nice={nice} measure.cpus={listed(set(cpus))} here ({error}). A "
                "nice below 0 takes root's rights or a limit that allows it (ulimit -e)."
            ) from None


@contextlib.contextmanager
def adopted(group: int) -> Iterator[None]:
    """A process group that a fork server started for us, known to whoever interrupts the search or holds it still."""
    _LIVE.add(group)
    try:
        yield
    finally:
        _LIVE.discard(group)


@dataclass(frozen=True, slots=True)
class Done:
    """A tool that has ended. `status` is negative for a signal, None where the time limit ended it."""

    status: int | None
    output: str
    wall_s: float
    cpu_s: float  # of the tool and all processes that it waited for
    broke: str = ""  # the limit for which it was ended

    @property
    def killed(self) -> bool:
        """Somebody else killed it, or a process of its own: nothing is known of what it worked on."""
        return not self.broke and killed(self.status, self.output)


def run_tool(command: Sequence[str], timeout_s: float, folder: Path, memory_bytes: int | None = None) -> Done:
    """Runs a compiler or the like to its end, stdout and stderr together in `output` (shortened).

    What it leaves in TMPDIR is left in `folder`. memory_bytes: what it may take, None: all there is.
    Raises FileNotFoundError where the program does not exist, and OSError where it fails because the disk is full: that
    says nothing of a point, and every later one would fail too.
    """
    start, late = time.monotonic(), False
    variables = {**_c_locale(), "TMPDIR": str(folder.resolve())}
    request = request_of(variables, str(folder), memory_bytes, (MAX_FILE, MAX_FOLDER), reserves=True, watch_s=WATCH_S)
    request |= {
        "command": list(command),
        "network": True,
        "folder_bytes": None,
        "scratch": False,
        "cpus": [],
        "nice": 0,
    }  # sccache and distcc talk to others
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryFile())
        try:
            child = stack.enter_context(_KEEPER.child(request, output, START_S, stdout=output))
        except NotStartedError as error:
            raise OSError(error.errno or 0, str(error), command[0]) from None
        stack.enter_context(adopted(child.pid))
        try:
            ended = child.ended(timeout_s)
        except subprocess.TimeoutExpired:
            late = True
            child.killed()
            try:
                ended = child.ended(0.0)
            except subprocess.TimeoutExpired:  # something holds it in the kernel: it is left to the system
                ended = Ended(-signal.SIGKILL, 0.0)
        said = _shortened(output)
        if not late and ended.status and os.strerror(errno.ENOSPC) in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return Done(
            status=None if late else ended.status,
            output=said,
            wall_s=time.monotonic() - start,
            cpu_s=ended.cpu_s,
            broke=ended.broke,
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

    def __init__(self, process: Child, stderr: IO[bytes], timeout_s: float) -> None:
        self._process, self._stderr, self._timeout_s = process, stderr, timeout_s
        self._unread = bytearray()
        assert process.stdin and process.stdout
        self._stdin, self._stdout = process.stdin, process.stdout
        os.set_blocking(self._stdout.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.alive

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
            end = self._unread.find(b"\n")
            while end < 0:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TrialError(Reason.TIMEOUT, f"no answer within {self._timeout_s:g} s{self._said()}")
                if not selector.select(min(left, LIFE_S)):
                    if self._process.alive or selector.select(0):
                        continue
                    raise self._ended()  # what it has started may live on and keep its output open
                chunk = self._stdout.read(1 << 16)
                if not chunk:
                    raise self._ended()
                known = len(self._unread)
                self._unread += chunk
                end = self._unread.find(b"\n", known)
                if len(self._unread) > MAX_LINE:
                    raise TrialError(Reason.CRASH, f"the program printed a line of more than {MAX_LINE >> 20} MiB")
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line

    def _error(self, error: Any) -> TrialError:
        known = {r.value: r for r in (Reason.MEMORY, Reason.REJECTED, Reason.COMPILE, Reason.CRASH)}
        if not isinstance(error, dict):
            return TrialError(Reason.CRASH, str(error)[:MAX_LOG])
        reason = known.get(str(error.get("reason")), Reason.CRASH)
        log = f"{str(error.get('message', ''))[:MAX_LOG]}{self._said()}"
        return TrialError(reason, log, again=reason is Reason.COMPILE and tells_of_a_kill(log))

    def _ended(self) -> TrialError:
        """Why a program that should have answered is gone."""
        try:
            ended = self._process.ended(5.0)
        except subprocess.TimeoutExpired:
            return TrialError(Reason.CRASH, f"the program closed its output and went on{self._said()}")
        if ended.with_server:
            return TrialError(Reason.CRASH, f"the process that keeps it was killed{self._said()}", again=True)
        status, said = ended.status, self._said()
        if ended.broke:
            return TrialError(Reason.MEMORY if ended.broke == "memory" else Reason.CRASH, f"it took too much{said}")
        if status == -signal.SIGKILL:
            return TrialError(Reason.MEMORY, f"killed by the system, most likely for its memory{said}", again=True)
        if status < 0:
            name = signal.Signals(-status).name
            hint = " (an instruction that this processor lacks)" if status == -signal.SIGILL else ""
            return TrialError(Reason.CRASH, f"ended by {name}{hint}{said}")
        return TrialError(Reason.CRASH, f"ended with status {status} instead of an answer{said}")

    def _said(self) -> str:
        said = _shortened(self._stderr).strip()
        return f"\nstderr: {said}" if said else ""


@contextlib.contextmanager
def conversation(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    timeout_s: float,
    memory_bytes: int | None,
    *,
    reserves: bool = False,
) -> Iterator[Conversation]:
    """Starts a program under test in `folder`, its scratch folder, within its limits (memory_bytes None: as much as it
    likes; `reserves`: it reserves more address space than it takes). Raises TrialError(CRASH) where it can't start."""
    variables = {**os.environ, "TMPDIR": str(folder), **environment}
    request = request_of(
        variables, str(folder), memory_bytes, (MAX_FILE, MAX_FOLDER), reserves=reserves, watch_s=WATCH_S
    )
    with tempfile.TemporaryFile() as stderr, _started(command, request, stderr) as child:
        yield Conversation(child, stderr, timeout_s)


@contextlib.contextmanager
def _started(
    command: Sequence[str], request: Mapping[str, Any], stderr: IO[bytes], stdout: IO[bytes] | None = None
) -> Iterator[Child]:
    """A program that is ended with all that it started. Raises TrialError(CRASH) where it can't start."""
    with contextlib.ExitStack() as stack:
        try:
            child = stack.enter_context(_KEEPER.child({**request, "command": list(command)}, stderr, START_S, stdout))
        except NotStartedError as error:
            raise TrialError(Reason.CRASH, f"{command[0]} can't be run: {error}") from None
        stack.enter_context(adopted(child.pid))
        yield child


@dataclass(frozen=True)
class Service:
    """A server that runs beside the search, and is talked to by the network."""

    child: Child
    output: IO[bytes]

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def alive(self) -> bool:
        return self.child.alive

    def said(self) -> str:
        """What it has printed so far, shortened."""
        return _shortened(self.output).strip()


@contextlib.contextmanager
def service(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[Service]:
    """Starts a server in `folder`, ended with all that it started. Raises TrialError(CRASH) where it can't start."""
    variables = {**os.environ, "TMPDIR": str(folder), **environment}
    request = request_of(variables, str(folder), None, (MAX_FILE, MAX_FOLDER), reserves=True, watch_s=WATCH_S)
    request["network"] = True
    with tempfile.TemporaryFile() as output, _started(command, request, output, output) as child:
        yield Service(child, output)
