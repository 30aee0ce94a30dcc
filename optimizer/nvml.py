"""Which NVIDIA GPUs does this machine have? Asked of the driver through NVML; nothing where none answers."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"
MIG_ENABLED = 1
PROHIBITED, EXCLUSIVE_PROCESS = 2, 3  # compute modes (nvml.h: nvmlComputeMode_t)


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A GPU, or a part of one in MIG mode (`parent` is then the UUID of the whole)."""

    uuid: str
    index: int  # in the order of NVML, which is that of the bus
    name: str
    memory_bytes: int
    driver: str
    driver_cuda: tuple[int, int]  # the newest CUDA that the driver can run
    capability: tuple[int, int]
    max_sm_clock_hz: float | None = None
    max_mem_clock_hz: float | None = None
    holders: tuple[int, ...] = ()  # process ids of others that compute on it
    parent: str | None = None
    split: bool = False  # in MIG mode: only its parts can run anything
    mode: int = 0  # its compute mode: who may use it

    @property
    def arch(self) -> str:
        return f"sm_{self.capability[0]}{self.capability[1]}"


@cache
def library() -> tuple[Any, str]:
    """The initialised library, or None and why it does not answer. Once a process: a first try costs milliseconds."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, str(error)
    return pynvml, ""


def gpus() -> tuple[Sequence[GpuFacts], str]:
    """Every GPU, each followed by its parts where it is split; or why there is none."""
    nvml, problem = library()
    if nvml is None:
        return [], problem
    found: list[GpuFacts] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        with suppress(nvml.NVMLError):  # one that this user may not see, or that is lost
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            whole = _facts(nvml, handle, index)
            found += [whole, *_parts(nvml, handle, whole)]
    return found, "" if found else "the driver knows none"


def visible(everything: Sequence[GpuFacts], allowed: str | None) -> Sequence[GpuFacts]:
    """What CUDA shows of them: those that CUDA_VISIBLE_DEVICES (`allowed`) names, in its order, up to the first that is
    not known, as CUDA does. None: all. A GPU that is split can't be run on as a whole. Numbers count in the order of
    the bus, as under CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    if allowed is None:
        return [g for g in everything if not g.split]
    chosen: list[GpuFacts] = []
    for word in filter(None, map(str.strip, allowed.split(","))):
        matching = [g for g in everything if named(g, word)]
        if len(matching) != 1 or matching[0].split or matching[0] in chosen:
            break
        chosen.append(matching[0])
    return chosen


def architecture() -> str | None:
    """What the first GPU that CUDA shows runs, as compilers call it: sm_90; None where no GPU answers."""
    shown = visible(gpus()[0], os.environ.get(VISIBLE))
    return shown[0].arch if shown else None


def named(gpu: GpuFacts, word: str) -> bool:
    """Whether `word` means this GPU: its number, its UUID, or the beginning of it as CUDA allows."""
    return (word.isdecimal() and gpu.parent is None and int(word) == gpu.index) or (
        word.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(word)
    )


def handle_of(nvml: Any, uuid: str) -> Any:
    """NVML's handle. Raises NVMLError where there is no such GPU."""
    return nvml.nvmlDeviceGetHandleByUUID(uuid)


def _facts(nvml: Any, handle: Any, index: int, parent: GpuFacts | None = None) -> GpuFacts:
    mode = 0
    if parent is None:
        mode = _mode(nvml, handle)
        capability = tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle))
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        driver, driver_cuda = str(nvml.nvmlSystemGetDriverVersion()), (cuda // 1000, cuda % 1000 // 10)
    else:
        capability, driver, driver_cuda = parent.capability, parent.driver, parent.driver_cuda
    return GpuFacts(
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        index=index,
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        driver=driver,
        driver_cuda=driver_cuda,
        capability=(capability[0], capability[1]),
        max_sm_clock_hz=_max_clock_hz(nvml, handle, nvml.NVML_CLOCK_SM),
        max_mem_clock_hz=_max_clock_hz(nvml, handle, nvml.NVML_CLOCK_MEM),
        holders=_holders(nvml, handle),
        parent=parent.uuid if parent else None,
        split=parent is None and _is_split(nvml, handle),
        mode=mode,
    )


def _parts(nvml: Any, handle: Any, whole: GpuFacts) -> list[GpuFacts]:
    found: list[GpuFacts] = []
    if not whole.split:
        return found
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(nvml.NVMLError):  # places that hold none
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            found.append(_facts(nvml, part, whole.index, whole))
    return found


def _mode(nvml: Any, handle: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetComputeMode(handle))
    except nvml.NVMLError:
        return 0


def _is_split(nvml: Any, handle: Any) -> bool:
    try:
        return int(nvml.nvmlDeviceGetMigMode(handle)[0]) == MIG_ENABLED
    except nvml.NVMLError:
        return False  # it has no such mode


def _max_clock_hz(nvml: Any, handle: Any, clock: int) -> float | None:
    try:
        return 1e6 * float(nvml.nvmlDeviceGetMaxClockInfo(handle, clock))
    except nvml.NVMLError:
        return None


def _holders(nvml: Any, handle: Any) -> tuple[int, ...]:
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return ()
    return tuple(int(p.pid) for p in processes if p.pid != os.getpid())


def described(gpu: GpuFacts) -> str:
    """For people."""
    part = " (a part of a GPU)" if gpu.parent else " (in MIG mode: its parts run kernels)" if gpu.split else ""
    return (
        f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB, compute capability {gpu.capability[0]}.{gpu.capability[1]}, "
        f"driver {gpu.driver} for CUDA up to {gpu.driver_cuda[0]}.{gpu.driver_cuda[1]}, {gpu.uuid}{part}"
    )
