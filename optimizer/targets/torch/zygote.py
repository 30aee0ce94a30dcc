"""How does a worker start with torch already imported? By a fork of this process, which imports it once and then waits.

    python -m optimizer.targets.torch.zygote SOCKET MODULE…

A request is one message on the socket: a JSON object and four open files (the worker's stdin, stdout and stderr, and a
pipe for what becomes of it: "pid N", then "status N"). No tensor is touched here, so that no thread of OpenMP and no
state of a device is inherited; a fork of a process with threads would be one with broken locks, and is refused.

The memory of a worker and of the processes that it starts is watched as resident size: torch reserves address space
freely, so a limit on that would refuse what fits. Twenty looks a second let it overshoot by what can be touched in
50 ms, a few hundred MiB. One that takes more is killed, and its stderr says so.

It ends when the other end of the socket is closed, and takes its workers with it.
"""

import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

WATCH_S = 0.05
LARGEST_REQUEST = 1 << 18
PR_SET_PDEATHSIG = 1
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class _Worker:
    pid: int
    status: int  # file that is told what became of it
    stderr: int
    memory_bytes: int


def main(words: Sequence[str]) -> int:
    for name in words[1:]:
        import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a worker leaves the shared pages alone
    with socket.socket(fileno=int(words[0])) as asked:
        asked.send(json.dumps({"ready": {"pid": os.getpid(), "threads": _threads()}}).encode())
        _served(asked)
    return 0


def _served(asked: socket.socket) -> None:
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    workers: dict[int, _Worker] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(asked, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select(WATCH_S if workers else None)]
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 1024)
            _reap(workers)
            if asked in ready:
                message, files, _, _ = socket.recv_fds(asked, LARGEST_REQUEST, 4)
                if not message:
                    break
                _start(json.loads(message), files, workers, (asked.fileno(), woken, wake))
            _watch(workers)
    for worker in workers.values():
        _kill(worker.pid)


def _start(request: dict[str, Any], files: Sequence[int], workers: dict[int, _Worker], own: Sequence[int]) -> None:
    stdin, stdout, stderr, status = files
    if (threads := _threads()) != 1:
        os.write(status, f"error the fork server has {threads} threads\n".encode())
        pid = -1
    else:
        pid = os.fork()
        if pid == 0:
            others = [f for w in workers.values() for f in (w.status, w.stderr)]
            _become_worker(request, (stdin, stdout, stderr), (*own, *others, status))
        with contextlib.suppress(OSError):  # the worker does it too: whoever comes first, before anybody hears of it
            os.setpgid(pid, pid)
        os.write(status, f"pid {pid}\n".encode())
    os.close(stdin)
    os.close(stdout)
    if pid < 0:
        os.close(stderr)
        os.close(status)
        return
    workers[pid] = _Worker(pid, status, stderr, int(request["memory_bytes"]))


def _become_worker(request: dict[str, Any], standard: Sequence[int], foreign: Sequence[int]) -> None:
    """The forked process, to its end."""
    status = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number, file in enumerate(standard):
            os.dup2(file, number)
        for file in (*standard, *foreign):
            os.close(file)
        os.environ.update(request["environment"])
        tempfile.tempdir = None  # what was found before the fork; TMPDIR is another now
        os.chdir(request["folder"])
        status = int(import_module(request["module"]).main(request["document"]))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _reap(workers: dict[int, _Worker]) -> None:
    """Tells what became of those that have ended. Their groups are killed before their numbers can be used again."""
    while workers:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        _kill(ended.si_pid)
        _, waited = os.waitpid(ended.si_pid, 0)
        if (worker := workers.pop(ended.si_pid, None)) is not None:
            with contextlib.suppress(OSError):  # nobody waits for it any more
                os.write(worker.status, f"status {os.waitstatus_to_exitcode(waited)}\n".encode())
            os.close(worker.status)
            os.close(worker.stderr)


def _watch(workers: dict[int, _Worker]) -> None:
    for worker in workers.values():
        if (taken := resident_bytes(worker.pid)) > worker.memory_bytes:
            limit = f"the limit is {worker.memory_bytes / 2**30:.2f} GiB"
            text = f"\nIts resident memory reached {taken / 2**30:.2f} GiB; {limit}.\n"
            with contextlib.suppress(OSError):
                os.write(worker.stderr, text.encode())
            _kill(worker.pid)


def resident_bytes(pid: int) -> int:
    """Of a process and of all that it started; 0 where it is gone."""
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            process = Path("/proc", str(one))
            total += int((process / "statm").read_text(encoding="ascii").split()[1]) * PAGE
            for task in (process / "task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
        except (OSError, IndexError):
            continue  # it ended meanwhile
    return total


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
