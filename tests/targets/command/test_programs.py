"""Every way in which somebody's program can misbehave, and what its run cost."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optimizer.device import Host
from optimizer.targets.command.programs import MAX_OUTPUT, Programs, programs
from optimizer.trial import Reason, TrialError

TIMEOUT_S = 20.0


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Programs]:
    with programs({}, {"GREETING": "hello"}, tmp_path, TIMEOUT_S, 4 << 30) as made:
        yield made


def failure(started: Programs, *command: str, folder: Path) -> TrialError:
    with pytest.raises(TrialError) as error:
        started.run(command, folder, {}, Reason.CRASH)
    return error.value


def test_what_it_prints_is_kept_apart_and_its_cost_is_told(started: Programs, tmp_path: Path) -> None:
    ran = started.run(["sh", "-c", "echo $GREETING; pwd; echo no >&2"], tmp_path, {"MORE": "1"}, Reason.CRASH)
    assert ran.stdout.read_text().splitlines() == ["hello", str(tmp_path)]
    assert ran.stderr.read_text() == "no\n"
    assert ran.wall_s > 0
    assert ran.cpu_s >= 0


def test_peak_memory_is_the_programs_own_and_that_of_what_it_starts(started: Programs, tmp_path: Path) -> None:
    hungry = "python3 -c 'x = bytearray(120 << 20)'"
    small = started.run(["sh", "-c", ":"], tmp_path, {}, Reason.CRASH)
    large = started.run(["sh", "-c", f"{hungry}; true"], tmp_path, {}, Reason.CRASH)
    assert small.peak_memory_bytes < 32 << 20
    assert 120 << 20 < large.peak_memory_bytes < 200 << 20


def test_processor_time_of_what_it_starts_counts_as_the_searchs_own(started: Programs, tmp_path: Path) -> None:
    with Host().watch(started.talk.pid) as telemetry:
        ran = started.run(
            ["sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; true"], tmp_path, {}, Reason.CRASH
        )
    assert ran.cpu_s > 0.05
    assert "foreign_load_pct" in telemetry.samples


@pytest.mark.parametrize(
    ("script", "reason", "why"),
    [
        ("echo out; echo err >&2; exit 7", Reason.CRASH, "ended with status 7"),
        ("kill -SEGV $$", Reason.CRASH, "ended by SIGSEGV"),
        ("kill -KILL $$", Reason.MEMORY, "killed by the system"),
        ("exec yes", Reason.CRASH, "printed more than 8 MiB"),
        ("exec yes >&2", Reason.CRASH, "printed more than 8 MiB"),
        ("exec head -c 2000000000 /dev/zero > big", Reason.CRASH, "SIGXFSZ"),
        ("exec python3 -c 'x = bytearray(8 << 30)'", Reason.CRASH, "MemoryError"),
    ],
)
def test_a_program_that_misbehaves_fails_its_trial(
    script: str, reason: Reason, why: str, started: Programs, tmp_path: Path
) -> None:
    error = failure(started, "sh", "-c", script, folder=tmp_path)
    assert error.reason is reason
    assert why in error.log
    assert len(error.log) < 40_000


def test_what_somebody_else_killed_is_no_verdict_on_the_point(started: Programs, tmp_path: Path) -> None:
    def told(script: str, failing: Reason) -> bool:
        with pytest.raises(TrialError) as caught:
            started.run(["sh", "-c", script], tmp_path, {}, failing)
        return caught.value.again

    linker = "echo 'collect2: fatal error: ld terminated with signal 9 [Killed]' >&2; exit 2"
    assert told("kill -KILL $$", Reason.CRASH)
    assert told(linker, Reason.COMPILE)
    assert not told(linker, Reason.CRASH)  # a program under test may print what it likes
    assert not told("exit 2", Reason.COMPILE)


def test_the_end_of_what_it_printed_is_in_the_log(started: Programs, tmp_path: Path) -> None:
    log = failure(started, "sh", "-c", "seq 100000; echo the end; exit 1", folder=tmp_path).log
    assert "the end" in log
    assert log.count("\n") < 8_000


def test_output_below_the_limit_is_whole(started: Programs, tmp_path: Path) -> None:
    ran = started.run(["head", "-c", str(MAX_OUTPUT), "/dev/zero"], tmp_path, {}, Reason.CRASH)
    assert ran.stdout.stat().st_size == MAX_OUTPUT


def test_a_program_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    with (
        programs({}, {}, tmp_path, 0.5, None) as started,
        pytest.raises(TrialError, match=r"took more than 0\.5 s"),
    ):
        started.run(["sh", "-c", "echo begun; echo $$ > pid; sleep 600 & sleep 600"], tmp_path, {}, Reason.CRASH)
    group = int((tmp_path / "pid").read_text())
    _eventually(lambda: not Path(f"/proc/{group}").exists())


def test_what_it_leaves_in_the_background_is_not_waited_for(started: Programs, tmp_path: Path) -> None:
    ran = started.run(["sh", "-c", "sleep 600 & echo done"], tmp_path, {}, Reason.CRASH)
    assert ran.stdout.read_text() == "done\n"


def test_a_program_that_is_not_there_fails_its_trial(started: Programs, tmp_path: Path) -> None:
    assert "can't be run" in failure(started, str(tmp_path / "none"), folder=tmp_path).log
    (tmp_path / "text").write_text("no program")
    assert "can't be run" in failure(started, str(tmp_path / "text"), folder=tmp_path).log


def test_a_pattern_that_backtracks_is_ended(started: Programs, tmp_path: Path) -> None:
    (tmp_path / "said").write_text("a" * 60 + "!")
    with pytest.raises(TrialError, match="it backtracks"):
        started.found(r"(a+)+$", tmp_path / "said")
    assert started.found(r"a(?P<value>!)", tmp_path / "said") == [{"value": "!", "unit": ""}]


def _eventually(holds: Callable[[], bool]) -> None:
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    pytest.fail("it did not come about")
