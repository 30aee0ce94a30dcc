"""Foreign programs: limits, crashes, hangs, nonsense; nothing of theirs outlives the trial."""

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from optimizer import process
from optimizer.errors import ConfigError
from optimizer.process import MAX_LOG, Conversation, conversation, held_still, isolation, kill_all, place, run_tool
from optimizer.trial import Reason, TrialError

READY = "import sys, json, os, time, signal\n"


@contextmanager
def talk(script: str, tmp_path: Path, timeout_s: float = 20.0, memory_bytes: int = 8 << 30) -> Iterator[Conversation]:
    command = [sys.executable, "-c", READY + script]
    with conversation(command, {"FLAVOUR": "plain"}, tmp_path, timeout_s, memory_bytes) as program:
        yield program


def answer_of(script: str, tmp_path: Path, **limits: float) -> tuple[Reason, str]:
    """How a program fails that should have answered."""
    with talk(script, tmp_path, **limits) as program, pytest.raises(TrialError) as caught:  # type: ignore[arg-type]
        program.answer()
    return caught.value.reason, caught.value.log


def test_a_conversation(tmp_path: Path) -> None:
    script = (
        "for line in sys.stdin: print(json.dumps({'echo': line.strip(), 'env': os.environ['FLAVOUR']}), flush=True)"
    )
    with talk(script, tmp_path) as program:
        assert program.ask("hello") == {"echo": "hello", "env": "plain"}
        assert program.ask("run 3")["echo"] == "run 3"
        assert psutil.pid_exists(program.pid)
    assert not psutil.pid_exists(program.pid)


def test_it_runs_in_its_own_folder(tmp_path: Path) -> None:
    with talk("print(json.dumps({'cwd': os.getcwd()}), flush=True); time.sleep(60)", tmp_path) as program:
        assert program.answer()["cwd"] == str(tmp_path)


@pytest.mark.parametrize(
    ("script", "reason", "said"),
    [
        ("sys.exit(7)", Reason.CRASH, "status 7"),
        ("print('boom', file=sys.stderr); sys.exit(1)", Reason.CRASH, "boom"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", Reason.CRASH, "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGILL)", Reason.CRASH, "lacks"),
        ("os.kill(os.getpid(), signal.SIGKILL)", Reason.MEMORY, "killed by the system"),
        ("print('nonsense')", Reason.CRASH, "not JSON: 'nonsense'"),
        ("print('[1, 2]')", Reason.CRASH, "no JSON object"),
        ("print('{' * 100000)", Reason.CRASH, "not JSON"),
        ("sys.stdout.buffer.write(bytes(range(256)) + b'\\n')", Reason.CRASH, "not JSON"),
        ("print(json.dumps({'error': {'reason': 'memory', 'message': 'all gone'}}))", Reason.MEMORY, "all gone"),
        ("print(json.dumps({'error': {'reason': 'rejected', 'message': 'no such'}}))", Reason.REJECTED, "no such"),
        ("print(json.dumps({'error': {'reason': 'wrong', 'message': 'x'}}))", Reason.CRASH, "x"),
        ("print(json.dumps({'error': 'plain'}))", Reason.CRASH, "plain"),
        ("os.close(1); time.sleep(60)", Reason.CRASH, "closed its output"),
    ],
)  # fmt: skip
def test_each_way_to_fail_has_its_reason(tmp_path: Path, script: str, reason: Reason, said: str) -> None:
    found, log = answer_of(script + "\n", tmp_path)
    assert found is reason
    assert said in log


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    found, log = answer_of("time.sleep(600)", tmp_path, timeout_s=0.5)
    assert (found, "0.5 s" in log) == (Reason.TIMEOUT, True)


def test_a_program_that_ignores_sigterm_is_ended(tmp_path: Path) -> None:
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{}', flush=True); time.sleep(600)"
    with talk(script, tmp_path) as program:
        program.answer()
    assert not psutil.pid_exists(program.pid)


