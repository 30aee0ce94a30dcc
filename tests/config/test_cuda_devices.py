"""Which GPUs a configured search of a CUDA target runs on."""

import importlib.util
import shutil
from datetime import date

import pytest
from fake_nvml import FakeNvml
from test_telemetry import answering

from optimizer.config import load
from optimizer.config.objects import Setup
from optimizer.device import Cuda
from optimizer.errors import ConfigError
from optimizer.targets.cuda.target import CudaTarget

pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(
        importlib.util.find_spec("cuda") is None and shutil.which("nvcc") is None,
        reason="needs NVRTC or nvcc (pip install 'inference-optimizer[cuda]')",
    ),
]


@pytest.fixture(autouse=True)
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    answering(monkeypatch, FakeNvml("several"))


def setup(*words: str) -> Setup:
    return load(["target=gemm_cuda", "tracking=none", *words], (), date(2026, 1, 2))


def places(made: Setup) -> list[tuple[str, str]]:
    """UUID that the target runs on, and UUID of the device that is locked and watched."""
    pairs = [(made.made.target, made.made.device), *made.made.more]
    found = []
    for target, device in pairs:
        assert isinstance(target, CudaTarget)
        assert isinstance(device, Cuda)
        found.append((target.gpu or "", device.uuid))
    return found


def test_each_of_several_gpus_has_a_target_of_its_own() -> None:
    made = setup("device=cuda:3+4")
    assert [target[:8] for target, _ in places(made)] == ["GPU-55bb", "GPU-66cc"]
    assert all(target == device for target, device in places(made))
    assert made.recipe.device == "cuda", "how many there are is no part of the recipe"
    assert any("pid 888" in text for text in made.made.warnings)
    assert made.recipe.key == setup("device=cuda:3").recipe.key


def test_parts_of_a_gpu_are_taken_side_by_side() -> None:
    assert [target[:4] for target, _ in places(setup("device=cuda"))] == ["MIG-", "MIG-"]


def test_one_gpu_stays_one() -> None:
    made = setup("device=cuda:GPU-55bb")
    assert len(places(made)) == 1
    assert made.made.warnings == ()


@pytest.mark.parametrize(
    ("device", "says"), [("cuda:9", "names no GPU"), ("cuda:3+5", "mixes GPUs"), ("cpu:1", "device=cpu:1 is not known")]
)
def test_gpus_that_cant_be_taken_are_refused_before_the_first_trial(device: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        setup(f"device={device}")
