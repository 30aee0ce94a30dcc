"""What does a GPU do while something is measured on it? Readings of NVML a few times a second, in SI units.

NVML averages utilisation over a sixth of a second to a second, by product, and power over up to a second: more readings
a second would tell nothing new. What a GPU does not tell is absent.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from optimizer.nvml import handle_of, library
from optimizer.trial import Samples

PERIOD_S = 0.1
STUCK_S = 10.0  # after which a driver that does not answer is left alone
_STUCK: set[str | None] = set()  # GPUs of which nothing is asked any more: the search would hang with the driver

REASONS: Mapping[int, str] = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""Why a GPU's clocks are not at their highest, by bit (nvml.h: nvmlClocksEventReason…)."""

THROTTLING = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"})
"""Those that pass: heat and the power supply. The power cap stays as long as the same kernel runs: it is part of what
is measured, and told apart; the rest are settings."""
_QUIET = frozenset({"gpu_idle"})  # says nothing: between two blocks every GPU is idle


def reasons_of(bits: int) -> frozenset[str]:
    """The names of a mask's bits; one that is not known yet as its value."""
    known = {name for bit, name in REASONS.items() if bits & bit}
    rest = bits & ~sum(REASONS)
    return frozenset(known | ({f"0x{rest:x}"} if rest else set()))


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a GPU."""

    at_s: float
    values: Mapping[str, float]  # by metric, what can be averaged
    joules: float | None = None  # of the counter that runs since the driver was loaded
    reasons: frozenset[str] | None = None
    process_bytes: float | None = None  # GPU memory of the watched process


@dataclass
class Reader:
    """Takes readings of one GPU. What it does not support is asked once."""

    nvml: Any
    handle: Any
    pid: int | None = None
    only_utilization: bool = False
    _absent: set[str] = field(default_factory=set)

    def read(self) -> Reading:
        n, h = self.nvml, self.handle
        values: dict[str, float] = {}
        if (rates := self._asked("utilization", lambda: n.nvmlDeviceGetUtilizationRates(h))) is not None:
            values["gpu_utilization_pct"] = float(rates.gpu)
            values["memory_utilization_pct"] = float(rates.memory)
        if self.only_utilization:
            return Reading(time.monotonic(), values)
        for metric, factor, ask in (
            ("gpu_memory_used_bytes", 1.0, lambda: n.nvmlDeviceGetMemoryInfo(h).used),
            ("power_w", 1e-3, lambda: n.nvmlDeviceGetPowerUsage(h)),  # mW
            ("temperature_c", 1.0, lambda: n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU)),
            ("sm_clock_hz", 1e6, lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM)),  # MHz
            ("mem_clock_hz", 1e6, lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM)),
        ):
            if (value := self._asked(metric, ask)) is not None:
                values[metric] = factor * float(value)
        millijoules = self._asked("energy", lambda: n.nvmlDeviceGetTotalEnergyConsumption(h))
        bits = self._asked("reasons", lambda: n.nvmlDeviceGetCurrentClocksEventReasons(h))
        return Reading(
            time.monotonic(),
            values,
            None if millijoules is None else 1e-3 * float(millijoules),
            None if bits is None else reasons_of(int(bits)),
            self._process_bytes(),
        )

    def _process_bytes(self) -> float | None:
        """Absent too where the runner is in a container whose process ids the driver does not know."""
        if self.pid is None:
            return None
        running = self._asked("processes", lambda: self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle)) or ()
        used = [p.usedGpuMemory for p in running if p.pid == self.pid and p.usedGpuMemory is not None]
        return float(sum(used)) if used else None

    def _asked(self, name: str, ask: Callable[[], Any]) -> Any:
        if name in self._absent:
            return None
        try:
            return ask()
        except self.nvml.NVMLError:
            self._absent.add(name)
            return None


def samples_of(readings: Sequence[Reading]) -> Samples:
    """What the readings of one watch come to: every value of what varies, and once what is of the whole time.

    energy_j is that of the whole watch: of the counter where there is one, else power over time (trapezoids).
    throttled_pct is the share of the readings in which heat or the power supply held the clocks down;
    throttle_NAME_pct that of each reason that was seen, whether it is one of these or not.
    """
    names = dict.fromkeys(name for r in readings for name in r.values)
    found = {name: tuple(r.values[name] for r in readings if name in r.values) for name in names}
    if (joules := _joules(readings)) is not None:
        found["energy_j"] = (joules,)
    if told := [r.reasons for r in readings if r.reasons is not None]:
        found["throttled_pct"] = (_share(told, THROTTLING),)
        for name in sorted(frozenset().union(*told) - _QUIET):
            found[f"throttle_{name}_pct"] = (_share(told, frozenset({name})),)
    if held := [r.process_bytes for r in readings if r.process_bytes is not None]:
        found["peak_gpu_memory_bytes"] = (max(held),)
    return found


def _share(told: Sequence[frozenset[str]], wanted: frozenset[str]) -> float:
    return 100.0 * sum(bool(reasons & wanted) for reasons in told) / len(told)


def _joules(readings: Sequence[Reading]) -> float | None:
    counted = [r.joules for r in readings if r.joules is not None]
    if len(counted) > 1 and counted[-1] > counted[0]:  # it moves a few times a second: a short watch may see none
        return counted[-1] - counted[0]
    powers = [(r.at_s, r.values["power_w"]) for r in readings if "power_w" in r.values]
    if len(powers) < 2:
        return None
    return sum((end - start) * (a + b) / 2 for (start, a), (end, b) in pairwise(powers))


@contextmanager
def watched(
    uuid: str | None, pid: int | None, *, only_utilization: bool = False
) -> Iterator[dict[str, tuple[float, ...]]]:
    """Watches a GPU (None: the first), with a reading at the start and one at the end; filled when it ends, and empty
    where no such GPU answers. `pid`: the process whose GPU memory is told apart."""
    found: dict[str, tuple[float, ...]] = {}
    reader = None if uuid in _STUCK else _reader(uuid, pid, only_utilization=only_utilization)
    if reader is None:
        yield found
        return
    readings = [reader.read()]
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(PERIOD_S):
            readings.append(reader.read())

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join(STUCK_S)
        if watcher.is_alive():
            _STUCK.add(uuid)
        else:
            readings.append(reader.read())
        found |= samples_of(tuple(readings))


def _reader(uuid: str | None, pid: int | None, *, only_utilization: bool) -> Reader | None:
    nvml, _ = library()
    if nvml is None:
        return None
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(0) if uuid is None else handle_of(nvml, uuid)
    except nvml.NVMLError:
        return None
    return Reader(nvml, handle, pid, only_utilization)
