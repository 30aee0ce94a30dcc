"""What cuda-core is asked to do, seen from below: a stand-in for the driver, and the runner as the search starts it."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
from cuda_setups import setup_of
from fake_nvml import FakeNvml
from faulty_cuda import REASONS, faulty_target, searched, told
from simple import FakeDevice
from test_telemetry import answering

from optimizer.process import conversation
from optimizer.targets.cuda.compile import Nvrtc
from optimizer.targets.cuda.target import CudaTarget
from optimizer.targets.native import NativeRunner
from optimizer.trial import Failed, Reason, TrialError, samples_of

HERE = Path(__file__).parent
DRIVER, AXPY = HERE / "driver.cpp", HERE / "axpy.py"


def cuda_header() -> Path | None:
    """cuda.h of the wheel that the extra `cuda` installs, or of a toolkit."""
    places = [Path("/usr/local/cuda/include/cuda.h")]
    for name in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"):
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
        places = [Path(str(f.locate())) for f in files if f.name == "cuda.h"] + places
    return next((p for p in places if p.is_file()), None)


MISSING = next(
    (
        what
        for what, here in {
            "cuda-core (pip install 'inference-optimizer[cuda]')": importlib.util.find_spec("cuda") is not None
            and importlib.util.find_spec("cuda.core") is not None,
            "cuda.h (pip install nvidia-cuda-runtime)": cuda_header() is not None,
            "g++": shutil.which("g++") is not None,
        }.items()
        if not here
    ),
    None,
)
pytestmark = [pytest.mark.extra, pytest.mark.skipif(MISSING is not None, reason=f"needs {MISSING}")]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libcuda.so.1."""
    folder, header = tmp_path_factory.mktemp("driver"), cuda_header()
    assert header is not None
    words = ["g++", "-O1", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", "-Wno-cast-function-type"]
    library = folder / "libcuda.so.1"
    subprocess.run([*words, f"-I{header.parent}", str(DRIVER), "-o", str(library), "-ldl"], check=True)
    return folder


class Bench:
    """The runner on the stand-in driver, and what the driver was told."""

    def __init__(self, driver: Path, folder: Path) -> None:
        self._driver, self._folder = driver, folder
        self._log = folder / "driver.log"
        (folder / "kernel.cubin").write_text("code", encoding="utf-8")
        (folder / "another.cubin").write_text("another architecture", encoding="utf-8")

    @contextmanager
    def runner(
        self, *words: str, cubin: str = "kernel", timeout_s: float = 60.0, **options: str
    ) -> Iterator[NativeRunner]:
        command = [
            *(
                sys.executable,
                "-m",
                "optimizer.targets.cuda.runner",
                f"--cubin={self._folder / cubin}.cubin",
                f"--launch={AXPY}",
            ),
            *(f"--options={json.dumps(options)}", '--knobs={"block": 64}', *words),
        ]
        environment = {"LD_LIBRARY_PATH": str(self._driver), "DRIVER_LOG": str(self._log)}
        with conversation(command, environment, self._folder, timeout_s, None) as program:
            yield NativeRunner(program, program.answer())

    @property
    def told(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def bench(driver: Path, tmp_path: Path) -> Bench:
    return Bench(driver, tmp_path)


def test_arguments_arrive_and_answers_come_back(bench: Bench) -> None:
    with bench.runner() as runner:
        check = runner.verify()
        samples = runner.run(2)
    assert dict(check.errors) == {"max_rel_error": 0.0}
    assert dict(check.quality) == {"accuracy": 0.5}
    assert len(samples["latency_s"]) == 2
    assert all(latency > 0 for latency in samples["latency_s"])
    assert samples["peak_gpu_memory_bytes"] == (8000.0,)
    assert runner.facts["flop"] == 1000.0
    launches = {line for line in bench.told if line.startswith("launch")}
    assert launches == {"launch axpy grid 16,1,1 block 64,1,1 shared 0"}
    assert "event timed blocking" in bench.told
    assert not any("untimed" in line or "flush" in line for line in bench.told)


def test_every_run_finds_the_cache_flushed_when_asked(bench: Bench) -> None:
    with bench.runner("--flush-l2=true") as runner:
        runner.run(1)
    steps = [line.split()[0] for line in bench.told if line.split()[0] in ("flush", "record", "launch")]
    assert len(steps) > 4
    assert steps == ["flush", "record", "launch", "record"] * (len(steps) // 4), "the flush is outside the events"
    assert f"flush {2 * (3 << 20)}" in bench.told


def test_without_flushing_runs_follow_each_other(bench: Bench) -> None:
    with bench.runner() as runner:
        runner.run(1)
    steps = [line.split()[0] for line in bench.told if line.split()[0] in ("record", "launch")]
    last = len(steps) - 1 - steps[-2::-1].index("record") - 1
    assert steps[last] == steps[-1] == "record"
    assert len(steps) - last > 3
    assert set(steps[last + 1 : -1]) == {"launch"}


def test_phases_of_one_run_are_timed_apart(bench: Bench) -> None:
    with bench.runner(phases="prefill,decode") as runner:
        samples = runner.run(1)
    steps = [line.split()[0] for line in bench.told if line.split()[0] in ("record", "launch")]
    assert steps == ["record", "launch", "record", "launch", "record"] * (len(steps) // 5)
    assert samples["tokens_per_s"][0] > 8 / samples["latency_s"][0]


def test_a_graph_is_captured_once_and_gives_the_same(bench: Bench) -> None:
    with bench.runner("--graph=true") as runner:
        assert dict(runner.verify().errors) == {"max_rel_error": 0.0}
        runner.run(1)
    launches = [line for line in bench.told if line.startswith("launch")]
    graphs = [line for line in bench.told if line.startswith("graph")]
    assert len(launches) == 4, "captured: two cases, the scenario at the start and after verifying"
    assert len(graphs) > 4
    assert set(graphs) == {"graph of 1"}


def test_more_shared_memory_than_the_default_is_asked_for_once(bench: Bench) -> None:
    with bench.runner(shared_bytes=str(64 << 10)) as runner:
        runner.verify()
    assert [line for line in bench.told if line.startswith("allow")] == [f"allow {64 << 10}"]
    with bench.runner(shared_bytes=str(48 << 10)) as runner:
        runner.verify()
    assert len([line for line in bench.told if line.startswith("allow")]) == 1, "the default needs no asking"


def test_memory_is_given_back_before_verifying(bench: Bench) -> None:
    with bench.runner() as runner:
        runner.verify()
    steps = [tuple(line.split()) for line in bench.told if line.split()[0] in ("allocate", "free")]
    scenario = [("allocate", "4000")] * 2 + [("free", "4000")] * 2
    assert steps[:4] == scenario
    assert steps[4:8] == scenario
    assert steps[8:12] == [("allocate", "4004")] * 2 + [("free", "4004")] * 2


def failure(bench: Bench, options: dict[str, str], *, cubin: str = "kernel", timeout_s: float = 60.0) -> TrialError:
    opened = bench.runner(cubin=cubin, timeout_s=timeout_s, **options)
    with pytest.raises(TrialError) as caught, opened as runner:
        runner.verify()
    return caught.value


@pytest.mark.parametrize(
    ("options", "reason", "says"),
    [
        ({"kernel": "illegal"}, Reason.CRASH, "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ({"kernel": "absent"}, Reason.CRASH, "CUDA_ERROR_NOT_FOUND"),
        ({"shared_bytes": str(128 << 10)}, Reason.CRASH, "CUDA_ERROR_INVALID_VALUE"),
        ({"extra_bytes": str(5 << 30)}, Reason.MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"),
        ({"n": "0"}, Reason.REJECTED, "n=0 is not at least 1"),
        ({"expected": "2.6"}, Reason.WRONG, "max_rel_error is 0.0384615; at most 1e-06 is right"),
    ],
    ids=lambda value: "=".join(next(iter(value.items()))) if isinstance(value, dict) else "",
)
def test_a_bad_point_costs_its_trial_alone(bench: Bench, options: dict[str, str], reason: Reason, says: str) -> None:
    error = failure(bench, options)
    assert error.reason is reason
    assert says in error.log
    with bench.runner() as runner:
        runner.verify()


def test_code_for_another_architecture_is_rejected(bench: Bench) -> None:
    error = failure(bench, {}, cubin="another")
    assert error.reason is Reason.REJECTED
    assert "CUDA_ERROR_NO_BINARY_FOR_GPU" in error.log


def test_a_kernel_that_never_ends_is_ended(bench: Bench) -> None:
    error = failure(bench, {"kernel": "endless"}, timeout_s=3.0)
    assert error.reason is Reason.TIMEOUT


def test_what_a_script_prints_is_no_answer(bench: Bench) -> None:
    """axpy.py prints at its start; kernels may print too, through the C library."""
    with bench.runner() as runner:
        assert runner.run(1)["throughput_ips"]


def test_a_search_survives_everything_that_a_kernel_can_do(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled by NVRTC, run by the runner: the whole path of a CUDA trial, but for the GPU."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    toolchain = Nvrtc.found()
    trials = searched(faulty_target(tmp_path, toolchain, "0", "sm_90", timeout_s=8.0), FakeDevice())
    toolchain.close()
    assert told(trials) == [*REASONS.items(), ("axpy", "measured")]
    assert set(samples_of(trials[-1])["peak_gpu_memory_bytes"]) == {800_000.0}
    logs = {str(t.point["kernel"]): t.outcome.log for t in trials if isinstance(t.outcome, Failed)}
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in logs["illegal"]
    assert "CUDA_ERROR_OUT_OF_MEMORY" in logs["hungry"]


@pytest.mark.parametrize("name", ["gemm_cuda", "conv_cuda", "mlp_cuda", "decoder_cuda"])
def test_a_gpu_that_computes_nothing_is_found_wrong(
    name: str, driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in knows no kernel of these: every launch is taken, with arguments of types that cuda-core knows, and
    nothing is written."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("DRIVER_LOG", str(tmp_path / "driver.log"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    answering(monkeypatch, FakeNvml("h100_busy"))
    setup = setup_of(name, tmp_path, "target.graph=false", "space.compiler=nvrtc")
    target, point = setup.made.target, setup.recipe.start[0]
    assert isinstance(target, CudaTarget)
    artifact = target.build(point)
    with target.open(artifact) as runner, pytest.raises(TrialError) as caught:
        assert runner.facts["flop"] > 0
        runner.verify()
    assert caught.value.reason is Reason.WRONG
    launched = {line.split()[1] for line in (tmp_path / "driver.log").read_text().splitlines() if "launch" in line}
    assert launched == set(target.operation(point).blocks)