def test_a_program_that_prints_without_end_is_ended(tmp_path: Path) -> None:
    found, log = answer_of("while True: sys.stdout.write('x' * 65536)", tmp_path)
    assert found is Reason.CRASH
    assert "line of more than" in log


def test_a_program_that_floods_stderr_leaves_a_short_log(tmp_path: Path) -> None:
    found, log = answer_of("sys.stderr.write('y' * 5_000_000); sys.exit(1)", tmp_path)
    assert found is Reason.CRASH
    assert len(log) < MAX_LOG + 200
    assert "left out" in log


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="memory limits need prlimit (Linux)")
def test_a_program_that_allocates_without_end_meets_its_limit(tmp_path: Path) -> None:
    script = """
try:
    data = []
    time.sleep(0.3)
    while True: data.append(bytearray(1 << 26))
except MemoryError:
    print(json.dumps({'error': {'reason': 'memory', 'message': 'limit'}}))
"""
    found, _ = answer_of(script, tmp_path, memory_bytes=1 << 30)
    assert found is Reason.MEMORY


def test_children_of_a_program_go_with_it(tmp_path: Path) -> None:
    script = """
import subprocess
child = subprocess.Popen(['sleep', '600'])
print(json.dumps({'child': child.pid}), flush=True)
time.sleep(600)
"""
    with talk(script, tmp_path) as program:
        child = program.answer()["child"]
        assert psutil.pid_exists(child)
    _gone(child)


def _gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:  # before it was looked for, or since
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} lives on")


def test_a_program_that_died_between_two_questions(tmp_path: Path) -> None:
    with talk("print('{}', flush=True)", tmp_path) as program:
        program.answer()
        program._process.ended()
        with pytest.raises(TrialError) as caught:
            program.ask("run 1")
    assert caught.value.reason is Reason.CRASH


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(TrialError, match="can't be run"),
        conversation([str(tmp_path / "nobody")], {}, tmp_path, 1.0, 1 << 30),
    ):
        pass


def test_tools_tell_status_output_and_time(tmp_path: Path) -> None:
    work = "import sys; sum(range(10**7)); print('out'); print('err', file=sys.stderr); sys.exit(3)"
    done = run_tool([sys.executable, "-c", work], 20.0, tmp_path)
    assert done.status == 3
    assert set(done.output.split()) == {"out", "err"}
    assert done.wall_s > 0
    assert done.cpu_s > 0.05


def test_the_cpu_time_of_a_tool_has_its_children(tmp_path: Path) -> None:
    work = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(2*10**7))'])"
    assert run_tool([sys.executable, "-c", work], 20.0, tmp_path).cpu_s > 0.1


def test_a_tool_of_whose_end_nothing_is_heard_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs in the kernel, say; here who would tell of its end is stopped."""
    monkeypatch.setattr("optimizer.forkserver.DIE_S", 0.1)
    assert run_tool(["true"], 20.0, tmp_path).status == 0
    keeper = process._KEEPER.ready["pid"]
    stop = threading.Timer(0.3, os.kill, (keeper, signal.SIGSTOP))
    stop.start()
    done = run_tool(["sleep", "600"], 1.0, tmp_path)
    os.kill(keeper, signal.SIGCONT)
    assert done.status is None and done.cpu_s == 0.0


def test_a_tool_that_hangs_is_ended_with_all_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    work = f"""
import subprocess, time
child = subprocess.Popen(['sleep', '600'])
open({str(pid_file)!r}, 'w').write(str(child.pid))
time.sleep(600)
"""
    done = run_tool([sys.executable, "-c", work], 1.5, tmp_path)
    assert done.status is None
    _gone(int(pid_file.read_text()))


def test_a_long_log_is_shortened_from_the_middle(tmp_path: Path) -> None:
    done = run_tool([sys.executable, "-c", "print('first'); print('x' * 10**6); print('last')"], 20.0, tmp_path)
    assert done.output.startswith("first")
    assert done.output.endswith("last\n")
    assert len(done.output) < MAX_LOG + 100


def test_messages_come_in_one_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    done = run_tool([sys.executable, "-c", "import os; print(os.environ['LC_ALL'])"], 20.0, tmp_path)
    assert done.output.strip() == "C"


def test_a_missing_tool_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_tool(["no-such-compiler"], 1.0, tmp_path)


def test_an_interrupt_ends_everything_at_once(tmp_path: Path) -> None:
    with talk("print('{}', flush=True); time.sleep(600)", tmp_path) as program:
        program.answer()
        kill_all()
        with pytest.raises(TrialError):
            program.answer()


SPIN = """
import threading
def spin():
    while True: pass
