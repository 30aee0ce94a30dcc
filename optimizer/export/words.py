"""Which words of compilers does a trial stand for?"""

from collections.abc import Mapping, Sequence

from optimizer.export.shipment import Shipment
from optimizer.space import Space
from optimizer.trial import Trial


def flag_words(space: Space, trial: Trial, base: Sequence[str]) -> list[str]:
    """The compiler's words: the target's own, then the knobs' flags."""
    words = list(base)
    for knob in space.knobs:
        if knob.effect.kind == "flag" and knob.name in trial.point:
            words += knob.effect.words(trial.point[knob.name])
    return words


def flags_of(shipment: Shipment) -> list[str]:
    return flag_words(shipment.space, shipment.trial, shipment.study.recipe.target.options.get("flags") or [])


def macros(space: Space, trial: Trial) -> Mapping[str, str]:
    active = [k for k in space.knobs if k.effect.kind == "macro" and k.name in trial.point]
    return {k.effect.name: k.effect.word(trial.point[k.name]) for k in active}


def macros_of(shipment: Shipment) -> Mapping[str, str]:
    return macros(shipment.space, shipment.trial)


def kinds(shipment: Shipment) -> set[str]:
    """What the knobs act on: flag, macro, env, option, setting."""
    return {k.effect.kind for k in shipment.space.knobs}


def compiles(shipment: Shipment) -> bool:
    """Whether a compiler takes part whose flags are known."""
    return "flag" in kinds(shipment) or "flags" in shipment.study.recipe.target.options
