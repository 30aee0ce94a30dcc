"""Fork servers: what they do when they are killed, when they can't start, and in a process that was forked."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from optimizer import keeper
from optimizer.errors import ConfigError
from optimizer.forkserver import ForkServer, NotStartedError
from optimizer.process import request_of, run_tool

COMMAND = (sys.executable, "-I", "-S", keeper.__file__, "{socket}")


def status_of(server: ForkServer, command: list[str], folder: Path, start_s: float = 20.0) -> int:
    request = request_of(os.environ, str(folder), None, (1 << 20, 1 << 20), reserves=True, watch_s=0.1)
    with (
        tempfile.TemporaryFile() as output,
        server.child(request | {"command": command}, output, start_s, stdout=output) as child,
    ):
        return child.ended(20.0).status


def test_a_server_that_is_killed_while_it_starts_is_started_again(tmp_path: Path) -> None:
    script = f"""
import os, sys
if not os.path.exists({str(tmp_path / "once")!r}):
    open({str(tmp_path / "once")!r}, 'w').close()
    os.kill(os.getpid(), 9)
os.execv(sys.executable, [sys.executable, '-I', '-S', {keeper.__file__!r}, sys.argv[1]])
"""
    server = ForkServer((sys.executable, "-c", script, "{socket}"), {}, "x")
    assert status_of(server, ["sh", "-c", "exit 5"], tmp_path) == 5
    server.close()


def test_one_that_is_always_killed_says_so(tmp_path: Path) -> None:
    server = ForkServer((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"), {}, "Measuring")
    with pytest.raises(ConfigError, match="Measuring needs a process that did not start"):
        status_of(server, ["true"], tmp_path)


def test_one_that_was_killed_is_started_anew_at_the_next_request(tmp_path: Path) -> None:
    server = ForkServer(COMMAND, {}, "x")
    os.kill(server.ready["pid"], signal.SIGKILL)
    assert status_of(server, ["sh", "-c", "exit 5"], tmp_path) == 5
    server.close()


def test_one_that_is_stopped_is_replaced_and_its_programs_with_it(tmp_path: Path) -> None:
    server = ForkServer(COMMAND, {}, "x")
    stuck = server.ready["pid"]
    os.kill(stuck, signal.SIGSTOP)
    assert status_of(server, ["sh", "-c", "exit 5"], tmp_path, 0.5) == 5
    assert server.ready["pid"] != stuck
    server.close()


def test_what_can_not_be_run_is_told_with_its_reason(tmp_path: Path) -> None:
    server = ForkServer(COMMAND, {}, "x")
    with pytest.raises(NotStartedError) as caught:
        status_of(server, [str(tmp_path)], tmp_path)
    assert caught.value.errno == 13
    server.close()


def test_a_fork_of_the_search_has_a_server_of_its_own(tmp_path: Path) -> None:
    assert run_tool(["true"], 20.0, tmp_path).status == 0
    if (pid := os.fork()) == 0:
        status = 1
        try:
            status = run_tool(["sh", "-c", "exit 7"], 20.0, tmp_path).status or 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert run_tool(["true"], 20.0, tmp_path).status == 0
