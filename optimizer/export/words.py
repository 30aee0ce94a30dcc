"""Which words of compilers does a point stand for?"""

from collections.abc import Mapping, Sequence

from optimizer.export.shipment import Shipment
from optimizer.space import Point, Space
from optimizer.targets.builds import words_of


def flag_words(space: Space, point: Point, base: Sequence[str]) -> list[str]:
    """The compiler's words: the target's own, then the knobs' flags."""
    return [*base, *words_of(space, point, "flag")]


def flags_of(shipment: Shipment) -> list[str]:
    return flag_words(shipment.space, shipment.trial.point, shipment.study.recipe.target.options.get("flags") or [])


def macros(space: Space, point: Point) -> Mapping[str, str]:
    active = [k for k in space.knobs if k.effect.kind == "macro" and k.name in point]
    return {k.effect.name: k.effect.word(point[k.name]) for k in active}


def macro_words(space: Space, point: Point) -> list[str]:
    return list(words_of(space, point, "macro"))


def macros_of(shipment: Shipment) -> Mapping[str, str]:
    return macros(shipment.space, shipment.trial.point)


def backslashed(word: str) -> str:
    """As compilers read a response file, and xargs its input: white space splits, quotes join (xargs knows no escapes
    within them), a backslash quotes."""
    return "".join(f"\\{c}" if c.isspace() or c in "\"'\\" else c for c in word)


def kinds(shipment: Shipment) -> set[str]:
    """What the knobs act on: flag, macro, env, option, setting."""
    return {k.effect.kind for k in shipment.space.knobs}


def compiles(shipment: Shipment) -> bool:
    """Whether a compiler takes part whose flags are known."""
    return "flag" in kinds(shipment) or "flags" in shipment.study.recipe.target.options
