"""Where do builds run? On this machine: a few at a time, or at once in the caller's thread."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from threading import RLock

from optimizer.executors.rates import WINDOW, workers_for
from optimizer.protocols import Clock, Target
from optimizer.space import Point
from optimizer.trial import Artifact, TrialError

Build = Future[tuple[Artifact, float]]


class LocalExecutor:
    """A pool of threads, each waiting for a compiler's process: at most `workers` at once, and no more than keep up
    with the device where it measures meanwhile. What has not begun can be cancelled."""

    def __init__(self, workers: int, clock: Clock = time.perf_counter) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="build")
        self._most, self._clock = workers, clock
        self._lock, self._running = RLock(), 0  # a build that is done at once ends while it begins
        self._queue: deque[tuple[Build, Callable[[], tuple[Artifact, float]]]] = deque()
        self._spans: deque[tuple[float, float]] = deque(maxlen=WINDOW)

    @property
    def workers(self) -> int:
        """How many builds may go on now."""
        return workers_for(self._spans, self._most)

    def build(self, target: Target, point: Point, *, fresh: bool = False) -> Build:
        work = partial(_built, target, point, fresh, time.perf_counter)
        if target.shares_cpu:  # nothing is measured before all that was asked for is built
            return self._pool.submit(work)
        future: Build = Future()
        with self._lock:
            self._queue.append((future, work))
            self._begin()
        return future

    def close(self) -> None:
        with self._lock:
            for future, _ in self._queue:
                future.cancel()
            self._queue.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        """What may begin, in the order of asking; the lock is held."""
        while self._queue and self._running < self.workers:
            future, work = self._queue.popleft()
            if future.set_running_or_notify_cancel():
                self._running += 1
                self._pool.submit(work).add_done_callback(partial(self._ended, future, self._clock()))

    def _ended(self, future: Build, start_s: float, done: Build) -> None:
        with self._lock:
            self._running -= 1
            self._spans.append((start_s, self._clock()))
            self._begin()
        if done.cancelled():
            future.set_exception(CancelledError())
        elif (error := done.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())


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
