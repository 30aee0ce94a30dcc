"""The machine described, held alone, and watched: others' load, and what a GPU says of itself."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from optimizer import nvml
from optimizer.device import Host, lock_path, physical_cores


class NvmlError(Exception):
    pass


class FakeNvml:
    """NVML as the library speaks: rates in whole per cent, strings decoded, errors raised."""

    NVMLError = NvmlError

    def __init__(self, rates: list[tuple[int, int]], *, fails: bool = False) -> None:
        self.rates, self.fails, self.asked = rates, fails, 0

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"gpu{index}"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.1"

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return f"NVIDIA {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=80 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        if self.fails:
            raise NvmlError("Not Supported")
        gpu, memory = self.rates[min(self.asked, len(self.rates) - 1)]
        self.asked += 1
        return SimpleNamespace(gpu=gpu, memory=memory)


@contextmanager
def answering(monkeypatch: pytest.MonkeyPatch, library: FakeNvml | None) -> Iterator[None]:
    monkeypatch.setattr(nvml, "_library", lambda: (library, "" if library else "NVML Shared Library Not Found"))
    monkeypatch.setattr(nvml, "PERIOD_S", 0.001)
    yield


def test_utilization_is_recorded_where_a_gpu_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml([(90, 40), (100, 45), (80, 30)])
    with answering(monkeypatch, library), Host().watch(os.getpid()) as telemetry:
        while library.asked < 3:
            time.sleep(0.001)
    assert telemetry.samples["gpu_utilization_pct"][:3] == (90.0, 100.0, 80.0)
    assert telemetry.samples["memory_utilization_pct"][:3] == (40.0, 45.0, 30.0)
    assert "foreign_load_pct" in telemetry.samples


def test_a_short_watch_has_a_reading_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(monkeypatch, FakeNvml([(7, 3)])), Host().watch(None) as telemetry:
        pass
    assert telemetry.samples["gpu_utilization_pct"][0] == 7.0


@pytest.mark.parametrize("library", [None, FakeNvml([], fails=True)], ids=["no driver", "not supported"])
def test_what_is_absent_is_absent(monkeypatch: pytest.MonkeyPatch, library: FakeNvml | None) -> None:
    with answering(monkeypatch, library), Host().watch(os.getpid()) as telemetry:
        pass
    assert set(telemetry.samples) <= {"foreign_load_pct"}


def test_gpus_are_listed_or_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(monkeypatch, FakeNvml([])):
        assert nvml.gpus() == (["NVIDIA gpu0, 80 GiB, driver 570.1"], "")
    with answering(monkeypatch, None):
        assert nvml.gpus() == ([], "NVML Shared Library Not Found")


def test_the_load_of_others_is_seen_and_one_s_own_is_not() -> None:
    busy = "import time\nend = time.time() + 1.5\nwhile time.time() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", busy])
    with Host().watch(None) as foreign:
        time.sleep(1.0)
    other.wait()
    runner = subprocess.Popen([sys.executable, "-c", busy])
    with Host().watch(runner.pid) as own:
        time.sleep(1.0)
    runner.wait()
    one_core = 100.0 / (os.cpu_count() or 1)
    assert foreign.samples["foreign_load_pct"][0] > 0.5 * one_core
    # what else goes on here adds to both alike
    assert own.samples["foreign_load_pct"][0] < foreign.samples["foreign_load_pct"][0]


def test_a_runner_that_is_gone_leaves_no_reading() -> None:
    runner = subprocess.Popen([sys.executable, "-c", ""])
    runner.wait()
    with Host().watch(runner.pid) as telemetry:
        pass
    assert telemetry.samples == {}


def test_only_one_process_at_a_time_holds_a_device(tmp_path: Path) -> None:
    """And a holder that was killed holds nothing."""
    name = f"test-{os.getpid()}"
    holder = subprocess.Popen(
        [sys.executable, "-c",
         f"from optimizer.device import Host\nimport time\nwith Host(lock={name!r}).alone():\n"
         f"    open({str(tmp_path / 'held')!r}, 'w').close()\n    time.sleep(600)"],
    )  # fmt: skip
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    started = time.monotonic()
    killer = threading.Timer(0.5, holder.kill)
    killer.start()
    with Host(lock=name).alone():
        waited_s = time.monotonic() - started
    killer.join()
    holder.wait()
    assert waited_s >= 0.4
    Path(lock_path(name)).unlink()


def test_the_machine_is_described() -> None:
    found = Host(compilers={"g++": "12.2"}).describe()
    assert found.device
    assert dict(found.compilers) == {"g++": "12.2"}
    assert found.host["cores"] == physical_cores() >= 1
    assert {"optuna", "deap", "torch", "mlflow"} <= set(found.host["packages"])
