"""What does an NVIDIA GPU say of itself? Facts and utilisation through NVML; nothing where no driver answers.

NVML averages utilisation over a sixth of a second to a second, by product, so a few readings a second lose nothing.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from optimizer.trial import Samples

PERIOD_S = 0.1


@cache
def _library() -> tuple[Any, str]:
    """The initialised library, or None and why it does not answer. Once a process: a first try costs milliseconds."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, str(error)
    return pynvml, ""


def gpus() -> tuple[list[str], str]:
    """Name, memory and driver of each GPU, or why none answers."""
    nvml, problem = _library()
    if nvml is None:
        return [], problem
    driver = nvml.nvmlSystemGetDriverVersion()
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    facts = [(nvml.nvmlDeviceGetName(h), nvml.nvmlDeviceGetMemoryInfo(h).total) for h in handles]
    return [f"{name}, {total / 2**30:.0f} GiB, driver {driver}" for name, total in facts], ""


def architecture() -> str | None:
    """What the first GPU runs, as compilers call it: sm_90; None where no GPU answers."""
    nvml, _ = _library()
    if nvml is None or not nvml.nvmlDeviceGetCount():
        return None
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(nvml.nvmlDeviceGetHandleByIndex(0))
    return f"sm_{major}{minor}"


@contextmanager
def utilization(index: int = 0) -> Iterator[dict[str, tuple[float, ...]]]:
    """Watches GPU `index`; filled when it ends with gpu_utilization_pct, the share of the time in which a kernel ran,
    and memory_utilization_pct, the share in which its memory was read or written (NVML's nvmlUtilization_t).

    A metric that the GPU does not tell is absent, as both are where there is no GPU.
    """
    found: dict[str, tuple[float, ...]] = {}
    nvml, _ = _library()
    if nvml is None:
        yield found
        return
    readings: list[tuple[float, float]] = []
    ended = threading.Event()

    def sample() -> None:
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            while True:
                rates = nvml.nvmlDeviceGetUtilizationRates(handle)
                readings.append((float(rates.gpu), float(rates.memory)))
                if ended.wait(PERIOD_S):
                    return
        except nvml.NVMLError:
            return  # not supported here, or the GPU is lost: what was read so far stands

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        found |= utilization_samples(readings)


def utilization_samples(readings: Sequence[tuple[float, float]]) -> Samples:
    if not readings:
        return {}
    return {
        "gpu_utilization_pct": tuple(gpu for gpu, _ in readings),
        "memory_utilization_pct": tuple(memory for _, memory in readings),
    }