threading.Thread(target=spin, daemon=True).start()
for line in sys.stdin: print('{}', flush=True)
"""


def test_a_program_that_spins_while_it_waits_is_held_still(tmp_path: Path) -> None:
    """OMP_WAIT_POLICY=active would let one finalist take the processors of the other."""

    def used_s(pid: int) -> float:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)

    with talk(SPIN, tmp_path) as program:
        program.ask("start")
        with held_still(program.pid):
            time.sleep(0.05)  # the signal arrives
            before = used_s(program.pid)
            time.sleep(0.3)
            assert used_s(program.pid) == before
        program.ask("go on")
        time.sleep(0.3)
        assert used_s(program.pid) > before


def test_only_programs_of_ours_are_held_still() -> None:
    with held_still(None), held_still(os.getpid()), held_still(os.getppid()):
        pass


def test_ctrl_c_is_for_the_search_alone(tmp_path: Path) -> None:
    with talk("print('{}', flush=True); time.sleep(600)", tmp_path) as program:
        program.answer()
        assert os.getpgid(program.pid) != os.getpgid(0)
        assert signal.getsignal(signal.SIGINT) is not None


def test_nothing_is_passed_to_a_shell(tmp_path: Path) -> None:
    word = "$(touch harmed); `touch harmed`; | touch harmed"
    done = run_tool([sys.executable, "-c", "import sys; print(sys.argv[1])", word], 20.0, tmp_path)
    assert done.output.strip() == word
    assert not (tmp_path / "harmed").exists()
    assert subprocess.run(["true"], check=False).returncode == 0


DAEMON = """
import subprocess
def daemon(variables):
    if (pid := os.fork()) != 0:
        os.waitpid(pid, 0)
        return
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    with open('pids', 'a') as file: file.write(f'{os.getpid()}\\n')
    os.execve('/bin/sleep', ['sleep', '600'], variables)
"""


@pytest.mark.parametrize("variables", ["os.environ", "{}"])
def test_a_program_that_daemonises_is_found_and_killed(tmp_path: Path, variables: str) -> None:
    """setsid and two forks: no group and no parent leads to it, nor, with an empty environment, any mark."""
    script = DAEMON + f"daemon({variables}); daemon({variables})\nprint('{{}}', flush=True); time.sleep(600)"
    with talk(script, tmp_path) as program:
        program.answer()
        until_written(tmp_path / "pids", 2)
    for pid in (tmp_path / "pids").read_text().split():
        _gone(int(pid))


def test_what_a_daemon_of_one_program_does_not_take_another_with_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with talk(DAEMON + "daemon(os.environ); print('{}', flush=True); time.sleep(600)", tmp_path / "a") as first:
        first.answer()
        until_written(tmp_path / "a" / "pids", 1)
        with talk("print('{}', flush=True); sys.exit(0)", tmp_path / "b") as second:
            second.answer()
        daemon = int((tmp_path / "a" / "pids").read_text())
        assert psutil.pid_exists(daemon)
    _gone(daemon)


def test_a_daemon_of_a_tool_goes_with_it(tmp_path: Path) -> None:
    run_tool([sys.executable, "-c", READY + DAEMON + "daemon(os.environ)\ntime.sleep(0.3)"], 20.0, tmp_path)
    _gone(int((tmp_path / "pids").read_text()))


def test_programs_die_with_the_search_by_kill_9(tmp_path: Path) -> None:
    """And so does their scratch folder, which the search removes no more."""
    (tmp_path / "scratch").mkdir()
    text = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_process import DAEMON, Path, talk
with talk(
    DAEMON + "signal.signal(signal.SIGTERM, signal.SIG_IGN); daemon(dict()); time.sleep(600)", Path('scratch')
) as p:
    print(p.pid, flush=True)
    p.answer()
"""
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, cwd=tmp_path) as search:
        assert search.stdout is not None
        program = int(search.stdout.readline())
        until_written(tmp_path / "scratch" / "pids", 1)
        daemon = int((tmp_path / "scratch" / "pids").read_text())
        search.kill()
    _gone(program)
    _gone(daemon)
    end = time.monotonic() + 20
    while (tmp_path / "scratch").exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_keeper_that_is_killed_costs_what_runs_and_no_more(tmp_path: Path) -> None:
    with talk("print('{}', flush=True); time.sleep(600)", tmp_path) as program:
        program.answer()
        os.kill(psutil.Process(program.pid).ppid(), signal.SIGKILL)
        with pytest.raises(TrialError) as caught:
            program.answer()
        assert caught.value.again
        _gone(program.pid)
    with talk("print('{}', flush=True)", tmp_path) as program:
        assert program.answer() == {}


