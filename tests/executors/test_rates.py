"""As many builds at once as keep a device busy: no more, no fewer, in order, and the same candidates however many."""

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
from simple import FakeClock, bench_of, recipe_of, strategy_of, synthetic

from optimizer.executors.local import LocalExecutor
from optimizer.executors.rates import WINDOW, Turnstile, workers_for
from optimizer.recipe import Budget
from optimizer.study import search
from optimizer.targets.synthetic import SyntheticTarget


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


def test_builds_take_turns_in_the_order_of_coming() -> None:
    clock, order = FakeClock(), list[int]()
    turnstile = Turnstile(4, clock)
    for _ in range(WINDOW):  # builds that take nothing beside measurements that take a second
        with turnstile.turn():
            clock.now += 0.001
        clock.now += 1.0
    assert turnstile.workers == 1
    held, entered = threading.Event(), threading.Semaphore(0)

    def build(number: int) -> None:
        with turnstile.turn():
            order.append(number)
            entered.release()
            held.wait(10)

    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(build, number)
            if number == 0:
                assert entered.acquire(timeout=10)
            time.sleep(0.02)  # so that each has come before the next
        assert order == [0], "one at a time"
        held.set()
    assert order == [0, 1, 2, 3]


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
