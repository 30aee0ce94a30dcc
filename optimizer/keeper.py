"""How does a foreign program run so that it can't reach beyond its trial, and nothing of it is left behind?

    python -I -S keeper.py SOCKET

This process forks each program and is the subreaper of all: what daemonises (a session of its own, a parent that ended)
becomes a child of this process and is killed with the program that it came from. A program leads a process group, dies
with this process (PR_SET_PDEATHSIG), has its limits before its first instruction, and, where it is asked for and the
system allows it, a network namespace of its own in which there is only its own loopback. When the search is gone, even
by kill -9, the socket closes, and everything here is killed.

A request is one message on the socket: a JSON object and four open files (the program's stdin, stdout and stderr, and a
pipe for what becomes of it). The pipe says "pid N" or "error ERRNO TEXT", then "status N CPU_SECONDS" and, where it was
ended for that, "memory", "output" or "files". It imports the standard library alone and is a script by its path, so it
starts in hundredths of a second; targets/torch/zygote.py is the same server with torch imported.
"""

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST_REQUEST = 1 << 18
MAX_OUTPUT = 64 << 20  # bytes that a program may write to its stderr
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
PAGE = os.sysconf("SC_PAGE_SIZE")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
TOKEN = "OPTIMIZER_PROGRAM"  # variable that tells which program a process came from
LAST_S = 2.0  # how long what was killed is waited for

Become = Callable[[Mapping[str, Any], int], int]
"""What a forked process does: it is given the request and a file that is closed on exec; its status is returned."""


@dataclass
class _Kept:
    pid: int
    status: int  # file that is told what became of it
    stderr: int
    token: str
    began_s: float
    memory_bytes: int | None  # resident, of the program and all that it started
    folder: str
    scratch: bool  # nobody wants what is in the folder
    folder_bytes: int | None  # that files in `folder` may take together
    watch_s: float
    looked_s: float = 0.0
    broke: str = ""  # the limit for which it was ended
    why: str = ""  # the same for people; told once nothing of it writes to its stderr any more


def main(words: Sequence[str]) -> int:
    gc.freeze()  # a collection in a fork would copy what is shared
    with socket.socket(fileno=int(words[0])) as asked:
        asked.send(json.dumps({"ready": {"pid": os.getpid(), "network": network()}}).encode())
        serve(asked, _executed)
    return 0


def serve(asked: socket.socket, become: Become) -> None:
    """Until the other end of the socket is closed."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    kept: dict[int, _Kept] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(asked, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select(min((k.watch_s for k in kept.values()), default=None))]
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 1024)
            _reap(kept)
            if asked in ready:
                message, files, _, _ = socket.recv_fds(asked, LARGEST_REQUEST, 4)
                if not message:
                    break
                _start(json.loads(message), files, kept, (asked.fileno(), woken, wake), become)
            _watch(kept)
    scratch = [one.folder for one in kept.values() if one.scratch]
    for one in kept.values():
        _kill(one.pid)
    kept.clear()
    _sweep(kept, "")
    for folder in scratch:  # the search is gone and removes it no more
        shutil.rmtree(folder, ignore_errors=True)


# --- starting


def _start(
    request: Mapping[str, Any], files: Sequence[int], kept: dict[int, _Kept], own: Sequence[int], become: Become
) -> None:
    stdin, stdout, stderr, status = files
    token = f"{os.getpid()}-{time.monotonic_ns()}"
    began_s = time.clock_gettime(time.CLOCK_BOOTTIME)  # the clock of /proc
    problem, telling = os.pipe2(os.O_CLOEXEC)
    if (threads := threads_now()) != 1:
        pid, said = -1, f"the fork server has {threads} threads"
    else:
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            foreign = [*own, problem, status, *(f for k in kept.values() for f in (k.status, k.stderr))]
            _child(request, (stdin, stdout, stderr), foreign, telling, token, become, keeper)
        said = ""
    os.close(telling)
    with os.fdopen(problem, "rb") as told:
        said = said or told.read(400).decode(errors="replace")  # empty once the program runs
    os.close(stdin)
    os.close(stdout)
    if pid > 0 and said:
        os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # nobody waits for it any more
        os.write(status, (f"error {said}\n" if said else f"pid {pid}\n").encode())
    if said:
        os.close(stderr)
        os.close(status)
        return
    kept[pid] = _Kept(
        pid,
        status,
        stderr,
        token,
        began_s,
        memory_bytes=request["memory_bytes"],
        folder=request["folder"],
        scratch=request["scratch"],
        folder_bytes=request["folder_bytes"],
        watch_s=request["watch_s"],
    )


def _child(
    request: Mapping[str, Any],
    standard: Sequence[int],
    foreign: Sequence[int],
    telling: int,
    token: str,
    become: Become,
    keeper: int,
) -> None:
    """The forked process, to its end."""
    status = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(status)  # it was killed before that
        _prctl(PR_SET_CHILD_SUBREAPER, 0)
        for number, file in enumerate(standard):
            os.dup2(file, number)
        for file in {*standard, *foreign} - {0, 1, 2}:
            os.close(file)
        if not request["network"]:
            cut_off()
        if request["cpus"]:
            os.sched_setaffinity(0, request["cpus"])
        if request["nice"]:
            os.nice(request["nice"])
        for name, limit in request["limits"].items():
            resource.setrlimit(getattr(resource, name), (limit, limit))
        os.environ.update(request["environment"])
        os.environ[TOKEN] = token
        os.chdir(request["folder"])
        status = become(request, telling)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(telling, f"{error.errno} {error.strerror}".encode())
        raise
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _executed(request: Mapping[str, Any], telling: int) -> int:
    """Becomes the program; `telling` closes then. Raises OSError where it can't."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and a program would inherit that
    command = request["command"]
    os.execvpe(command[0], command, {**request["environment"], TOKEN: os.environ[TOKEN]})