def test_what_a_program_has_started_keeps_nobody_waiting_once_it_is_gone(tmp_path: Path) -> None:
    """Its child lives on where the keeper was killed, and holds the output open."""
    with talk(
        "import subprocess; subprocess.Popen(['sleep', '600']); print('{}', flush=True)\nwhile 1: pass", tmp_path
    ) as program:
        program.answer()
        [child] = psutil.Process(program.pid).children()
        os.kill(psutil.Process(program.pid).ppid(), signal.SIGKILL)
        with pytest.raises(TrialError) as caught:
            program.answer()
        assert caught.value.again and caught.value.reason is not Reason.TIMEOUT
    _gone(child.pid)


def test_a_program_has_a_network_of_its_own(tmp_path: Path) -> None:
    """Its own loopback works, that of the machine and what lies beyond it is not there."""
    script = """
import socket
own = socket.create_server(('127.0.0.1', 0))
socket.create_connection(own.getsockname(), 5).close()
with socket.socket() as s: s.settimeout(2); code = s.connect_ex(('127.0.0.1', {port}))
print(json.dumps({'code': code, 'interfaces': [n for _, n in socket.if_nameindex()]}), flush=True)
"""
    assert isolation()["network"] == "off", "this system allows no network namespaces"
    with socket.create_server(("127.0.0.1", 0)) as server:
        told = script.replace("{port}", str(server.getsockname()[1]))
        with talk(told, tmp_path) as program:
            answer = program.answer()
    assert answer == {"code": errno.ECONNREFUSED, "interfaces": answer["interfaces"]}
    assert "eth0" not in answer["interfaces"]


def test_a_program_that_fills_its_folder_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_FOLDER", 8 << 20)
    script = """
for i in range(10**6):
    with open(os.path.join(os.environ['TMPDIR'], f'f{i}'), 'wb') as file: file.write(bytes(1 << 20))
    time.sleep(0.02)
"""
    found, log = answer_of(script, tmp_path)
    assert (found, "files took" in log) == (Reason.CRASH, True)


def test_a_program_that_writes_one_huge_file_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_FILE", 1 << 20)
    script = "signal.signal(signal.SIGXFSZ, signal.SIG_DFL); open('big', 'wb').write(bytes(2 << 20)); time.sleep(600)"
    found, log = answer_of(script, tmp_path)
    assert (found, "SIGXFSZ" in log) == (Reason.CRASH, True)


def test_a_program_that_prints_gigabytes_to_stderr_is_ended(tmp_path: Path) -> None:
    found, log = answer_of("while True: sys.stderr.write('y' * 1_000_000)", tmp_path)
    assert (found, "printed more than" in log) == (Reason.CRASH, True)
    assert len(log) < MAX_LOG + 200


