"""Every CUDA kernel on a real GPU: right at its baseline, at the points called good and at points drawn at random, on
CUDA cores and on tensor cores, started alone and as graphs."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from cuda_setups import setup_of

from optimizer.config.objects import Setup
from optimizer.space import Point
from optimizer.targets.cuda.target import CudaTarget
from optimizer.targets.native import NativeRunner
from optimizer.trial import Check, Samples

TARGETS = ("gemm_cuda", "conv_cuda", "mlp_cuda", "decoder_cuda")
WITH_TENSOR_CORES = ("gemm_cuda", "conv_cuda", "mlp_cuda")
DRAWN = 12  # points a target


@contextmanager
def opened(setup: Setup, point: Point) -> Iterator[NativeRunner]:
    target = setup.made.target
    assert isinstance(target, CudaTarget)
    with setup.made.device.alone(), target.open(target.build(point)) as runner:
        assert isinstance(runner, NativeRunner), "it runs on the GPU"
        yield runner


def tried(setup: Setup, point: Point) -> tuple[Check, Samples, Mapping[str, float]]:
    with opened(setup, point) as runner:
        return runner.verify(), runner.run(3), runner.facts


@pytest.mark.parametrize("name", TARGETS)
def test_the_baseline_and_the_good_points_are_right_and_measured(name: str, studies: Path) -> None:
    setup = setup_of(name, studies)
    for point in setup.recipe.start:
        check, samples, facts = tried(setup, point)
        assert check.errors
        assert len(samples["latency_s"]) == 3
        for metric, values in samples.items():
            assert all(math.isfinite(v) and v >= 0 for v in values), metric
        run_s = facts["flop"] / samples["achieved_flop_per_s"][-1]
        assert 0 < run_s < 60
        assert samples["peak_gpu_memory_bytes"][0] > 0


@pytest.mark.parametrize("name", TARGETS)
def test_points_drawn_at_random_are_right(name: str, studies: Path) -> None:
    setup, rng = setup_of(name, studies), Random(name)
    for _ in range(DRAWN):
        point = setup.feasible.sample(rng)
        with opened(setup, point) as runner:
            assert runner.verify().errors, dict(point)


@pytest.mark.parametrize("name", WITH_TENSOR_CORES)
def test_tensor_cores_are_right(name: str, studies: Path) -> None:
    """What the check on the processor can only imitate."""
    setup, rng = setup_of(name, studies), Random(name)
    target = setup.made.target
    assert isinstance(target, CudaTarget)
    with_them: list[Point] = []
    while len(with_them) < DRAWN:
        point = setup.feasible.sample(rng)
        if target.operation(point).tensor_cores:
            with_them.append(point)
    for point in with_them:
        with opened(setup, point) as runner:
            assert runner.verify().errors, dict(point)


@pytest.mark.parametrize("graph", ["true", "false"])
@pytest.mark.parametrize("name", TARGETS)
def test_graphs_and_the_flushed_cache_change_no_answer(name: str, graph: str, studies: Path) -> None:
    setup = setup_of(name, studies, f"target.graph={graph}", "target.flush_l2=true")
    check, samples, _ = tried(setup, setup.recipe.start[-1])
    assert check.errors
    assert all(latency > 0 for latency in samples["latency_s"])
