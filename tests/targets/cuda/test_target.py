"""A CUDA kernel as a target: what is built of a point, what runs it, and what is said where nothing can."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import pytest

from optimizer.resources import kernels_dir
from optimizer.space import Choice, Effect, Int, Knob, Point, Space
from optimizer.targets.cuda.compile import Built
from optimizer.targets.cuda.host import HostCheck
from optimizer.targets.cuda.target import CompiledOnly, CudaTarget, Scenario
from optimizer.targets.native import Limits
from optimizer.trial import Reason, TrialError

SOURCE = """
#include "device.cuh"
#ifndef WIDTH
#define WIDTH 1
#endif
extern "C" __global__ void twice(const float* x, float* y, int n) {
  const int i = (blockIdx.x * BLOCK_THREADS + threadIdx.x) * WIDTH;
  for (int j = 0; j < WIDTH; ++j)
    if (i + j < n) y[i + j] = FACTOR * x[i + j];
}
"""
LAUNCH = '''
"""Twice a vector."""
import numpy as np
from optimizer.targets.cuda.plan import Block, Case, Compared, Launch, Work


class Operation:
    tensor_cores = False
    facts = {"flop": 37.0}

    def __init__(self, options, files, knobs):
        self.width, self.n = int(knobs["WIDTH"]), int(options.get("n", 37))
        self.macros, self.blocks = {"BLOCK_THREADS": 32}, {"twice": Block(32)}
        self.tensor_cores = bool(knobs.get("TENSOR", False))

    def scenario(self):
        x = np.arange(self.n, dtype=np.float32)
        grid = (-(-self.n // (32 * self.width)), 1, 1)
        launch = Launch("twice", grid, (32, 1, 1), ("x", "y", np.int32(self.n)))
        return Work({"x": x, "y": np.full(self.n, np.nan, np.float32)}, {"run": (launch,)}, ("y",))

    def small(self):
        expected = 2 * np.arange(self.n, dtype=np.float64)
        return [Case("whole", self.scenario(), Compared("y", expected), {"max_rel_error": 0.0})]

    def full(self):
        return self.small()

    def readings(self, seconds):
        return {"latency_s": seconds["run"]}
'''


@dataclass
class Recorder:
    """A toolchain that compiles nothing."""

    name: str = "nvrtc"
    version: str = "nvrtc 13.0"
    archs: tuple[str, ...] = ("sm_80", "sm_90")
    asked: list[tuple[tuple[str, ...], str]] = field(default_factory=list)

    def compile(
        self, source: Path, include: Path, words: Sequence[str], arch: str, folder: Path, timeout_s: float
    ) -> Built:
        self.asked.append((tuple(words), arch))
        return Built(cubin=" ".join(words).encode(), log="", command=("nvrtc", *words), facts={"compile_time_s": 0.5})


SPACE = Space(
    (
        Knob("WIDTH", Int(1, 4), Effect("macro", "WIDTH", ("{value}",)), 1),
        Knob("FACTOR", Int(1, 2), Effect("macro", "FACTOR", ("{value}",)), 2),
        Knob("fmad", Choice((True, False)), Effect("flag", table=((False, ("--fmad=false",)),)), True),
        Knob("arch", Choice(("sm_80", "sm_90")), Effect("setting", "arch", ("{value}",)), "sm_90"),
    )
)


@pytest.fixture(autouse=True)
def no_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fake compiler makes is no cubin to take facts from."""
    monkeypatch.setattr("optimizer.targets.cuda.target.facts_of", lambda *_: {"registers": 8.0})
    monkeypatch.setattr("optimizer.targets.cuda.target.code_key", lambda cubin: str(cubin.count(b"DWIDTH=1")))


def target(folder: Path, *, source: str = SOURCE, launch: str = LAUNCH, gpu: str | None = None) -> CudaTarget:
    kernel = folder / "twice"
    kernel.mkdir(exist_ok=True)
    (kernel / "twice.cu").write_text(source, encoding="utf-8")
    (kernel / "launch.py").write_text(dedent(launch), encoding="utf-8")
    return CudaTarget(
        source=kernel / "twice.cu",
        launch=kernel / "launch.py",
        include=kernels_dir(),
        scenario=Scenario({"n": "37"}),
        space=SPACE,
        toolchains={"nvrtc": Recorder()},
        arch="sm_90",
        gpu=gpu,
        folder=folder / "build",
        limits=Limits(60.0, 8 << 30),
        check=HostCheck.found(folder / "build", 60.0),
    )


def point(**values: int | str | bool) -> Point:
    return Point({**SPACE.baseline({}), **values})


