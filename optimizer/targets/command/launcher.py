"""How is somebody's program run to its end, and what did it cost? A small process of its own, asked a line at a time.

It is started as a script (python -I -S) and imports nothing of this package: what the system tells of a program's most
resident memory is never less than that of the process that started it, so this process stays at some 10 MB. It answers
every line of JSON with one:

    {"run": {command, folder, environment, timeout_s, most_bytes, stdout, stderr}}
        {"status", "wall_s", "cpu_s", "peak_memory_bytes"} of the program and all that it waited for, or {"late": true},
        {"overflow": true}, {"absent": "why it can't be run"}. What it printed is in the files stdout and stderr.
    {"find": {pattern, file, seconds, most}}
        {"found": [{"value": …, "unit": …}, …]}, or {"slow": true}: a pattern may take for ever, a signal ends it.

What is still running when it is closed is killed with its process group, by optimizer/process.py.
"""

import json
import os
import re
import select
import signal
import sys
import time
from typing import Any

CHUNK = 1 << 16


class _SlowError(Exception):
    pass


def _too_slow(number: int, frame: object) -> None:
    raise _SlowError


def run(asked: dict[str, Any]) -> dict[str, Any]:
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, out_end, 1),
        (os.POSIX_SPAWN_DUP2, err_end, 2),
    ]
    unignored = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores them, and its children would
    environment = {**os.environ, **asked["environment"]}
    start = time.monotonic()
    try:
        os.chdir(asked["folder"])
        command = asked["command"]
        pid = os.posix_spawnp(command[0], command, environment, file_actions=actions, setsigdef=unignored)
    except (OSError, ValueError) as error:
        for end in (out, out_end, err, err_end):
            os.close(end)
        return {"absent": str(error)}
    os.close(out_end)
    os.close(err_end)
    said = {out: bytearray(), err: bytearray()}
    answer = _waited(pid, said, start, asked["timeout_s"], asked["most_bytes"])
    for end, name in ((out, "stdout"), (err, "stderr")):
        os.close(end)
        with open(asked[name], "wb") as file:  # noqa: PTH123 - pathlib would double this process
            file.write(said[end])
    return answer


def _waited(pid: int, said: dict[int, bytearray], start: float, timeout_s: float, most_bytes: int) -> dict[str, Any]:
    ended = os.pidfd_open(pid)
    unread = set(said)
    try:
        while True:
            left = start + timeout_s - time.monotonic()
            ready, _, _ = select.select([ended, *unread], [], [], max(0.0, left))
            if ended in ready:
                wall_s = time.monotonic() - start
                _, status, usage = os.wait4(pid, 0)
                _drain(said, most_bytes)
                break
            if left <= 0:
                return {"late": True}
            for end in ready:
                said[end] += (chunk := os.read(end, CHUNK))
                if not chunk:
                    unread.discard(end)
            if sum(map(len, said.values())) > most_bytes:
                return {"overflow": True}
    finally:
        os.close(ended)
    if sum(map(len, said.values())) > most_bytes:
        return {"overflow": True}
    return {
        "status": os.waitstatus_to_exitcode(status),
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_memory_bytes": usage.ru_maxrss * 1024,
    }


def _drain(said: dict[int, bytearray], most_bytes: int) -> None:
    """What lies in the pipes; whoever else holds them open is not waited for."""
    for end, text in said.items():
        os.set_blocking(end, False)
        try:
            while len(text) <= most_bytes and (chunk := os.read(end, CHUNK)):
                text.extend(chunk)
        except BlockingIOError:
            pass


def find(asked: dict[str, Any]) -> dict[str, Any]:
    with open(asked["file"], encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - as above
        text = file.read()
    found: list[dict[str, str]] = []
    signal.signal(signal.SIGALRM, _too_slow)
    signal.setitimer(signal.ITIMER_REAL, asked["seconds"])
    try:
        for match in re.finditer(asked["pattern"], text, re.MULTILINE):
            named = match.groupdict()
            value = named["value"] if "value" in named else match.group(1)
            found.append({"value": value or "", "unit": named.get("unit") or ""})
            if len(found) >= asked["most"]:
                break
    except _SlowError:
        return {"slow": True}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"found": found}


def main() -> None:
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        answer = run(asked["run"]) if "run" in asked else find(asked["find"])
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
