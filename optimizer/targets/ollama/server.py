"""Which server answers? One that is started for a point on a free port of this machine, or one that runs already."""

import contextlib
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from optimizer.process import service
from optimizer.targets.ollama.api import Api
from optimizer.trial import Reason, TrialError

DEFAULTS: Mapping[str, str] = {"OLLAMA_NUM_PARALLEL": "1", "OLLAMA_NOPRUNE": "1"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TRIES = 3  # a port may be taken between looking for it and using it
LOOK_S = 0.05


@dataclass(frozen=True)
class Live:
    """A server that answers. pid: None where it can't be found out."""

    api: Api
    pid: int | None


@contextlib.contextmanager
def started(program: str, environment: Mapping[str, str], timeout_s: float) -> Iterator[Live]:
    """`ollama serve` on a free port of the loopback, ended with all that it started. Raises TrialError(CRASH)."""
    with contextlib.ExitStack() as stack:
        for last in (False,) * (TRIES - 1) + (True,):
            with contextlib.ExitStack() as attempt:
                port = _free_port()
                folder = Path(attempt.enter_context(tempfile.TemporaryDirectory(prefix="optimizer-ollama-")))
                variables = {**DEFAULTS, **environment, "OLLAMA_HOST": f"127.0.0.1:{port}"}
                running = attempt.enter_context(service([program, "serve"], variables, folder))
                api = Api(f"http://127.0.0.1:{port}", timeout_s)
                deadline = time.monotonic() + timeout_s
                while running.alive and not _answers(api):
                    if time.monotonic() > deadline:
                        raise TrialError(
                            Reason.TIMEOUT, f"{program} serve did not answer within {timeout_s:g} s\n{running.said()}"
                        )
                    time.sleep(LOOK_S)
                if running.alive:
                    stack.enter_context(attempt.pop_all())
                    break
                if last or "address already in use" not in running.said().lower():
                    raise TrialError(Reason.CRASH, f"{program} serve ended at its start\n{running.said()}")
        yield Live(api, running.pid)


def running_at(url: str, timeout_s: float) -> Live:
    """One that somebody else has started on this machine."""
    parts = urlsplit(url)
    return Live(Api(url.rstrip("/"), timeout_s), _listening(parts.port or 80))


def _answers(api: Api) -> bool:
    try:
        return bool(Api(api.url, 2.0).version())
    except TrialError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listening(port: int) -> int | None:
    """The process behind a port; None where the system tells only its owner."""
    with contextlib.suppress(psutil.Error):
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port:
                return found.pid
    return None


def peak_bytes(pid: int | None) -> float | None:
    """The most that a server and the processes that it started had in memory, the sum of each one's own peak."""
    if pid is None:
        return None
    try:
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        return float(sum(_peak(p) for p in family)) or None
    except (psutil.Error, OSError):
        return None


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


def worker_of(pid: int | None) -> int | None:
    """The process that computes: the server starts one for each model. Of several the busiest."""
    if pid is None:
        return None
    try:
        children = [(sum(child.cpu_times()[:2]), child.pid) for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return pid
    return max(children)[1] if children else pid