def test_the_memory_of_all_processes_of_a_program_counts(tmp_path: Path) -> None:
    script = """
for _ in range(4):
    if os.fork() == 0:
        data = b'x' * (100 << 20)
        time.sleep(600)
print('{}', flush=True)
time.sleep(600)
"""
    with talk(script, tmp_path, memory_bytes=300 << 20) as program:
        program.answer()
        with pytest.raises(TrialError) as caught:
            program.answer()
    assert caught.value.reason is Reason.MEMORY
    assert not caught.value.again


def test_a_tool_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    done = run_tool(
        [sys.executable, "-c", "x = b'x' * (300 << 20); import time; time.sleep(60)"], 30.0, tmp_path, 1 << 27
    )
    assert (done.broke, done.killed) == ("memory", False)


@pytest.mark.parametrize(
    "script",
    [
        "echo 'g++: fatal error: Killed signal terminated program cc1plus'; exit 1",
        "echo 'clang: error: unable to execute command: Killed'; exit 254",
        "echo 'collect2: fatal error: ld terminated with signal 9 [Killed]'; exit 1",
        "echo 'lto-wrapper: fatal error: g++ terminated with signal 15 [Terminated]'; exit 1",
        """echo "nvcc error   : 'cicc' died due to signal 9 (Kill signal)"; exit 9""",
        "sh -c 'kill -9 $$'; exit $?",  # the status is 137, as nvcc's is whose ptxas was killed
        "kill -9 $$",
        "kill $$",
    ],
)
def test_a_tool_of_which_a_process_was_killed_is_no_verdict_on_the_point(script: str, tmp_path: Path) -> None:
    assert run_tool(["sh", "-c", script], 20.0, tmp_path).killed


@pytest.mark.parametrize("script", ["exit 1", "echo 'error: signal 9 is not declared'; exit 1", "kill -SEGV $$"])
def test_a_tool_that_fails_by_itself_was_not_killed(script: str, tmp_path: Path) -> None:
    assert not run_tool(["sh", "-c", script], 20.0, tmp_path).killed


def test_a_compiler_that_a_program_has_started_and_that_was_killed_is_no_verdict(tmp_path: Path) -> None:
    """torch compiles in the process that is asked, and tells what its compiler said."""

    def told(message: str) -> TrialError:
        answer = json.dumps({"error": {"reason": "compile", "message": message}})
        with talk(f"print({answer!r})", tmp_path) as program, pytest.raises(TrialError) as caught:
            program.answer()
        assert caught.value.reason is Reason.COMPILE
        return caught.value

    assert told("CppCompileError: g++: fatal error: Killed signal terminated program cc1plus").again
    assert not told("CppCompileError: expected ';'").again


def test_programs_start_at_once_from_many_threads(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda i: run_tool(["sh", "-c", f"exit {i}"], 20.0, tmp_path), range(24)))
    assert [d.status for d in done] == list(range(24))


def until_written(file: Path, lines: int) -> None:
    end = time.monotonic() + 20
    while not file.exists() or file.read_text().count("\n") < lines:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def placed_anywhere() -> Iterator[None]:
    yield
    place((), 0)


@pytest.mark.usefixtures("placed_anywhere")
def test_programs_run_where_and_as_politely_as_asked_and_tools_do_not(tmp_path: Path) -> None:
    one = min(os.sched_getaffinity(0))
    place({one}, 3)
    script = "print(json.dumps({'cpus': list(os.sched_getaffinity(0)), 'nice': os.nice(0)}), flush=True)"
    with talk(script, tmp_path) as program:
        assert program.answer() == {"cpus": [one], "nice": min(19, os.nice(0) + 3)}
    tool = run_tool([sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"], 20.0, tmp_path)
    assert int(tool.output) == len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("placed_anywhere")
def test_processors_that_are_not_ours_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"names processors 4000-4001"):
        place({4000, 4001}, 0)


def test_a_priority_that_is_not_allowed_is_refused_before_anything_runs() -> None:
    script = """
import ctypes, resource
from optimizer.errors import ConfigError
from optimizer.process import place
resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
ctypes.CDLL(None).prctl(24, 23, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_NICE: what is executed from now on lacks it
try:
    place((), -5)
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "measure.nice=-5" in done.stdout and "ulimit -e" in done.stdout