def test_words_are_flags_and_macros_then_what_launch_derives(tmp_path: Path) -> None:
    made = target(tmp_path)
    words = made.words(point(fmad=False, WIDTH=3), made.operation(point(WIDTH=3)))
    assert words == ("-DWIDTH=3", "-DFACTOR=2", "--fmad=false", "-DBLOCK_THREADS=32")


def test_a_build_is_kept_and_made_anew_where_building_is_measured(tmp_path: Path) -> None:
    made = target(tmp_path)
    toolchain = made.toolchains["nvrtc"]
    assert isinstance(toolchain, Recorder)
    first, again = made.build(point()), made.build(point())
    assert len(toolchain.asked) == 1
    assert first.facts == {"registers": 8.0, "compile_time_s": 0.5}
    assert again.facts == {**first.facts, "build_cached": 1.0}
    assert Path(first.path).read_bytes()
    made.build(point(), fresh=True)
    assert len(toolchain.asked) == 2


def test_the_architecture_is_the_point_s(tmp_path: Path) -> None:
    made = target(tmp_path)
    toolchain = made.toolchains["nvrtc"]
    assert isinstance(toolchain, Recorder)
    assert made.build(point(arch="sm_80")).key != made.build(point()).key
    assert [arch for _, arch in toolchain.asked] == ["sm_80", "sm_90"]


def test_flags_alone_leave_the_identity_to_the_machine_code(tmp_path: Path) -> None:
    """What launch.py can't see is no difference in how a kernel runs."""
    made = target(tmp_path)
    assert made.build(point(fmad=False)).identity == made.build(point()).identity
    assert made.build(point(WIDTH=2)).identity != made.build(point()).identity


def test_without_a_gpu_the_processor_checks_and_nothing_is_measured(tmp_path: Path) -> None:
    made = target(tmp_path)
    with made.open(made.build(point(WIDTH=3))) as runner:
        assert isinstance(runner, CompiledOnly)
        assert runner.verify().errors == {"max_rel_error": 0.0}
        assert runner.run(5) == {}
        assert runner.facts == {}


def test_a_wrong_kernel_fails_without_a_gpu_too(tmp_path: Path) -> None:
    made = target(tmp_path)
    with made.open(made.build(point(FACTOR=1))) as runner, pytest.raises(TrialError) as raised:
        runner.verify()
    assert raised.value.reason is Reason.WRONG


def test_a_kernel_that_reads_beyond_its_buffer_crashes(tmp_path: Path) -> None:
    made = target(tmp_path, source=SOURCE.replace("if (i + j < n) ", ""))
    with made.open(made.build(point())) as runner, pytest.raises(TrialError) as raised:
        runner.verify()
    assert raised.value.reason is Reason.CRASH


def test_tensor_cores_are_unverified_without_a_gpu(tmp_path: Path) -> None:
    made = target(tmp_path, launch=LAUNCH.replace('bool(knobs.get("TENSOR", False))', "True"))
    with made.open(made.build(point())) as runner:
        assert runner.facts == {"unverified": 1.0}


def test_sources_beside_and_above_are_in_the_fingerprint(tmp_path: Path) -> None:
    first = target(tmp_path).fingerprint()
    (tmp_path / "twice" / "table.cuh").write_text("// new", encoding="utf-8")
    second = target(tmp_path).fingerprint()
    assert first["sources"] != second["sources"]
    assert {k: v for k, v in first.items() if k != "sources"} == {k: v for k, v in second.items() if k != "sources"}


def test_a_gpu_s_process_gets_the_point_and_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner is asked for with what it needs; its words carry no path that another host would not have."""
    monkeypatch.setattr("optimizer.targets.cuda.target.RUNNER_MODULE", "echo_runner")
    (tmp_path / "echo_runner.py").write_text(
        "import json, os, sys\n"
        'print(json.dumps({"ready": {"load_s": 0, "facts": {"words": len(sys.argv),\n'
        '  "gpu": float(os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-1")}}}), flush=True)\n'
        "sys.stdin.read()\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = target(tmp_path, gpu="GPU-1")
    artifact = made.build(point())
    assert not any(str(tmp_path) in word for word in artifact.arguments)
    with made.open(artifact) as runner:
        facts: Mapping[str, float] = runner.facts
        assert facts["gpu"] == 1.0
        assert facts["words"] > 5


def test_a_compiler_that_is_not_here_is_a_rejected_point(tmp_path: Path) -> None:
    made = target(tmp_path)
    with pytest.raises(TrialError) as raised:
        made.build(Point({**point(), "compiler": "nvcc"}))
    assert raised.value.reason is Reason.REJECTED
