"""Which words of compilers does a point stand for?"""

from collections.abc import Mapping, Sequence

from optimizer.export.shipment import Shipment
from optimizer.space import Point, Space


def flag_words(space: Space, point: Point, base: Sequence[str]) -> list[str]:
    """The compiler's words: the target's own, then the knobs' flags."""
    words = list(base)
    for knob in space.knobs:
        if knob.effect.kind == "flag" and knob.name in point:
            words += knob.effect.words(point[knob.name])
    return words


def flags_of(shipment: Shipment) -> list[str]:
    return flag_words(shipment.space, shipment.trial.point, shipment.study.recipe.target.options.get("flags") or [])


def macros(space: Space, point: Point) -> Mapping[str, str]:
    active = [k for k in space.knobs if k.effect.kind == "macro" and k.name in point]
    return {k.effect.name: k.effect.word(point[k.name]) for k in active}


def macro_words(space: Space, point: Point) -> list[str]:
    return [f"-D{name}={value}" for name, value in macros(space, point).items()]


def macros_of(shipment: Shipment) -> Mapping[str, str]:
    return macros(shipment.space, shipment.trial.point)


def kinds(shipment: Shipment) -> set[str]:
    """What the knobs act on: flag, macro, env, option, setting."""
    return {k.effect.kind for k in shipment.space.knobs}


def compiles(shipment: Shipment) -> bool:
    """Whether a compiler takes part whose flags are known."""
    return "flag" in kinds(shipment) or "flags" in shipment.study.recipe.target.options
