"""How do the files of conf/space become a Space?

A file maps a knob's name to {domain, what it acts on, default, when, help}; `constraints` maps a name to an expression.
What a knob acts on is one of flag, macro, env, option, setting:

    flag: -O{value}                                 words of the compiler's command line
    flag: {true: -ffast-math, lots: [-a, -b]}       by value; a value without an entry adds nothing
    macro: TILE_M                                   -DTILE_M=value, booleans as 1 and 0
    macro: {name: MODE, values: {direct: 0}}        by value (also for env and option)
    env: OMP_SCHEDULE                               a variable of the running program
    option: threads                                 --threads=value of the running program
    setting: compiler                               something that the target itself reads
"""

from collections.abc import Mapping
from typing import Any, cast, get_args

from optimizer.config.domains import parse_domain
from optimizer.errors import ConfigError, nearest
from optimizer.expression import parse
from optimizer.space import (
    Constraint,
    Domain,
    Effect,
    EffectKind,
    Float,
    Knob,
    Space,
    Value,
    closest,
    contains,
    is_number,
)

KINDS = cast(tuple[EffectKind, ...], get_args(EffectKind))
KEYS = {"domain", "default", "when", "help", *KINDS}
CONSTRAINTS = "constraints"


def space_of(node: Mapping[str, Any], domains: Mapping[str, Domain]) -> Space:
    """The space of a composed configuration; `domains` replace those of the files. Raises ConfigError."""
    knobs = {str(name): spec for name, spec in node.items() if name != CONSTRAINTS}
    for name in domains:
        if name not in knobs:
            raise ConfigError(f"There is no knob {name} in this space.{nearest(name, knobs)}")
    constraints = node.get(CONSTRAINTS) or {}
    return Space(
        tuple(_knob(name, spec, domains.get(name)) for name, spec in knobs.items()),
        tuple(Constraint(str(name), parse(str(text))) for name, text in constraints.items() if text is not None),
    )


def _knob(name: str, spec: Any, domain: Domain | None) -> Knob:
    if not name.isidentifier():
        raise ConfigError(f"'{name}' can't name a knob: conditions could not name it. Write letters, digits and _.")
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{name}: a knob is a mapping with domain, default and what it acts on, not '{spec}'.")
    if unknown := sorted(set(map(str, spec)) - KEYS):
        raise ConfigError(f"{name}: '{unknown[0]}' is not part of a knob.{nearest(unknown[0], KEYS)}")
    kinds = [k for k in KINDS if k in spec]
    if len(kinds) != 1:
        raise ConfigError(
            f"{name}: a knob acts on exactly one of {', '.join(KINDS)}; this one names {kinds or 'none'}."
        )
    if "domain" not in spec:
        raise ConfigError(f"{name}: a knob needs a domain, as in domain: choice(1, 2, 4).")
    declared = parse_domain(spec["domain"], name)
    domain = domain or declared
    default = _default(name, spec.get("default"), declared)
    when = parse(str(spec["when"])) if spec.get("when") is not None else None
    effect = _effect(name, kinds[0], spec[kinds[0]])
    for value, _ in effect.table or ():
        if not contains(declared, value):
            raise ConfigError(
                f"{name}: {kinds[0]} has words for {value!r}, which is not in the domain. "
                "(YAML reads on, off, yes and no as true and false; quote them.)"
            )
    return Knob(name, domain, effect, default, when, str(spec.get("help") or ""))


def _default(name: str, given: Any, declared: Domain) -> Value:
    if given is None:
        return declared.low if isinstance(declared, Float) else declared.at(0)
    if not isinstance(given, bool | int | float | str):
        raise ConfigError(f"{name}: the default is a single value, not '{given}'.")
    value = float(given) if isinstance(declared, Float) and is_number(given) else given
    if not contains(declared, value):
        raise ConfigError(f"{name}: the default {value!r} is not in its domain; {closest(declared, value)!r} would be.")
    return value


def _effect(name: str, kind: EffectKind, spec: Any) -> Effect:
    if kind == "flag":
        if isinstance(spec, Mapping):
            return Effect(kind, table=tuple((_value(name, v), _words(w)) for v, w in spec.items()))
        return Effect(kind, template=_words(spec))
    if isinstance(spec, str):
        return Effect(kind, name=spec, template=("{value}",))
    if isinstance(spec, Mapping) and set(spec) == {"name", "values"} and isinstance(spec["values"], Mapping):
        table = tuple((_value(name, v), (str(w),)) for v, w in spec["values"].items())
        return Effect(kind, name=str(spec["name"]), table=table)
    raise ConfigError(f"{name}: {kind} is a name, or {{name: …, values: {{value: word}}}}.")


def _words(spec: Any) -> tuple[str, ...]:
    if spec is None or spec == "":
        return ()
    return tuple(str(w) for w in spec) if isinstance(spec, list | tuple) else (str(spec),)


def _value(name: str, value: Any) -> Value:
    if isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{name}: '{value}' can't be a value.")
