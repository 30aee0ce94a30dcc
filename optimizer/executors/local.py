"""Where do builds run? On this machine: a few at a time, or at once in the caller's thread."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

from optimizer.executors.rates import Turnstile
from optimizer.protocols import Clock, Target
from optimizer.space import Point
from optimizer.trial import Artifact, TrialError


class LocalExecutor:
    """A pool of threads, each waiting for a compiler's process: at most `workers` at once, and no more than keep up
    with the device where it measures meanwhile."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="build")
        self._turnstile = Turnstile(workers, time.perf_counter)

    def build(self, target: Target, point: Point, *, fresh: bool = False) -> Future[tuple[Artifact, float]]:
        if target.shares_cpu:  # nothing is measured before all that was asked for is built
            return self._pool.submit(_built, target, point, fresh, time.perf_counter)
        return self._pool.submit(self._in_turn, target, point, fresh)

    def _in_turn(self, target: Target, point: Point, fresh: bool) -> tuple[Artifact, float]:
        with self._turnstile.turn():
            return _built(target, point, fresh, time.perf_counter)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class InlineExecutor:
    """Builds when asked to, one after the other: where building only looks something up, and time is simulated."""

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock

    def build(self, target: Target, point: Point, *, fresh: bool = False) -> Future[tuple[Artifact, float]]:
        future: Future[tuple[Artifact, float]] = Future()
        try:
            future.set_result(_built(target, point, fresh, self._clock))
        except TrialError as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        pass


def _built(target: Target, point: Point, fresh: bool, clock: Clock) -> tuple[Artifact, float]:
    start = clock()
    artifact = target.build(point, fresh=fresh)
    return artifact, clock() - start
