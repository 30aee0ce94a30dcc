"""Which GPUs there are, which of them CUDA shows, and which of them a search takes."""

import json
from dataclasses import replace

import pytest
from fake_nvml import FakeNvml
from test_telemetry import answering

from optimizer import nvml
from optimizer.device import Cuda, chosen_gpu, chosen_gpus, driver_problem, version_of
from optimizer.errors import ConfigError
from optimizer.nvml import GpuFacts, architecture, gpus, visible

FIRST_PART, SECOND_PART = "MIG-2f7a5a1c-1f4b-5c68-8d29-3b6f1e0c9a71", "MIG-5b0e3d92-7c6a-5e11-b84f-0a9d2c8e7f63"
COMPILERS = {"nvrtc": "13.0.88"}


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def listed(monkeypatch: pytest.MonkeyPatch, name: str) -> list[GpuFacts]:
    answering(monkeypatch, FakeNvml(name))
    found, problem = gpus()
    assert problem == ""
    return list(found)


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    (gpu,) = listed(monkeypatch, "h100_busy")
    assert gpu == GpuFacts(
        uuid="GPU-1f0c8d1a-52f7-5b6e-9a53-0d6c3d4f7e21",
        index=0,
        name="NVIDIA H100 80GB HBM3",
        memory_bytes=85520809984,
        driver="580.82.07",
        driver_cuda=(13, 0),
        capability=(9, 0),
        max_sm_clock_hz=1.98e9,
        max_mem_clock_hz=2.619e9,
        holders=(4242,),
    )
    assert nvml.described(gpu) == (
        "NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0, driver 580.82.07 for CUDA up to 13.0, "
        "GPU-1f0c8d1a-52f7-5b6e-9a53-0d6c3d4f7e21"
    )
    environment = Cuda(gpu, COMPILERS).describe()
    assert (environment.device, environment.driver, environment.compilers) == (gpu.name, gpu.driver, COMPILERS)
    assert environment.host["gpu"]["uuid"] == gpu.uuid
    json.dumps(environment.document())


def test_parts_are_listed_behind_their_gpu_and_empty_places_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = listed(monkeypatch, "several")
    assert [g.uuid[:12] for g in found[:4]] == ["GPU-9d2b7e64", FIRST_PART[:12], SECOND_PART[:12], "GPU-9d2b0000"]
    whole, part = found[0], found[1]
    assert whole.split
    assert part.parent == whole.uuid
    assert (part.arch, part.memory_bytes, part.driver_cuda) == ("sm_80", 42144366592, (13, 0))
    assert not any(g.split for g in found[1:])


def test_a_gpu_that_tells_little_is_listed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    (gpu,) = listed(monkeypatch, "tells_little")
    assert (gpu.driver_cuda, gpu.max_sm_clock_hz, gpu.holders, gpu.split) == ((12, 2), None, (), False)


@pytest.mark.parametrize(
    ("allowed", "indices"),
    [
        (None, [1, 2, 3, 4, 5, 6, 7]),  # all but the one that is split
        ("", []),
        ("3,1", [5, 3]),
        ("GPU-44aa", [4]),
        ("GPU-9d2b", []),  # two begin so: CUDA shows none
        (SECOND_PART, [2]),
        ("0", []),  # it is split
        ("1,9,2", [3]),  # the first unknown one ends the list
        ("1,1", [3]),
        ("-1", []),
    ],
)
def test_cuda_shows_what_its_variable_names(
    monkeypatch: pytest.MonkeyPatch, allowed: str | None, indices: list[int]
) -> None:
    found = listed(monkeypatch, "several")
    assert visible(found, allowed) == [found[i] for i in indices]


def test_the_architecture_is_that_of_the_first_gpu_that_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, FakeNvml("several"))
    assert architecture() == "sm_80"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert architecture() == "sm_89"
    answering(monkeypatch, None)
    assert architecture() is None


def test_cuda_takes_all_gpus_that_are_like_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, FakeNvml("several"))
    assert [g.uuid for g in chosen_gpus("cuda", COMPILERS)] == [FIRST_PART, SECOND_PART]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5")
    assert [g.gpu.index for g in chosen_gpus("cuda", COMPILERS)] == [3, 4]
    assert chosen_gpu("cuda", COMPILERS).gpu.index == 3


