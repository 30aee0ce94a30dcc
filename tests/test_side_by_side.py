"""Several devices of one kind: trials beside each other, and a search that is the same as on one."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest
from simple import FakeDevice, Tape, bench_of, recipe_of, strategy_of, synthetic

from optimizer.errors import ConfigError
from optimizer.measure import LiveMeter
from optimizer.protocols import Runner, Target
from optimizer.recipe import Budget, Recipe
from optimizer.space import Point
from optimizer.study import Bench, Seat, search
from optimizer.targets.synthetic import SyntheticTarget
from optimizer.trial import Artifact, Check, Failed, Reason, Samples, Trial, TrialError


@dataclass
class LockedDevice(FakeDevice):
    """As a real one: whoever wants it waits."""

    _held: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._held, super().alone():
            yield


def devices_of(count: int) -> list[LockedDevice]:
    return [LockedDevice(lock=f"fake-{i}") for i in range(count)]


def bench(target: Target, recipe: Recipe, devices: Sequence[FakeDevice], workers: int = 4) -> Bench:
    made = bench_of(target, recipe, devices[0], workers=workers)
    more = tuple(Seat(target, d, LiveMeter(d, recipe.plan, recipe.goal)) for d in devices[1:])
    return Bench(made.target, made.device, made.executor, made.meter, more=more)


def searched_on(
    count: int, target: Target, trials: int, *, ahead: int = 4, recorded: Sequence[Trial] = (), seed: int = 3
) -> tuple[list[Trial], list[LockedDevice], Tape]:
    recipe, devices, tape = recipe_of(seed=seed, ahead=ahead), devices_of(count), Tape()
    made = bench(target, recipe, devices)
    found = list(search(recipe, strategy_of(recipe), made, Budget(trials=trials), recorded, listeners=[tape]))
    made.executor.close()
    return found, devices, tape


def outcomes(trials: Sequence[Trial]) -> list[object]:
    """What a strategy learns of trials; how often a reading was taken is a matter of time."""
    return [
        (t.candidate, t.outcome.reason if isinstance(t.outcome, Failed) else set(t.outcome.samples["latency_s"]))
        for t in trials
    ]


@dataclass
class Uneven:
    """A target whose points take different times to build and run, and some of which share their code."""

    inner: SyntheticTarget
    shares_cpu: bool = False
    alike: int = 5  # as many distinct programs
    running: int = 0
    most_running: int = 0
    opened: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fingerprint(self) -> Mapping[str, str]:
        return {}

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        code = int(point.key, 16)
        time.sleep(0.001 * (code % 7))
        made = self.inner.build(point)
        return Artifact(made.key, f"code{code % self.alike}", arguments=())

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator[Runner]:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self.opened.append(artifact.code_key)
        time.sleep(0.004 if artifact.code_key == "code1" else 0.001)
        yield Constant(1e-3 * (1 + int(artifact.code_key[4:])), broken=artifact.code_key == "code2")
        with self._lock:
            self.running -= 1


@dataclass
class Constant:
    latency_s: float
    broken: bool
    pid: int | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    def verify(self) -> Check:
        if self.broken:
            raise TrialError(Reason.WRONG, "wrong")
        return Check()

    def run(self, n: int) -> Samples:
        return {"latency_s": (self.latency_s,) * n}


@pytest.mark.parametrize("count", [2, 3])
def test_the_number_of_devices_changes_nothing(count: int) -> None:
    one, _, _ = searched_on(1, synthetic(failing=0.3, shares_cpu=False), 30)
    several, devices, tape = searched_on(count, synthetic(failing=0.3, shares_cpu=False, run_s=0.0002), 30)
    assert outcomes(one) == outcomes(several)
    assert any(isinstance(t.outcome, Failed) for t in one)
    assert tape.events == [f"trial {i}" for i in range(30)], "told in the order of asking"
    assert all(d.most_holders == 1 for d in devices)


@pytest.mark.parametrize("seed", range(4))
def test_points_that_share_their_code_are_measured_once_by_the_first_of_them(seed: int) -> None:
    one_target, several_target = Uneven(synthetic()), Uneven(synthetic())
    one, _, _ = searched_on(1, one_target, 25, ahead=6, seed=seed)
    several, _, _ = searched_on(3, several_target, 25, ahead=6, seed=seed)
    assert outcomes(one) == outcomes(several)
    assert [t.outcome.same_as for t in one] == [t.outcome.same_as for t in several]
    assert sorted(one_target.opened) == sorted(several_target.opened)
    assert any(t.outcome.same_as is not None for t in several)


def test_trials_run_beside_each_other() -> None:
    """Each waits for another that runs at the same time: one after another, none would ever end."""
    meeting = threading.Barrier(2, timeout=20)

    class Meeting(Uneven):
        @contextmanager
        def open(self, artifact: Artifact) -> Iterator[Runner]:
            if self.opened:
                meeting.wait()
            with super().open(artifact) as runner:
                yield runner

    target = Meeting(synthetic(), alike=1 << 60)
    trials, devices, _ = searched_on(2, target, 9)
    assert len(trials) == 9
    assert all(d.most_holders == 1 for d in devices)


def test_never_more_at_once_than_there_are_devices() -> None:
    target = Uneven(synthetic(), alike=1 << 60)
    searched_on(2, target, 20, ahead=8)
    assert 1 <= target.most_running <= 2


def test_the_baseline_is_measured_before_anything_else_is() -> None:
    class Broken(Uneven):
        @contextmanager
        def open(self, artifact: Artifact) -> Iterator[Runner]:
            self.opened.append(artifact.code_key)
            time.sleep(0.05)
            yield Constant(1.0, broken=True)

    target = Broken(synthetic(), alike=1 << 60)
    with pytest.raises(ConfigError, match="baseline itself failed"):
        searched_on(3, target, 10)
    assert len(target.opened) == 1


def test_a_search_on_several_devices_resumes_what_one_device_recorded() -> None:
    whole, _, _ = searched_on(1, synthetic(failing=0.3, shares_cpu=False), 20)
    again, _, tape = searched_on(3, synthetic(failing=0.3, shares_cpu=False), 20, recorded=whole[:9])
    assert outcomes(again) == outcomes(whole)
    assert tape.events == [f"trial {i}" for i in range(9, 20)]
    assert [t.elapsed_s for t in again] == sorted(t.elapsed_s for t in again)


def test_when_the_time_is_up_nothing_more_is_begun() -> None:
    recipe, devices = recipe_of(), devices_of(2)
    target = Uneven(synthetic(), alike=1 << 60)
    made = bench(target, recipe, devices)
    trials = list(search(recipe, strategy_of(recipe), made, Budget(trials=10_000, seconds=0.3)))
    made.executor.close()
    assert 1 <= len(trials) < 10_000
    assert [t.number for t in trials] == list(range(len(trials)))


def test_a_bug_in_one_trial_ends_the_search() -> None:
    class Buggy(Uneven):
        @contextmanager
        def open(self, artifact: Artifact) -> Iterator[Runner]:
            if len(self.opened) >= 3:
                raise ZeroDivisionError("a bug")
            with super().open(artifact) as runner:
                yield runner

    with pytest.raises(ZeroDivisionError):
        searched_on(2, Buggy(synthetic(), alike=1 << 60), 20)


def test_a_search_that_is_left_begins_nothing_more() -> None:
    recipe, devices = recipe_of(ahead=8), devices_of(2)
    target = Uneven(synthetic(), alike=1 << 60)
    made = bench(target, recipe, devices)
    running = search(recipe, strategy_of(recipe), made, Budget(trials=200))
    for _ in range(3):
        next(running)
    with suppress(AttributeError):
        running.close()  # type: ignore[attr-defined]
    made.executor.close()
    deadline = time.monotonic() + 10
    while target.running and time.monotonic() < deadline:
        time.sleep(0.005)
    count = len(target.opened)
    time.sleep(0.05)
    assert len(target.opened) == count <= 3 + 8
