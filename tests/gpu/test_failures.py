"""What a kernel can do to a real GPU: each costs its own trial, and the next one runs."""

import math
from pathlib import Path

from faulty_cuda import REASONS, faulty_target, searched, told
from simple import LATENCY

from optimizer.device import Cuda
from optimizer.measure import LiveMeter
from optimizer.recipe import Plan
from optimizer.space import Point
from optimizer.targets.cuda.compile import Nvrtc
from optimizer.trial import Failed

TELEMETRY = {"gpu_utilization_pct", "memory_utilization_pct", "gpu_memory_used_bytes", "power_w", "temperature_c"}


def test_memory_illegal_access_and_endless_kernels_cost_their_trials_alone(gpu: Cuda, tmp_path: Path) -> None:
    toolchain = Nvrtc.found()
    trials = searched(faulty_target(tmp_path, toolchain, gpu.uuid, gpu.arch, timeout_s=20.0), gpu)
    toolchain.close()
    assert told(trials) == [*REASONS.items(), ("axpy", "measured")]
    logs = {str(t.point["kernel"]): t.outcome.log for t in trials if isinstance(t.outcome, Failed)}
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in logs["illegal"]
    assert "CUDA_ERROR_OUT_OF_MEMORY" in logs["hungry"]


def test_telemetry_comes_with_the_readings(gpu: Cuda, tmp_path: Path) -> None:
    toolchain = Nvrtc.found()
    target = faulty_target(tmp_path, toolchain, gpu.uuid, gpu.arch, timeout_s=60.0)
    plan = Plan(warmups=1, min_samples=50, max_samples=200, max_seconds=3.0)
    with gpu.alone(), target.open(target.build(Point({"kernel": "axpy", "block": 128}))) as runner:
        samples = LiveMeter(gpu, plan, LATENCY).measure(runner, None)
    toolchain.close()
    parts = gpu.gpu.parent is not None  # a part of a GPU tells its memory alone
    assert ({"gpu_memory_used_bytes"} if parts else TELEMETRY) <= set(samples)
    assert all(math.isfinite(v) for values in samples.values() for v in values)
    if not parts:
        assert 1 < max(samples["power_w"]) < 2000
        assert 0 < samples["temperature_c"][0] < 120
        assert max(samples["gpu_utilization_pct"]) > 0
        assert samples["energy_j"][0] > 0
