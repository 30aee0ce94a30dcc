"""What does the machine do while a study runs? MLflow's own readings of processor, memory, disk, network and GPU.

They are read while the tracker holds the device: a processor's share counts from reading to reading, so nothing is
missed, and no measurement is disturbed.
"""

import time
from contextlib import suppress
from typing import Any

EVERY_S = 10.0
PREFIX = "system/"


class System:
    """Readings at most once in ten seconds."""

    def __init__(self) -> None:
        self._monitors: list[Any] = []  # MLflow's are untyped
        self._last_s = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last_s >= EVERY_S

    def read(self) -> dict[str, float]:
        self._monitors = self._monitors or _monitors()
        self._last_s = time.monotonic()
        found: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            found |= {f"{PREFIX}{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return found


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics import cpu_monitor, disk_monitor, gpu_monitor, network_monitor

    made: list[Any] = [cpu_monitor.CPUMonitor, disk_monitor.DiskMonitor, network_monitor.NetworkMonitor]
    found = [monitor() for monitor in made]
    with suppress(ImportError, RuntimeError):  # no GPU or no driver, as MLflow says it
        gpu: Any = gpu_monitor.GPUMonitor
        found.append(gpu())
    return found
