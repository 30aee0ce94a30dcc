# ruff: noqa: N802 - names of the library
"""NVML as the library speaks, from recorded readings (tests/data/nvml): raw units, whole numbers, errors raised."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DATA = Path(__file__).parent / "data" / "nvml"


class NvmlError(Exception):
    pass


class FakeNvml:
    """The n-th time that a GPU's utilisation is asked begins its n-th reading; the last one stays."""

    NVMLError = NvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, name: str) -> None:
        self.recorded: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
        self.asked = 0
        self.lost = False

    def _supported(self, gpu: dict[str, Any], what: str) -> None:
        if self.lost or what in gpu.get("unsupported", ()) or "readings" not in gpu:
            raise NvmlError("Not Supported")

    def _reading(self, gpu: dict[str, Any], what: str) -> dict[str, Any]:
        self._supported(gpu, what)
        readings: list[dict[str, Any]] = gpu["readings"]
        return readings[min(max(self.asked - 1, 0), len(readings) - 1)]

    def nvmlSystemGetDriverVersion(self) -> str:
        return str(self.recorded["driver"])

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return int(self.recorded["cuda"])

    def nvmlDeviceGetCount(self) -> int:
        return len(self.recorded["gpus"])

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return dict(self.recorded["gpus"][index])

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> dict[str, Any]:
        parts = [part for gpu in self.recorded["gpus"] for part in gpu.get("mig", ()) if part]
        for gpu in [*self.recorded["gpus"], *parts]:
            if gpu["uuid"] == uuid:
                return dict(gpu)
        raise NvmlError("Not Found")

    def nvmlDeviceGetUUID(self, gpu: dict[str, Any]) -> str:
        return str(gpu["uuid"])

    def nvmlDeviceGetName(self, gpu: dict[str, Any]) -> str:
        return str(gpu["name"])

    def nvmlDeviceGetCudaComputeCapability(self, gpu: dict[str, Any]) -> tuple[int, int]:
        major, minor = gpu["capability"]
        return major, minor

    def nvmlDeviceGetMaxClockInfo(self, gpu: dict[str, Any], clock: int) -> int:
        key = "max_sm_clock_mhz" if clock == self.NVML_CLOCK_SM else "max_mem_clock_mhz"
        if key not in gpu:
            raise NvmlError("Not Supported")
        return int(gpu[key])

    def nvmlDeviceGetComputeMode(self, gpu: dict[str, Any]) -> int:
        self._supported(gpu, "mode")
        return int(gpu.get("mode", 0))

    def nvmlDeviceGetMigMode(self, gpu: dict[str, Any]) -> list[int]:
        self._supported(gpu, "mig")
        return [1, 1] if gpu.get("mig") else [0, 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: dict[str, Any]) -> int:
        return len(gpu["mig"])

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: dict[str, Any], index: int) -> dict[str, Any]:
        if gpu["mig"][index] is None:
            raise NvmlError("Not Found")
        return dict(gpu["mig"][index])

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: dict[str, Any]) -> list[SimpleNamespace]:
        self._supported(gpu, "processes")
        return [SimpleNamespace(pid=p["pid"], usedGpuMemory=p["bytes"]) for p in gpu.get("processes", ())]

    def nvmlDeviceGetUtilizationRates(self, gpu: dict[str, Any]) -> SimpleNamespace:
        self.asked += 1
        rates = self._reading(gpu, "utilization")["utilization"]
        return SimpleNamespace(gpu=rates[0], memory=rates[1])

    def nvmlDeviceGetMemoryInfo(self, gpu: dict[str, Any]) -> SimpleNamespace:
        used = self._reading(gpu, "memory")["memory_used_bytes"] if "readings" in gpu else 0
        return SimpleNamespace(total=gpu["memory_bytes"], used=used)

    def nvmlDeviceGetPowerUsage(self, gpu: dict[str, Any]) -> int:
        return int(self._reading(gpu, "power")["power_mw"])

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: dict[str, Any]) -> int:
        reading = self._reading(gpu, "energy")
        if "energy_mj" not in reading:
            raise NvmlError("Not Supported")
        return int(reading["energy_mj"])

    def nvmlDeviceGetTemperature(self, gpu: dict[str, Any], sensor: int) -> int:
        return int(self._reading(gpu, "temperature")["temperature_c"])

    def nvmlDeviceGetClockInfo(self, gpu: dict[str, Any], clock: int) -> int:
        key = "sm_clock_mhz" if clock == self.NVML_CLOCK_SM else "mem_clock_mhz"
        return int(self._reading(gpu, "clocks")[key])

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu: dict[str, Any]) -> int:
        return int(self._reading(gpu, "reasons")["reasons"])
