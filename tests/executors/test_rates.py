"""As many builds at once as keep a device busy: no more, no fewer, in order, and the same candidates however many."""

import threading
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest
from simple import MIXED, FakeClock, bench_of, recipe_of, strategy_of, synthetic, until

from optimizer.executors.local import LocalExecutor
from optimizer.executors.rates import WINDOW, workers_for
from optimizer.feasible import Feasible
from optimizer.protocols import Runner
from optimizer.recipe import Budget
from optimizer.space import Point
from optimizer.study import search
from optimizer.targets.synthetic import SyntheticTarget
from optimizer.trial import Artifact, TrialError


def spans(build_s: float, every_s: float) -> "deque[tuple[float, float]]":
    return deque((i * every_s, i * every_s + build_s) for i in range(WINDOW))


def test_all_are_allowed_until_something_is_known() -> None:
    assert workers_for(deque([(0.0, 1.0)] * (WINDOW - 1)), 8) == 8


@pytest.mark.parametrize(
    ("build_s", "every_s", "workers"), [(0.1, 1.0, 1), (0.9, 1.0, 2), (2.0, 1.0, 3), (4.0, 1.0, 5), (100.0, 1.0, 8)]
)
def test_workers_follow_the_rate_of_builds_against_that_of_measurements(
    build_s: float, every_s: float, workers: int
) -> None:
    assert workers_for(spans(build_s, every_s), 8) == workers


def test_where_all_that_are_allowed_are_busy_more_are_allowed() -> None:
    """`workers` builds beside each other all the time: the device waits for them."""
    for workers in (1, 2, 4, 7):
        busy = deque((i // workers * 1.0, i // workers * 1.0 + 1.0) for i in range(WINDOW * workers))
        assert workers < workers_for(deque(list(busy)[-WINDOW:], maxlen=WINDOW), 100)


@dataclass
class Held:
    """A target whose builds wait until they are let go; notes what has begun."""

    gate: threading.Event = field(default_factory=threading.Event)
    begun: list[object] = field(default_factory=list)
    shares_cpu: bool = False

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        self.begun.append(point["n"])
        assert self.gate.wait(20)
        return Artifact(point.key, point.key)

    def open(self, artifact: Artifact) -> AbstractContextManager[Runner]:
        raise AssertionError("nothing is opened here")

    def fingerprint(self) -> dict[str, str]:
        return {}


def slow_device(clock: FakeClock) -> LocalExecutor:
    """An executor that has seen builds of nothing beside measurements of a second."""
    executor, target = LocalExecutor(4, clock), Held()
    target.gate.set()
    for n in range(WINDOW):
        executor.build(target, Point({"n": n})).result(20)
        clock.now += 1.0
    return executor


def test_builds_go_on_one_after_the_other_where_that_keeps_up_in_the_order_of_asking() -> None:
    executor, target = slow_device(FakeClock()), Held()
    assert executor.workers == 1
    builds = [executor.build(target, Point({"n": n})) for n in range(4)]
    until(lambda: target.begun == [0])
    assert builds[2].cancel(), "what has not begun is dropped for nothing"
    target.gate.set()
    assert [builds[n].result(20)[0].key for n in (0, 1, 3)] == [Point({"n": n}).key for n in (0, 1, 3)]
    assert target.begun == [0, 1, 3]
    executor.close()


def test_closing_drops_what_waits_and_waits_for_what_builds() -> None:
    executor, target = slow_device(FakeClock()), Held()
    builds = [executor.build(target, Point({"n": n})) for n in range(3)]
    until(lambda: target.begun == [0])
    threading.Timer(0.1, target.gate.set).start()
    executor.close()
    assert builds[0].done() and not builds[0].cancelled()
    assert builds[1].cancelled() and builds[2].cancelled() and target.begun == [0]


def test_on_the_processor_that_measures_all_build_at_once() -> None:
    executor, target = slow_device(FakeClock()), Held(shares_cpu=True)
    builds = [executor.build(target, Point({"n": n})) for n in range(4)]
    until(lambda: len(target.begun) == 4)
    target.gate.set()
    assert all(build.result(20) for build in builds)
    executor.close()


def test_a_point_that_does_not_compile_is_told_as_such() -> None:
    executor = LocalExecutor(2)
    target = synthetic(failing=1.0, shares_cpu=False)
    bad = next(point for point in Feasible(MIXED).points() if target.fails(point))
    with pytest.raises(TrialError):
        executor.build(target, bad).result(20)
    executor.close()


@pytest.mark.parametrize("build_s", [0.0, 0.01])
def test_how_many_builds_go_on_changes_no_candidate(build_s: float) -> None:
    def candidates(workers: int) -> list[object]:
        recipe = recipe_of(ahead=4)
        target: SyntheticTarget = synthetic(build_s=build_s, shares_cpu=False)
        bench = bench_of(target, recipe, workers=workers)
        assert isinstance(bench.executor, LocalExecutor) == bool(workers)
        try:
            return [t.candidate for t in search(recipe, strategy_of(recipe), bench, Budget(trials=30))]
        finally:
            bench.executor.close()

    assert candidates(0) == candidates(1) == candidates(8)
