"""How does Kernel Tuner run a strategy of ours? A class for its `OptAlgWrapper`: ask, measure, tell."""

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

from optimizer.config import files
from optimizer.config.objects import strategy_for
from optimizer.feasible import Feasible
from optimizer.protocols import Strategy
from optimizer.race import GOAL
from optimizer.readers.kernel_tuner import MS, recorded_samples
from optimizer.recipe import Part
from optimizer.space import Choice, Effect, Knob, Point, Space, Value, is_number
from optimizer.trial import Check, Failed, Measured, Outcome, Reason, Stage, Trial

FAILED = sys.float_info.max  # what Kernel Tuner's cost function returns for a configuration that failed


class Ours:
    """One run of the strategy `strategy`, with its configured options. The objective is a time, in milliseconds."""

    costfunc_kwargs = {"scaling": False, "snap": False}  # noqa: RUF012 - Kernel Tuner sets it where it is missing
    constraint_aware = False

    def __init__(self, strategy: str, **options: Any) -> None:
        self.strategy = strategy

    def __call__(self, func: Callable[[tuple[Value, ...]], float], searchspace: Any) -> None:
        """Until Kernel Tuner's exception ends it, or nothing is left to ask."""
        names = tuple(searchspace.tune_params)
        space = space_of(searchspace.tune_params, [dict(zip(names, c, strict=True)) for c in searchspace.list])
        strategy = made(
            self.strategy, Feasible(space), random.getrandbits(32)
        )  # the stream that Kernel Tuner draws from
        while candidates := strategy.ask(1):
            for candidate in candidates:
                cost = func(tuple(candidate.point[name] for name in names))
                strategy.tell(Trial(candidate, outcome_of(cost)))


def made(name: str, feasible: Feasible, seed: int) -> Strategy:
    options = {k: v for k, v in files().text(f"strategy/{name}").items() if k != "name"}
    return strategy_for(Part(name, options), GOAL, seed, feasible, ())


def space_of(values: dict[str, Sequence[Value]], points: Sequence[dict[str, Value]]) -> Space:
    """The parameters, numbers in order, and no other points than these."""
    return Space(tuple(_knob(name, tuple(found)) for name, found in values.items())).listing(Point(p) for p in points)


def _knob(name: str, values: tuple[Value, ...]) -> Knob:
    numbers = all(is_number(v) for v in values)
    kept = tuple(sorted(values)) if numbers else values
    return Knob(name, Choice(kept, ordered=numbers), Effect("setting", name), kept[0])


def outcome_of(cost: float) -> Outcome:
    if cost == FAILED:
        return Failed(Stage.MEASURE, Reason.CRASH, "Kernel Tuner tells no cause")
    return Measured(Check(), recorded_samples(cost * MS, ()))
