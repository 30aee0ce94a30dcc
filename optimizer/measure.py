"""How is one point measured on a noisy machine? Warm-up, then blocks of readings until the median is known."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from optimizer.objective import Goal
from optimizer.protocols import Clock, Device, Runner
from optimizer.recipe import Plan
from optimizer.stats import Estimate, enough, hopeless
from optimizer.trial import Samples

BLOCK_S = 0.3  # /proc/stat counts in hundredths of a second: a shorter block says little of other load
FEWEST_SAMPLES = 3  # taken however slow a point is
MAX_THROTTLED_PCT = 0.0  # a clock that heat holds down once says nothing of the code


@dataclass(frozen=True, slots=True)
class LiveMeter:
    """Measures runners on a device, for a goal."""

    device: Device
    plan: Plan
    goal: Goal
    clock: Clock = time.perf_counter

    def measure(self, runner: Runner, best: Estimate | None) -> Samples:
        """Samples of every metric. `best`: losses of the best point so far, for giving up on a hopeless one.

        Blocks in which others used more than `max_foreign_load_pct` of the machine, or in which a GPU was throttled,
        are kept only where there was no time for enough undisturbed ones. Raises TrialError as the runner does.
        """
        once = _rounded({name: (value,) for name, value in runner.facts.items()})
        run_s = self._warmed(runner)
        count = max(1, min(self.plan.max_samples, int(BLOCK_S / max(run_s, 1e-6))))
        quiet: list[Samples] = []
        disturbed: list[Samples] = []
        start = self.clock()
        while True:
            block = self._block(runner, count)
            (disturbed if is_disturbed(block, self.plan) else quiet).append(block)
            taken = joined(quiet)
            if self._hopeless(taken, best):
                return once | taken | {"given_up": (1.0,)}
            if self._settled(taken):
                return once | taken
            everything = joined(quiet + disturbed)
            spent_s, so_far = self.clock() - start, self._count(everything)
            out_of_time = spent_s >= self.plan.max_seconds and so_far >= FEWEST_SAMPLES
            if out_of_time or so_far >= 2 * self.plan.max_samples:
                return once | (taken if self._count(taken) >= self.plan.min_samples else everything)

    def _warmed(self, runner: Runner) -> float:
        """Runs whose readings are thrown away; how long the last one took, seconds."""
        for _ in range(max(1, self.plan.warmups)):
            start = self.clock()
            runner.run(1)
            run_s = self.clock() - start
            if run_s > self.plan.max_seconds / 4:
                break  # a run of seconds has warmed the caches by itself
        return run_s

    def warm(self, runner: Runner) -> None:
        runner.run(1)

    def visit(self, runner: Runner, seconds: float) -> Samples:
        """Readings of a warm runner for about `seconds` (at least one): a turn in an interleaved comparison."""

        def readings() -> Samples:
            start = self.clock()
            first = runner.run(1)
            run_s = max(self.clock() - start, 1e-6)
            more = min(self.plan.max_samples, int(seconds / run_s)) - 1
            return joined([first, runner.run(more)]) if more > 0 else first

        return self._watched(runner, readings)

    def _block(self, runner: Runner, count: int) -> Samples:
        return _rounded(self._watched(runner, lambda: runner.run(count)))

    def _watched(self, runner: Runner, readings: Callable[[], Samples]) -> Samples:
        """Readings with what the device tells of the time; where both tell the same, the runner knows better."""
        start = self.clock()
        with self.device.watch(runner.pid) as telemetry:
            samples = readings()
        told = dict(telemetry.samples)
        if (joules := told.pop("energy_j", None)) and (one_s := _one_inference_s(samples)) is not None:
            told["energy_j"] = (joules[0] / max(self.clock() - start, 1e-6) * one_s,)
        return told | dict(samples)

    def _count(self, samples: Samples) -> int:
        return len(samples.get(self.goal.first.metric, ()) or max(samples.values(), key=len, default=()))

    def _hopeless(self, samples: Samples, best: Estimate | None) -> bool:
        """Whether the point is worse than the best with high confidence: what racing is."""
        first = self.goal.first
        if not self.plan.give_up_early or len(self.goal.objectives) > 1 or first.statistic != "median":
            return False
        return hopeless([first.loss(v) for v in samples.get(first.metric, ())], best)

    def _settled(self, samples: Samples) -> bool:
        values = samples.get(self.goal.first.metric, ())
        if len(values) < self.plan.min_samples:
            return False
        return len(values) >= self.plan.max_samples or all(
            enough(samples[o.metric], self.plan.rel_error)
            for o in self.goal.objectives
            if len(samples.get(o.metric, ())) > 1
        )


class StillMeter:
    """Where nothing runs: what is known without running is all there is."""

    def measure(self, runner: Runner, best: Estimate | None) -> Samples:
        return {name: (value,) for name, value in runner.facts.items()}

    def warm(self, runner: Runner) -> None:
        pass

    def visit(self, runner: Runner, seconds: float) -> Samples:
        return self.measure(runner, None)


def is_disturbed(samples: Samples, plan: Plan) -> bool:
    """Whether others, or heat, had a part in these readings."""
    load = samples.get("foreign_load_pct", ())
    return max(load, default=0.0) > plan.max_foreign_load_pct or is_throttled(samples)


def is_throttled(samples: Samples) -> bool:
    """Whether heat or the power supply slowed a GPU down."""
    return max(samples.get("throttled_pct", ()), default=0.0) > MAX_THROTTLED_PCT


def _one_inference_s(samples: Samples) -> float | None:
    if rates := samples.get("throughput_ips"):
        return 1.0 / median(rates)
    return median(latencies) if (latencies := samples.get("latency_s")) else None


def joined(blocks: Sequence[Samples]) -> dict[str, tuple[float, ...]]:
    """The readings of several blocks, one after another."""
    names = dict.fromkeys(name for block in blocks for name in block)
    return {name: tuple(v for block in blocks for v in block.get(name, ())) for name in names}


def _rounded(samples: Samples) -> dict[str, tuple[float, ...]]:
    """To 9 significant digits, which no clock has: a record of a hundred readings a trial stays small."""
    return {name: tuple(float(f"{v:.9g}") for v in values) for name, values in samples.items()}