def cut_off() -> bool:
    """Leaves this process with a network in which there is only its own loopback; False where the system refuses."""
    libc, uid, gid = ctypes.CDLL(None, use_errno=True), os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWNET) != 0:
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return False
        with contextlib.suppress(OSError):  # unmapped, it would be nobody
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", IFF_UP, b""))
    return True


def network() -> str:
    """What programs under test have of the network, tried out in a fork."""
    if (pid := os.fork()) == 0:
        os._exit(0 if cut_off() else 1)
    return "on: the system allows no network namespace" if os.waitpid(pid, 0)[1] else "off"


# --- ending


def _reap(kept: dict[int, _Kept]) -> None:
    """Tells what became of those that have ended. Their groups are killed before their numbers can be used again."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        one = kept.pop(ended.si_pid, None)
        if one is not None:
            _kill(one.pid)
            if not one.broke and (ended.si_code, ended.si_status) != (os.CLD_EXITED, 0):
                _look(one)  # it may have reached the system's limit on a file between two looks at ours
        _, waited, usage = os.wait4(ended.si_pid, 0)
        if one is None:
            continue  # something that a program had left behind
        _sweep(kept, one.token)
        with contextlib.suppress(OSError):  # the disk is full
            os.write(one.stderr, f"\n{one.why}\n".encode() if one.why else b"")
        with contextlib.suppress(OSError):  # nobody waits for it any more
            cpu_s = usage.ru_utime + usage.ru_stime
            os.write(one.status, f"status {os.waitstatus_to_exitcode(waited)} {cpu_s:.6f} {one.broke}\n".encode())
        os.close(one.status)
        os.close(one.stderr)


def _sweep(kept: Mapping[int, _Kept], token: str) -> None:
    """Kills what the program of this token has left behind, and what those that it left behind leave behind.

    A process that hides its token (a changed environment) goes as soon as no program runs that began before it.
    """
    until = time.monotonic() + LAST_S
    while left := [pid for pid in children(os.getpid()) if pid not in kept and _is_left(pid, kept, token)]:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            while time.monotonic() < until:
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0] == 0:
                        time.sleep(0.001)
                        continue
                break
        if time.monotonic() >= until:
            return  # something holds it in the kernel; the next sweep tries again


def _is_left(pid: int, kept: Mapping[int, _Kept], token: str) -> bool:
    try:
        variables = Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
        began_s = (
            int(Path("/proc", str(pid), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]) * TICK_S
        )
    except (OSError, ValueError, IndexError):
        return True  # it has ended and waits to be reaped
    known = next((v.decode(errors="replace") for v in variables if v.startswith(TOKEN.encode() + b"=")), "")
    owner = known.partition("=")[2]
    if owner == token:
        return True
    if owner in {k.token for k in kept.values()}:
        return False
    return not any(k.began_s <= began_s + TICK_S for k in kept.values())


def _watch(kept: Mapping[int, _Kept]) -> None:
    """Ends what takes more than it may."""
    now_s = time.monotonic()
    for one in kept.values():
        if now_s - one.looked_s < one.watch_s:
            continue
        one.looked_s = now_s
        _look(one)


def _look(one: _Kept) -> None:
    if one.memory_bytes is not None and (taken := resident_bytes(one.pid)) > one.memory_bytes:
        _end(one, "memory", f"Its resident memory reached {_gib(taken)}; the limit is {_gib(one.memory_bytes)}.")
    elif os.fstat(one.stderr).st_size > MAX_OUTPUT:
        _end(one, "output", f"It printed more than {MAX_OUTPUT >> 20} MiB.")
    elif one.folder_bytes is not None and (taken := folder_bytes(one.folder)) > one.folder_bytes:
        _end(one, "files", f"Its files took {_gib(taken)}; the limit is {_gib(one.folder_bytes)}.")


def _end(one: _Kept, broke: str, why: str) -> None:
    one.broke, one.why = broke, why
    _kill(one.pid)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


def folder_bytes(folder: str) -> int:
    """What its files take on the disk; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118 - thousands of names
    return total


def resident_bytes(pid: int) -> int:
    """Of a process and of all that it started; 0 where it is gone."""
    total = 0
    for one in (pid, *descendants(pid)):
        with contextlib.suppress(OSError, IndexError):  # it ended meanwhile
            total += int(Path("/proc", str(one), "statm").read_text(encoding="ascii").split()[1]) * PAGE
    return total


def descendants(pid: int) -> Iterator[int]:
    waiting = children(pid)
    while waiting:
        one = waiting.pop()
        yield one
        waiting += children(one)


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path("/proc", str(pid), "task").iterdir():
            found += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    return found


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def threads_now() -> int:
    """How many threads this process has."""
    return len(list(Path("/proc/self/task").iterdir()))


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
