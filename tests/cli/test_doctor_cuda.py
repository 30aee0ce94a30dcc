"""What the doctor says of GPUs and of what builds for them."""

import pytest
from fake_nvml import FakeNvml
from test_telemetry import answering

from optimizer.cli.doctor_cuda import cuda_findings, drivers
from optimizer.nvml import gpus


def test_gpus_their_parts_and_their_holders_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, FakeNvml("several"))
    found = cuda_findings()
    listed = [f for f in found if f.what.startswith("GPU") and f.ok]
    assert len(listed) == 8
    assert "in MIG mode" in listed[0].found
    assert "a part of a GPU" in listed[1].found
    assert "compute capability 8.0" in listed[0].found
    assert any("pid 888" in f.advice for f in found if f.ok is None)


def test_without_a_gpu_it_says_what_works_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, None)
    found = {f.what: f for f in cuda_findings()}
    assert found["GPU"].ok is None
    assert "device=none" in found["GPU"].advice
    assert "CUDA driver" not in found
    for finding in found.values():
        assert finding.found or finding.advice


def test_a_driver_older_than_a_compiler_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, FakeNvml("t4_hot"))
    found, _ = gpus()
    (bad,) = drivers(found, {"NVRTC": (13, 0), "nvcc": (12, 9)})
    assert bad.ok is False
    assert bad.advice.startswith("NVRTC: the NVIDIA driver runs CUDA up to 12.4")
    assert "pip install" in bad.advice
    (good,) = drivers(found, {"nvcc": (12, 9)})
    assert good.found == "550.90.07, runs what CUDA up to 12.4 builds"
