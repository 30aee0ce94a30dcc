"""What a GPU tells while it is measured: every unit converted, what is absent absent, heat seen."""

import os
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from fake_nvml import FakeNvml

from optimizer import telemetry
from optimizer.device import Cuda, Host
from optimizer.measure import is_disturbed
from optimizer.metrics import METRICS
from optimizer.nvml import gpus
from optimizer.recipe import Plan
from optimizer.telemetry import Reader, Reading, reasons_of, samples_of, watched
from optimizer.trial import Samples


def recorded(name: str, count: int, pid: int | None = None) -> list[Reading]:
    """The first readings of a recording, a tenth of a second apart."""
    library = FakeNvml(name)
    reader = Reader(library, library.nvmlDeviceGetHandleByIndex(0), pid)
    return [replace(reader.read(), at_s=i / 10) for i in range(count)]


def answering(monkeypatch: pytest.MonkeyPatch, library: FakeNvml | None) -> None:
    from optimizer import nvml

    found = (library, "" if library else "NVML Shared Library Not Found")
    for module in (nvml, telemetry):
        monkeypatch.setattr(module, "library", lambda: found)
    monkeypatch.setattr(telemetry, "PERIOD_S", 0.001)


def test_every_reading_is_told_in_si_units() -> None:
    samples = samples_of(recorded("h100_busy", 4, pid=4242))
    assert samples == {
        "gpu_utilization_pct": (0.0, 97.0, 100.0, 100.0),
        "memory_utilization_pct": (0.0, 41.0, 44.0, 45.0),
        "gpu_memory_used_bytes": (1765670912.0, 3378380800.0, 3378380800.0, 3378380800.0),
        "power_w": pytest.approx((118.345, 601.204, 698.771, 700.012)),
        "temperature_c": (36.0, 44.0, 51.0, 53.0),
        "sm_clock_hz": (1.98e9, 1.98e9, 1.755e9, 1.74e9),
        "mem_clock_hz": (2.619e9,) * 4,
        "energy_j": pytest.approx((183.34,)),  # 81 234 751 230 mJ − 81 234 567 890 mJ
        "throttled_pct": (0.0,),
        "throttle_sw_power_cap_pct": (50.0,),
        "peak_gpu_memory_bytes": (1612709888.0,),
    }
    assert set(samples) - {"throttle_sw_power_cap_pct"} <= set(METRICS)


def test_without_a_counter_energy_is_power_over_time() -> None:
    powers = (27.411, 69.876, 70.140, 70.011)
    expected = 0.1 * sum((a + b) / 2 for a, b in pairwise(powers))
    assert samples_of(recorded("t4_hot", 4))["energy_j"] == pytest.approx((expected,))
    assert "energy_j" not in samples_of(recorded("t4_hot", 1)), "one reading spans no time"


def test_a_counter_that_has_not_moved_yet_is_not_zero_energy() -> None:
    first = recorded("h100_busy", 1)[0]
    assert samples_of([first, replace(first, at_s=0.5)])["energy_j"] == pytest.approx((118.345 * 0.5,))


def test_heat_is_told_apart_from_the_power_cap() -> None:
    hot = samples_of(recorded("t4_hot", 4))
    assert hot["throttled_pct"] == (75.0,)
    assert {name: value for name, value in hot.items() if name.startswith("throttle_")} == {
        "throttle_hw_slowdown_pct": (50.0,),
        "throttle_hw_thermal_slowdown_pct": (50.0,),
        "throttle_sw_power_cap_pct": (25.0,),
        "throttle_sw_thermal_slowdown_pct": (75.0,),
    }
    assert is_disturbed(hot, Plan())
    assert not is_disturbed(samples_of(recorded("h100_busy", 4)), Plan())


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, set()),
        (0x1, {"gpu_idle"}),
        (0x24, {"sw_power_cap", "sw_thermal_slowdown"}),
        (0x1C8, {"hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "display_clock_setting"}),
        (0x12, {"applications_clocks_setting", "sync_boost"}),
        (0x408, {"hw_slowdown", "0x400"}),
    ],
)
def test_the_bits_of_a_mask_have_names(bits: int, names: set[str]) -> None:
    assert reasons_of(bits) == names


def test_what_a_gpu_does_not_tell_is_absent_and_asked_once() -> None:
    library = FakeNvml("tells_little")
    reader = Reader(library, library.nvmlDeviceGetHandleByIndex(0), pid=1)
    assert samples_of([reader.read(), reader.read()]) == {"gpu_memory_used_bytes": (314572800.0, 314572800.0)}
    assert library.asked == 1


@pytest.mark.parametrize("pid", [None, 1])
def test_a_process_that_the_driver_does_not_know_has_no_memory(pid: int | None) -> None:
    assert "peak_gpu_memory_bytes" not in samples_of(recorded("h100_busy", 2, pid))


def test_a_watch_reads_at_its_start_meanwhile_and_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml("h100_busy")
    answering(monkeypatch, library)
    gpu = gpus()[0][0]
    with Cuda(gpu).watch(4242) as watch:
        while library.asked < len(library.recorded["gpus"][0]["readings"]):  # the last one stays
            time.sleep(0.001)
    assert watch.samples["power_w"][:3] == pytest.approx((118.345, 601.204, 698.771))
    assert watch.samples["energy_j"] == pytest.approx((183.34,))
    assert watch.samples["peak_gpu_memory_bytes"] == (1612709888.0,)
    assert "foreign_load_pct" not in watch.samples, "builds beside a measurement are no disturbance"


def test_a_gpu_that_is_lost_leaves_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml("h100_busy")
    answering(monkeypatch, library)
    monkeypatch.setattr("optimizer.telemetry.PERIOD_S", 3600.0)  # nothing is read between start and end
    with watched(None, None) as found:
        library.lost = True
    assert found["power_w"] == (118.345,)


def test_a_driver_that_does_not_answer_any_more_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    library, released = FakeNvml("h100_busy"), threading.Event()
    answering(monkeypatch, library)
    monkeypatch.setattr(telemetry, "STUCK_S", 0.05)
    monkeypatch.setattr(telemetry, "_STUCK", set())
    asked = library.nvmlDeviceGetUtilizationRates
    with watched(None, None) as found:
        monkeypatch.setattr(library, "nvmlDeviceGetUtilizationRates", lambda h: released.wait(20) and asked(h))
        time.sleep(0.05)
    assert found["power_w"][0] == 118.345
    monkeypatch.setattr(library, "nvmlDeviceGetUtilizationRates", asked)
    with watched(None, None) as later:
        pass
    assert later == {}, "it is not asked again"
    released.set()


@pytest.mark.parametrize("uuid", [None, "GPU-of-another-machine"])
def test_without_an_answer_there_is_no_telemetry(monkeypatch: pytest.MonkeyPatch, uuid: str | None) -> None:
    answering(monkeypatch, FakeNvml("h100_busy") if uuid else None)
    with watched(uuid, None) as found:
        pass
    assert found == {}


def test_beside_a_program_on_the_processor_only_utilisation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, FakeNvml("h100_busy"))
    monkeypatch.setattr("optimizer.telemetry.PERIOD_S", 3600.0)
    with Host().watch(os.getpid()) as watch:
        pass
    found: Samples = watch.samples
    assert found["gpu_utilization_pct"] == (0.0, 97.0)
    assert found["memory_utilization_pct"] == (0.0, 41.0)
    assert set(found) <= {"gpu_utilization_pct", "memory_utilization_pct", "foreign_load_pct"}
