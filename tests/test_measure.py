"""Measuring one point: when it stops, what it throws away, what it does about a busy machine."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from simple import LATENCY, FakeClock, FakeDevice, FakeTelemetry

from optimizer.measure import BLOCK_S, LiveMeter, joined
from optimizer.objective import Direction, Goal, Objective
from optimizer.recipe import Plan
from optimizer.stats import Estimate
from optimizer.trial import Check, Samples


@dataclass
class Scripted:
    """Readings in the order given, the last for ever; each takes the time that it says on the clock."""

    readings: list[float]
    clock: FakeClock = field(default_factory=FakeClock)
    asked: list[int] = field(default_factory=list)
    pid: int | None = None
    facts: Mapping[str, float] = field(default_factory=lambda: {"load_s": 0.25})

    def verify(self) -> Check:
        return Check()

    def run(self, n: int) -> Samples:
        self.asked.append(n)
        taken = [self.readings.pop(0) if len(self.readings) > 1 else self.readings[0] for _ in range(n)]
        self.clock.now += sum(taken)
        return {"latency_s": tuple(taken), "throughput_ips": tuple(1 / t for t in taken), "peak_memory_bytes": (9.0,)}


def meter_of(runner: Scripted, device: FakeDevice | None = None, goal: Goal = LATENCY, **plan: float) -> LiveMeter:
    settings = {"warmups": 2, "min_samples": 7, "max_samples": 50, "rel_error": 0.02, "max_seconds": 3.0} | plan
    return LiveMeter(device or FakeDevice(), Plan(**settings), goal, runner.clock)  # type: ignore[arg-type]


def test_warm_up_is_thrown_away() -> None:
    runner = Scripted([0.7, 0.5, 0.01])
    samples = meter_of(runner).measure(runner, None)
    assert set(samples["latency_s"]) == {0.01}
    assert runner.asked[:2] == [1, 1]


def test_facts_are_among_the_samples_once() -> None:
    runner = Scripted([1e-2])
    samples = meter_of(runner).measure(runner, None)
    assert samples["load_s"] == (0.25,)
    assert samples["peak_memory_bytes"] == (9.0,)


def test_a_block_is_long_enough_to_see_the_load_of_others() -> None:
    runner = Scripted([1e-2])
    meter_of(runner, max_samples=1000).measure(runner, None)
    assert runner.asked[2] == int(BLOCK_S / 1e-2)


def test_sampling_stops_when_the_median_is_known() -> None:
    runner = Scripted([0.1])
    samples = meter_of(runner).measure(runner, None)
    assert 7 <= len(samples["latency_s"]) <= 9


def test_sampling_goes_on_while_the_interval_is_wide_and_ends_with_the_time() -> None:
    noisy = [0.05, 0.2] * 200
    runner = Scripted(noisy)
    samples = meter_of(runner, max_samples=1000).measure(runner, None)
    assert len(samples["latency_s"]) > 15
    assert 3.0 <= runner.clock.now <= 4.5


def test_a_slow_point_gets_three_readings_whatever_the_time() -> None:
    runner = Scripted([10.0])
    samples = meter_of(runner).measure(runner, None)
    assert len(samples["latency_s"]) == 3
    assert runner.asked[0] == 1
    assert len(runner.asked) == 4, "a run of seconds is not warmed up twice"


def test_a_hopeless_point_is_given_up() -> None:
    best = Estimate(0.01, 0.0099, 0.0101, 20)
    hopeless = Scripted([0.09, 0.11] * 40)
    given_up = meter_of(hopeless, rel_error=0.001).measure(hopeless, best)
    patient = Scripted([0.09, 0.11] * 40)
    whole = meter_of(patient, rel_error=0.001, give_up_early=False).measure(patient, best)
    assert given_up["given_up"] == (1.0,)
    assert "given_up" not in whole
    assert sum(hopeless.asked) < sum(patient.asked)


def test_a_slow_point_far_worse_than_the_best_is_given_up_after_two_readings() -> None:
    runner = Scripted([4.0])
    samples = meter_of(runner).measure(runner, Estimate(1.0, 0.99, 1.01, 20))
    assert len(samples["latency_s"]) == 2


def test_a_hopeless_point_is_given_up_when_more_is_better_too() -> None:
    goal = Goal((Objective("throughput_ips", Direction.MAXIMIZE),))
    best = Estimate(-100.0, -101.0, -99.0, 20)
    runner = Scripted([0.09, 0.11] * 40)
    meter_of(runner, goal=goal, rel_error=0.001).measure(runner, best)
    assert sum(runner.asked) < 15


def test_with_two_objectives_no_point_is_hopeless_by_one_of_them() -> None:
    goal = Goal((Objective("latency_s"), Objective("peak_memory_bytes")))
    runner = Scripted([0.09, 0.11] * 40)
    meter_of(runner, goal=goal, rel_error=0.001).measure(runner, Estimate(0.01, 0.0099, 0.0101, 20))
    assert runner.clock.now > 3.0


def test_readings_disturbed_by_others_are_taken_again() -> None:
    runner, device = Scripted([0.5, 0.5, *[0.2] * 1, *[0.1] * 50]), FakeDevice(loads=[40.0, *[0.0] * 50])
    samples = meter_of(runner, device).measure(runner, None)
    assert set(samples["latency_s"]) == {0.1}, "the block under load is left out"
    assert set(samples["foreign_load_pct"]) == {0.0}


def test_on_a_machine_that_is_never_quiet_disturbed_readings_are_kept_and_said_to_be() -> None:
    runner, device = Scripted([0.1]), FakeDevice(loads=[60.0] * 500)
    samples = meter_of(runner, device).measure(runner, None)
    assert len(samples["latency_s"]) >= 7
    assert set(samples["foreign_load_pct"]) == {60.0}
    assert runner.clock.now < 5.0, "it does not wait for ever"


@dataclass
class TellingDevice(FakeDevice):
    """Tells samples of each watch in the order given, the last for ever."""

    told: list[Samples] = field(default_factory=list)

    @contextmanager
    def watch(self, pid: int | None) -> Iterator[FakeTelemetry]:
        telemetry = FakeTelemetry()
        yield telemetry
        telemetry.samples = self.told.pop(0) if len(self.told) > 1 else self.told[0]


def test_readings_of_a_throttled_gpu_are_taken_again() -> None:
    hot, cool = {"throttled_pct": (25.0,)}, {"throttled_pct": (0.0,)}
    runner, device = Scripted([0.5, 0.5, 0.2, *[0.1] * 50]), TellingDevice(told=[hot, cool])
    samples = meter_of(runner, device).measure(runner, None)
    assert set(samples["latency_s"]) == {0.1}
    assert set(samples["throttled_pct"]) == {0.0}


def test_a_gpu_that_is_always_hot_is_measured_and_said_to_be() -> None:
    runner, device = Scripted([0.1]), TellingDevice(told=[{"throttled_pct": (100.0,)}])
    samples = meter_of(runner, device).measure(runner, None)
    assert len(samples["latency_s"]) >= 7
    assert set(samples["throttled_pct"]) == {100.0}


def test_energy_is_told_of_one_inference() -> None:
    """60 J in three runs of 0.1 s: 200 W, and 20 J for each inference of 0.1 s."""
    runner, device = Scripted([0.1]), TellingDevice(told=[{"energy_j": (60.0,), "power_w": (200.0,)}])
    samples = meter_of(runner, device).visit(runner, 0.31)
    assert len(samples["latency_s"]) == 3
    assert samples["energy_j"] == pytest.approx((20.0,))


def test_what_the_runner_tells_itself_is_not_overwritten() -> None:
    runner, device = Scripted([0.1]), TellingDevice(told=[{"peak_memory_bytes": (1.0,), "power_w": (5.0,)}])
    samples = meter_of(runner, device).visit(runner, 0.2)
    assert samples["peak_memory_bytes"] == (9.0,) * len(samples["peak_memory_bytes"])
    assert samples["power_w"] == (5.0,)


def test_a_device_that_does_not_tell_its_load_is_taken_for_quiet() -> None:
    runner = Scripted([0.1])
    samples = meter_of(runner).measure(runner, None)
    assert "foreign_load_pct" not in samples


def test_a_visit_reads_for_about_as_long_as_asked() -> None:
    runner = Scripted([0.9, 0.01])
    meter_of(runner).warm(runner)
    samples = meter_of(runner).visit(runner, 0.2)
    assert set(samples["latency_s"]) == {0.01}
    assert len(samples["latency_s"]) in (19, 20)
    slow = Scripted([5.0])
    assert len(meter_of(slow).visit(slow, 0.2)["latency_s"]) == 1


@pytest.mark.parametrize("blocks", [[], [{"a": (1.0,)}], [{"a": (1.0,)}, {"b": (2.0,), "a": (3.0,)}]])
def test_joining_keeps_every_reading(blocks: list[Samples]) -> None:
    together = joined(blocks)
    assert sum(map(len, together.values())) == sum(len(v) for b in blocks for v in b.values())


def test_readings_are_kept_to_nine_digits() -> None:
    runner = Scripted([0.1234567890123])
    assert meter_of(runner).measure(runner, None)["latency_s"][0] == 0.123456789
