"""The process that runs CUDA kernels: its words, its arithmetic, its failures, with a GPU made of NumPy."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.targets.cuda.gpu import GpuError, reason_of
from optimizer.targets.cuda.plan import Array, Case, Launch, Work, combined
from optimizer.targets.cuda.runner import MAX_REPEATS, MIN_READING_S, serve, settings_from
from optimizer.trial import Check, Reason

AXPY = Path(__file__).with_name("axpy.py")


@dataclass
class NumpyGpu:
    """Runs `axpy` in NumPy; every run of a phase takes `run_s` on its clock, the first a hundred times as long."""

    run_s: float = 1e-4
    fails: GpuError | None = None  # what the first run raises
    capacity_bytes: int = 1 << 20
    used_bytes: int = 0
    most_bytes: int = 0
    asked: list[tuple[int, bool]] = field(default_factory=list)
    graphs: set[bool] = field(default_factory=set)

    def load(self, work: Work, *, graph: bool) -> "NumpyLoaded":
        self.graphs.add(graph)
        size = sum(a.nbytes for a in work.buffers.values())
        if self.used_bytes + size > self.capacity_bytes:
            raise GpuError(Reason.MEMORY, "CUDA_ERROR_OUT_OF_MEMORY")
        self.used_bytes += size
        self.most_bytes = max(self.most_bytes, self.used_bytes)
        return NumpyLoaded(self, work, {name: a.copy() for name, a in work.buffers.items()}, size)


@dataclass
class NumpyLoaded:
    gpu: NumpyGpu
    work: Work
    memory: dict[str, Array]
    bytes_held: int

    def run(self, repeats: int, *, flush_l2: bool) -> Mapping[str, float]:
        if self.gpu.fails is not None:
            raise self.gpu.fails
        self.gpu.asked.append((repeats, flush_l2))
        for launch in self.work.launches:
            self._launch(launch)
        slow = 100 if len(self.gpu.asked) == 1 else 1
        return {name: repeats * slow * self.gpu.run_s * (i + 1) for i, name in enumerate(self.work.phases)}

    def _launch(self, launch: Launch) -> None:
        if launch.kernel == "forgetful":
            return  # y keeps the NaN that it starts with
        y, x, a, n = launch.arguments
        assert isinstance(y, str)
        assert isinstance(x, str)
        self.memory[y][: int(n)] = a * self.memory[x][: int(n)]

    def outputs(self) -> Mapping[str, Array]:
        return {name: self.memory[name] for name in self.work.outputs}

    def close(self) -> None:
        self.gpu.used_bytes -= self.bytes_held


def talk(gpu: NumpyGpu, asked: Sequence[str], *words: str, **options: str) -> tuple[list[dict[str, Any]], int]:
    said: list[str] = []
    settings = settings_from(
        [f"--cubin={AXPY}", f"--launch={AXPY}", "--knobs={}", f"--options={json.dumps(options)}", *words]
    )
    status = serve(settings, lambda _: gpu, asked, said.append)
    assert all("\n" not in line for line in said)
    return [json.loads(line) for line in said], status


def test_it_says_what_the_harness_says() -> None:
    (ready, check, samples), status = talk(NumpyGpu(), ["verify\n", "run 3\n", "quit\n", "run 1\n"])
    assert status == 0
    assert ready["ready"]["facts"] == {"flop": 1000.0, "bytes_moved": 8000.0}
    assert ready["ready"]["load_s"] > 0
    assert check["check"] == {
        "errors": {"max_rel_error": 0.0},
        "tolerances": {"max_rel_error": 1e-6},
        "quality": {"accuracy": 0.5},
    }
    found = samples["samples"]
    assert found["latency_s"] == pytest.approx([1e-4] * 3)
    assert found["throughput_ips"] == pytest.approx([1e4] * 3)
    assert found["achieved_flop_per_s"] == pytest.approx([1e7] * 3)
    assert found["achieved_bytes_per_s"] == pytest.approx([8e7] * 3)
    assert len(found["cpu_time_s"]) == 3
    assert found["peak_gpu_memory_bytes"] == [8000.0]


def test_short_runs_are_repeated_within_a_reading_and_a_reading_is_their_mean() -> None:
    gpu = NumpyGpu(run_s=1e-5)
    gpu.asked.append((0, False))  # no first run that takes longer
    (_, samples, more), _ = talk(gpu, ["run 2", "run 2"])
    repeats = [n for n, _ in gpu.asked[1:]]
    assert repeats[0] == 1
    assert repeats[-4:] == [repeats[-1]] * 4
    assert MIN_READING_S / 2 <= repeats[-1] * 1e-5 <= 2 * MIN_READING_S
    assert samples["samples"]["latency_s"] == pytest.approx([1e-5] * 2)
    assert len(more["samples"]["latency_s"]) == 2


def test_a_run_that_takes_no_time_is_not_repeated_for_ever() -> None:
    gpu = NumpyGpu(run_s=1e-12)
    gpu.asked.append((0, False))
    talk(gpu, ["run 1"])
    assert gpu.asked[-1][0] == MAX_REPEATS


def test_a_long_run_is_not_run_once_more_to_calibrate() -> None:
    gpu = NumpyGpu(run_s=1.0)
    talk(gpu, ["run 2"])
    assert [n for n, _ in gpu.asked] == [1, 1]


def test_phases_are_told_apart() -> None:
    gpu = NumpyGpu(run_s=1e-2)
    gpu.asked.append((0, False))
    (_, samples), _ = talk(gpu, ["run 1"], phases="prefill,decode")
    assert samples["samples"]["latency_s"] == pytest.approx([3e-2])
    assert samples["samples"]["tokens_per_s"] == pytest.approx([8 / 2e-2])


@pytest.mark.parametrize("on", [True, False])
def test_flush_and_graph_are_passed_on_and_verification_needs_no_flush(on: bool) -> None:
    gpu, word = NumpyGpu(), str(on).lower()
    talk(gpu, ["verify", "run 1"], f"--flush-l2={word}", f"--graph={word}")
    assert gpu.asked[0] == (1, False)
    assert gpu.asked[-1][1] is on
    assert gpu.graphs == {on}


def test_verifying_and_running_never_hold_memory_together() -> None:
    gpu = NumpyGpu()
    talk(gpu, ["run 1", "verify", "run 1"])
    assert gpu.most_bytes == 8008
    assert gpu.used_bytes == 8000


def test_a_wrong_answer_is_told_with_what_was_allowed() -> None:
    (_, check), status = talk(NumpyGpu(), ["verify"], expected="2.6")
    assert status == 0
    assert check["check"]["errors"]["max_rel_error"] == pytest.approx(0.1 / 2.6)
    assert check["check"]["tolerances"] == {"max_rel_error": 1e-6}


def test_what_is_not_finite_is_null() -> None:
    (_, check), _ = talk(NumpyGpu(), ["verify"], kernel="forgetful")
    assert check["check"]["errors"] == {"max_rel_error": None}


def _case(name: str, tolerance: float) -> Case:
    return Case(name, Work({}, {}), lambda _: Check(), {"max_rel_error": tolerance})


def test_of_several_cases_the_one_nearest_its_tolerance_is_told() -> None:
    errors, tolerances = combined(
        [(_case("a", 0.1), Check({"max_rel_error": float("nan")})), (_case("b", 0.2), Check({"max_rel_error": 0.2}))]
    )
    assert np.isnan(errors.errors["max_rel_error"]), "nothing is worse than what is no number"
    assert tolerances == {"max_rel_error": 0.1}
    judged = [
        (_case("loose", 1.0), Check({"max_rel_error": 0.5}, {"perplexity": 3.0})),
        (_case("tight", 1e-3), Check({"max_rel_error": 9e-4, "other": 0.0})),
    ]
    check, tolerances = combined(judged)
    assert check.errors == {"max_rel_error": 9e-4, "other": 0.0}
    assert tolerances == {"max_rel_error": 1e-3, "other": 0.0}
    assert check.quality == {"perplexity": 3.0}


@pytest.mark.parametrize(
    ("gpu", "options", "reason", "says"),
    [
        (NumpyGpu(fails=GpuError(Reason.CRASH, "run: CUDA_ERROR_ILLEGAL_ADDRESS")), {}, "crash", "ILLEGAL_ADDRESS"),
        (NumpyGpu(capacity_bytes=100), {}, "memory", "OUT_OF_MEMORY"),
        (NumpyGpu(), {"n": "0"}, "rejected", "n=0 is not at least 1"),
    ],
    ids=["illegal access", "memory", "options out of range"],
)
def test_a_failure_is_told_with_its_reason(gpu: NumpyGpu, options: dict[str, str], reason: str, says: str) -> None:
    answers, status = talk(gpu, ["verify"], **options)
    assert status == 3
    assert answers[-1]["error"]["reason"] == reason
    assert says in answers[-1]["error"]["message"]


@pytest.mark.parametrize("asked", ["runs 3", "run", "run 0", "run -1", "run x", ""])
def test_a_word_that_it_does_not_know_ends_it(asked: str) -> None:
    answers, status = talk(NumpyGpu(), [asked])
    assert status == 3
    assert "it knows: verify, run N, quit" in answers[-1]["error"]["message"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("CUDA_ERROR_OUT_OF_MEMORY: …", Reason.MEMORY),
        ("CUDA_ERROR_NO_BINARY_FOR_GPU: …", Reason.REJECTED),
        ("CUDA_ERROR_ILLEGAL_ADDRESS: …", Reason.CRASH),
        ("CUDA_ERROR_LAUNCH_FAILED: …", Reason.CRASH),
        ("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: …", Reason.CRASH),
    ],
)
def test_errors_of_cuda_have_their_reasons(message: str, reason: Reason) -> None:
    assert reason_of(message) is reason


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed leaves no runner behind, even one that waits for a line that never comes."""
    started = tmp_path / "started"
    slow = f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\ntime.sleep(600)\n"
    (tmp_path / "slow.py").write_text(slow, encoding="utf-8")
    command = [sys.executable, "-m", "optimizer.targets.cuda.runner", "--cubin=none", f"--launch={tmp_path}/slow.py"]
    script = f"import subprocess, sys, time\nprint(subprocess.Popen({command!r}).pid, flush=True)\ntime.sleep(600)\n"
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    runner = int(parent.stdout.readline())
    while not started.exists():
        time.sleep(0.01)
    os.kill(runner, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while _lives(runner):
        assert time.monotonic() < deadline, "the runner outlived its parent"
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
