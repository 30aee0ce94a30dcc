"""Where do builds run? On this machine, a few at a time."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

from optimizer.protocols import Target
from optimizer.space import Point
from optimizer.trial import Artifact


class LocalExecutor:
    """A pool of threads, each waiting for a compiler's process."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="build")

    def build(self, target: Target, point: Point, *, fresh: bool = False) -> Future[tuple[Artifact, float]]:
        return self._pool.submit(_built, target, point, fresh)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _built(target: Target, point: Point, fresh: bool) -> tuple[Artifact, float]:
    start = time.perf_counter()
    artifact = target.build(point, fresh=fresh)
    return artifact, time.perf_counter() - start
