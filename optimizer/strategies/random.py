"""Uniform random search, and grid search: the yardsticks."""

from collections.abc import Iterator
from random import Random

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.objective import Score
from optimizer.space import Float, Point


class RandomProposer:
    """Each valid configuration with the same probability (see Feasible.sample for the exception)."""

    def __init__(self, feasible: Feasible, rng: Random) -> None:
        self._feasible, self._rng = feasible, rng

    def propose(self) -> Point:
        return self._feasible.sample(self._rng)

    def refuse(self) -> None: ...
    def accept(self, point: Point) -> None: ...
    def learn(self, point: Point, score: Score) -> None: ...


class GridProposer:
    """Every valid configuration in order. Raises ConfigError where they can't be listed."""

    def __init__(self, feasible: Feasible) -> None:
        if continuous := [k.name for k in feasible.space.knobs if isinstance(k.domain, Float)]:
            raise ConfigError(
                f"strategy=grid can't list the values of {', '.join(continuous)}: write a range(a, b, step) or "
                f"choice(…), as in space.{continuous[0]}='choice(0.1, 0.2)', or take another strategy."
            )
        if not feasible.enumerable:
            raise ConfigError(
                f"strategy=grid can't list {feasible.count or 'so many'} configurations: pin or narrow some knobs "
                "(space.NAME=VALUE), or take another strategy."
            )
        self._points: Iterator[Point] = feasible.points()

    def propose(self) -> Point | None:
        return next(self._points, None)

    def refuse(self) -> None: ...
    def accept(self, point: Point) -> None: ...
    def learn(self, point: Point, score: Score) -> None: ...