@pytest.mark.parametrize(
    ("device", "uuids"),
    [
        ("cuda:3", ["GPU-55bb"]),
        ("cuda:4+3", ["GPU-66cc", "GPU-55bb"]),
        ("cuda:4,3", ["GPU-66cc", "GPU-55bb"]),
        ("cuda:GPU-55bb", ["GPU-55bb"]),
        (f"cuda:{SECOND_PART}", [SECOND_PART[:8]]),
    ],
)
def test_a_gpu_is_named_by_number_uuid_or_part(monkeypatch: pytest.MonkeyPatch, device: str, uuids: list[str]) -> None:
    answering(monkeypatch, FakeNvml("several"))
    found = chosen_gpus(device, COMPILERS)
    assert [g.uuid[:8] for g in found] == uuids
    assert len({g.lock for g in found}) == len(found)


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("cuda:9", r"names no GPU\. There are: 0: NVIDIA A100"),
        ("cuda:GPU-9d2b", "names several GPUs"),
        ("cuda:0", "in MIG mode: name one of its parts"),
        ("cuda:3+3", "names a GPU twice"),
        ("cuda:3+5", "mixes GPUs whose times can't be compared"),
        ("cuda:1", r"exclusive process.*pid 777.*device=cuda:N.*nvidia-smi -i GPU-9d2b0000\S+ -c DEFAULT"),
        ("cuda:2", r"prohibited.*nvidia-smi -i GPU-44aa\S+ -c DEFAULT"),
    ],
)
def test_a_gpu_that_cant_be_taken_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, device: str, says: str
) -> None:
    answering(monkeypatch, FakeNvml("several"))
    with pytest.raises(ConfigError, match=says):
        chosen_gpus(device, COMPILERS)


def test_without_a_gpu_the_way_without_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, None)
    with pytest.raises(ConfigError, match=r"NVML Shared Library Not Found.*device=none"):
        chosen_gpu("cuda", COMPILERS)
    answering(monkeypatch, FakeNvml("several"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=-1 leaves no GPU"):
        chosen_gpu("cuda", COMPILERS)


def test_another_process_on_a_shared_gpu_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, FakeNvml("several"))
    (warning,) = chosen_gpu("cuda:4", COMPILERS).warnings
    assert "pid 888" in warning
    assert chosen_gpu("cuda:4", COMPILERS).describe().host["gpu"]["holders"] == [888]
    assert chosen_gpu("cuda:3", COMPILERS).warnings == ()


@pytest.mark.parametrize(
    ("driver", "toolkit", "works"),
    [((13, 0), (13, 0), True), ((12, 4), (13, 0), False), ((12, 2), (12, 9), True), ((13, 1), (12, 0), True)],
)
def test_a_driver_runs_every_toolkit_of_its_major_version(
    driver: tuple[int, int], toolkit: tuple[int, int], works: bool
) -> None:
    problem = driver_problem(driver, toolkit)
    assert (problem is None) is works
    if problem is not None:
        assert "CUDA up to 12.4" in problem
        assert "toolkit here is CUDA 13.0" in problem
        assert "pip install 'cuda-toolkit[nvcc,cudart,cccl,nvrtc]==12.*'" in problem


def test_a_driver_that_is_too_old_is_refused_before_the_first_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, FakeNvml("t4_hot"))
    with pytest.raises(ConfigError, match=r"nvrtc: the NVIDIA driver runs CUDA up to 12\.4.*CUDA 13\.0"):
        chosen_gpu("cuda", COMPILERS)
    assert chosen_gpu("cuda", {"nvcc": "12.9.86"}).arch == "sm_75"


def test_versions_are_read_from_text() -> None:
    assert version_of("13.0.88") == (13, 0)
    assert version_of("release 12.9, V12.9.86") == (12, 9)
    assert version_of("unknown") is None


def test_the_lock_is_of_the_gpu_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    (gpu,) = listed(monkeypatch, "h100_busy")
    one, other = Cuda(gpu), Cuda(replace(gpu, uuid="GPU-other"))
    with one.alone(), other.alone():
        assert one.lock != other.lock
