"""Racers that start from what is known of the same kernel on other devices: how much is it worth, and what does a prior
that misleads cost?

    python -m optimizer race experiments/race/data/*.json.gz --budget 100 --repeats 20 --out FOLDER --strategies \\
        auto,experiments/race/transfer.py:siblings,experiments/race/transfer.py:sibling,experiments/race/transfer.py:misled

A recording's siblings are the others of the folder whose name begins alike up to the first hyphen (KERNEL-DEVICE).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random

from optimizer.config.objects import strategy_for
from optimizer.config.prior import known_of
from optimizer.feasible import Feasible
from optimizer.protocols import Strategy
from optimizer.race import GOAL, Course, Racer, ask_and_tell
from optimizer.readers.recording import key_of
from optimizer.recipe import Part
from optimizer.space import Space
from optimizer.strategies.prior import Known

DATA = Path(__file__).parent / "data"


@cache
def siblings_of(name: str) -> tuple[Path, ...]:
    """The other recordings of the same kernel."""
    kernel = name.partition("-")[0] + "-"
    return tuple(sorted(p for p in DATA.glob("*.json.gz") if key_of(p).startswith(kernel) and key_of(p) != name))


_known: dict[tuple[Path, str], Known] = {}  # by source and track: reading one takes longer than a run


def known(path: Path, track: str, space: Space) -> Known:
    if (path, track) not in _known:
        (_known[path, track],) = known_of([str(path)], Path(), GOAL, space)
    return _known[path, track]


def _racer(chosen: Callable[[Sequence[Known], int], Sequence[Known]]) -> Racer:
    """`auto` with what `chosen` makes of all siblings' records and the seed."""

    def run(course: Course, seed: int) -> None:
        space = course.track.recording.space
        sources = [known(p, course.track.name, space) for p in siblings_of(course.track.name)]

        def make(feasible: Feasible, seed: int) -> Strategy:
            prior = chosen(sources, seed) if sources else ()
            return strategy_for(Part("auto", {"prior": []}), GOAL, seed, feasible, (), prior)

        ask_and_tell(make)(course, seed)

    return run


def in_reverse(source: Known) -> Known:
    """A source that calls its worst the best: the most that a prior can mislead."""
    measured = sorted((loss, p.key, p) for p, loss in source.losses.items() if loss is not None)
    losses = [loss for loss, _, _ in measured]
    return Known(source.name, {p: loss for (_, _, p), loss in zip(measured, reversed(losses), strict=True)})


def in_any_order(source: Known, seed: int) -> Known:
    """A source whose losses belong to other points."""
    points = [p for p, loss in source.losses.items() if loss is not None]
    losses = [loss for loss in source.losses.values() if loss is not None]
    Random(seed).shuffle(losses)
    return Known(source.name, dict(zip(points, losses, strict=True)))


RACERS: Mapping[str, Racer] = {
    "siblings": _racer(lambda sources, seed: sources),
    "sibling": _racer(lambda sources, seed: [sources[seed % len(sources)]]),
    "misled": _racer(lambda sources, seed: [in_reverse(sources[seed % len(sources)])]),
    "shuffled": _racer(lambda sources, seed: [in_any_order(sources[seed % len(sources)], seed)]),
}
"""All siblings at once; one, taking turns by seed; one with its order reversed; one with its losses shuffled."""
