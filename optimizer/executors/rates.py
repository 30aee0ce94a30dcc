"""How many builds at once does a device need that measures meanwhile? As many as keep up with it, and no more."""

from collections import deque
from math import floor

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
