"""How many builds at once does a device need that measures meanwhile? As many as keep up with it, and no more."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from math import floor
from threading import Condition

from optimizer.protocols import Clock

WINDOW = 12  # builds that are looked back on
SPARE = 1.5  # builds at once per build that was going on: their times vary, and a device that waits is dear


def workers_for(spans: "deque[tuple[float, float]]", most: int) -> int:
    """`spans`: begin and end of the latest builds, seconds. By Little's law their time over the time that passed is how
    many went on at once. Where that is all that were allowed, more would be used; where the device is slower than the
    builds, few are."""
    if len(spans) < WINDOW:
        return most
    passed_s = max(end for _, end in spans) - min(start for start, _ in spans)
    busy_s = sum(end - start for start, end in spans)
    return max(1, min(most, floor(SPARE * busy_s / max(passed_s, 1e-9)) + 1))


class Turnstile:
    """Lets as many builds go on at once as the latest ones call for, those that came first first."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most, self._clock = most, clock
        self._spans: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._changed, self._running, self._waiting = Condition(), 0, deque[object]()
        self.workers = most

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._changed:
            self._waiting.append(mine := object())
            self._changed.wait_for(lambda: self._waiting[0] is mine and self._running < self.workers)
            self._waiting.popleft()
            self._running += 1
            self._changed.notify_all()
        start_s = self._clock()
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._spans.append((start_s, self._clock()))
                self.workers = workers_for(self._spans, self._most)
                self._changed.notify_all()
