"""What may vary: knobs, the conditions and constraints between them, and the points they span."""

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from random import Random
from typing import Any, Literal

from optimizer.errors import ConfigError
from optimizer.expression import Expression, parse

Value = bool | int | float | str
Json = Any  # a value that json.dumps takes


def canonical(document: Json) -> str:
    """The one JSON text of a document: sorted keys, no spaces, no NaN. Hashes are made of it."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(document: Json) -> str:
    """16 hexadecimal digits (64 bits) of the sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()[:16]


class Point(Mapping[str, Value]):
    """One value for every knob that is active in it. Immutable; equal points share a `key`."""

    __slots__ = ("_items", "key")
    key: str

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._items = {name: values[name] for name in sorted(values)}
        self.key = digest(self._items)

    def __getitem__(self, name: str) -> Value:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.key == other.key

    def __repr__(self) -> str:
        return f"Point({self._items!r})"


def same(a: Value, b: Value) -> bool:
    """Equal and of the same type: 1, 1.0 and True are three values."""
    return type(a) is type(b) and a == b


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the listed values. Ordered: neighbours in the list are neighbours in effect."""

    values: tuple[Value, ...]
    ordered: bool = False

    def __post_init__(self) -> None:
        if not self.values:
            raise ConfigError("A choice needs at least one value.")
        keys = [canonical(v) for v in self.values]
        if doubled := {k for k in keys if keys.count(k) > 1}:
            raise ConfigError(f"A choice lists {', '.join(sorted(doubled))} twice.")

    @property
    def size(self) -> int:
        return len(self.values)

    def at(self, index: int) -> Value:
        return self.values[index]

    def index(self, value: Value) -> int:
        """The place of a value in the list; raises ValueError where it is not there."""
        for i, known in enumerate(self.values):
            if same(known, value):
                return i
        raise ValueError(value)

    def sample(self, rng: Random) -> Value:
        return rng.choice(self.values)

    def document(self) -> Json:
        return {"choice": list(self.values), "ordered": self.ordered}


@dataclass(frozen=True, slots=True)
class Int:
    """Integers low … high (inclusive), every `step`th; `log`: what matters is the ratio, not the difference."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    ordered = True

    def __post_init__(self) -> None:
        if self.step < 1 or self.high < self.low:
            raise ConfigError(f"There is no integer from {self.low} to {self.high} in steps of {self.step}.")
        if self.log and self.low < 1:
            raise ConfigError(f"A logarithmic range must start at 1 or above, not at {self.low}.")

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    def at(self, index: int) -> int:
        return self.low + index * self.step

    def index(self, value: Value) -> int:
        if type(value) is int and self.low <= value <= self.high and (value - self.low) % self.step == 0:
            return (value - self.low) // self.step
        raise ValueError(value)

    def sample(self, rng: Random) -> int:
        if self.log:
            drawn = int(math.exp(rng.uniform(math.log(self.low), math.log(self.high + 1))))
            return self.at(min(self.size - 1, max(0, drawn - self.low) // self.step))
        return self.at(rng.randrange(self.size))

    def document(self) -> Json:
        return {"int": [self.low, self.high], "step": self.step, "log": self.log}


@dataclass(frozen=True, slots=True)
class Float:
    """Any number from low to high; `log`: what matters is the ratio, not the difference."""

    low: float
    high: float
    log: bool = False

    ordered = True
    size = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"There is no interval from {self.low} to {self.high}.")
        if self.log and self.low <= 0:
            raise ConfigError(f"A logarithmic interval must start above 0, not at {self.low}.")

    def sample(self, rng: Random) -> float:
        if self.log:
            return min(self.high, max(self.low, math.exp(rng.uniform(math.log(self.low), math.log(self.high)))))
        return rng.uniform(self.low, self.high)

    def document(self) -> Json:
        return {"float": [self.low, self.high], "log": self.log}


Domain = Choice | Int | Float


def contains(domain: Domain, value: Value) -> bool:
    """Whether a value, type included, belongs to a domain."""
    if isinstance(domain, Float):
        return isinstance(value, float) and domain.low <= value <= domain.high
    try:
        domain.index(value)
    except ValueError:
        return False
    return True


def closest(domain: Domain, value: Value) -> Value:
    """The value of the domain nearest to one that may lie outside: itself, the nearest number, or the first."""
    if contains(domain, value):
        return value
    if isinstance(domain, Float):
        return min(domain.high, max(domain.low, float(value))) if is_number(value) else domain.low
    values = [domain.at(i) for i in range(domain.size)] if domain.size <= 10_000 else [domain.at(0)]
    numbers = [v for v in values if is_number(v)]
    if is_number(value) and numbers:
        return min(numbers, key=lambda v: abs(float(v) - float(value)))
    return values[0]


def is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


EffectKind = Literal["flag", "macro", "env", "option", "setting"]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a knob acts on.

    flag: words of the compiler's command line; macro: -DNAME=value; env: a variable of the running program;
    option: --name=value of the running program; setting: something that the target itself reads.
    `template` makes the words of any value ("{value}" stands for it); `table` maps single values to their words,
    and values that it lacks add nothing.
    """

    kind: EffectKind
    name: str = ""
    template: tuple[str, ...] = ()
    table: tuple[tuple[Value, tuple[str, ...]], ...] | None = None

    def words(self, value: Value) -> tuple[str, ...]:
        """The words that a value contributes: none, one or several. Booleans are written 1 and 0."""
        if self.table is not None:
            return next((words for known, words in self.table if same(known, value)), ())
        return tuple(word.replace("{value}", spelt(value)) for word in self.template)

    def word(self, value: Value) -> str:
        """The one word of a macro, an option or a variable: from the table where it has one, else the value itself."""
        return (*self.words(value), spelt(value))[0]

    def document(self) -> Json:
        table = None if self.table is None else [[v, list(w)] for v, w in self.table]
        return {"kind": self.kind, "name": self.name, "template": list(self.template), "table": table}


def spelt(value: Value) -> str:
    """A value as programs and compilers read it."""
    return str(int(value)) if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Knob:
    """Something that may vary. Where its condition `when` does not hold, a point has no value for it."""

    name: str
    domain: Domain
    effect: Effect
    default: Value  # what people use today; the baseline is made of the defaults
    when: Expression | None = None
    help: str = ""

    def document(self) -> Json:
        return {
            "name": self.name,
            "domain": self.domain.document(),
            "effect": self.effect.document(),
            "default": self.default,
            "when": self.when.text if self.when else None,
        }


def place(knob: Knob, value: Value | None) -> float:
    """Where a value stands in its domain, from 0 to 1; -1 where the knob is not active."""
    if value is None:
        return -1.0
    domain = knob.domain
    if isinstance(domain, Float):
        low, high, x = domain.low, domain.high, float(value)
        return math.log(x / low) / math.log(high / low) if domain.log else (x - low) / (high - low)
    if isinstance(domain, Int) and domain.log and domain.high > domain.low:
        return math.log(float(value) / domain.low) / math.log(domain.high / domain.low)
    return domain.index(value) / max(1, domain.size - 1)


@dataclass(frozen=True, slots=True)
class Constraint:
    """What must hold of every configuration. It asks nothing where a knob that it names is not active."""

    name: str
    expression: Expression


@dataclass(frozen=True)
class Space:
    """Knobs in the order of their conditions (a knob stands after those that its condition names).

    `only`: the codes of the valid points, where they are known one by one instead of by constraints, as those of a
    recording are. Such a space has no continuous knob.
    """

    knobs: tuple[Knob, ...]
    constraints: tuple[Constraint, ...] = ()
    only: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if not self.knobs:
            raise ConfigError("The space has no knobs. Name one or more with space=[…]; `optimizer spaces` lists them.")
        names = [k.name for k in self.knobs]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"The knob {name} is defined twice.")
        uses = [(f"knob {k.name}", k.when) for k in self.knobs if k.when]
        uses += [(f"constraint {c.name}", c.expression) for c in self.constraints]
        for who, expression in uses:
            if unknown := sorted(expression.names - set(names)):
                raise ConfigError(f"The {who} names {', '.join(unknown)}, which this space does not have.")
        object.__setattr__(self, "knobs", _ordered(self.knobs))

    @cached_property
    def by_name(self) -> Mapping[str, Knob]:
        return {k.name: k for k in self.knobs}

    def listing(self, points: Iterable[Mapping[str, Value]]) -> "Space":
        """The same space with no other points than these."""
        return replace(self, only=frozenset(self.code(p) for p in points))

    def code(self, point: Mapping[str, Value]) -> int:
        """A number for every point: its values' indices as digits, 0 for a knob that is not active.

        Raises ValueError where a value is in no domain, or a domain is continuous.
        """
        code = 0
        for knob in self.knobs:
            if isinstance(knob.domain, Float):
                raise ValueError(f"{knob.name} is continuous")
            digit = knob.domain.index(point[knob.name]) + 1 if knob.name in point else 0
            code = code * (knob.domain.size + 1) + digit
        return code

    def active(self, values: Mapping[str, Value]) -> Point:
        """The point that these values make: knobs whose condition does not hold are left out.

        Raises KeyError where a knob that is active has no value.
        """
        kept: dict[str, Value] = {}
        for knob in self.knobs:
            if knob.when is None or (knob.when.names <= kept.keys() and knob.when.holds(kept)):
                kept[knob.name] = values[knob.name]
        return Point(kept)

    def broken(self, point: Mapping[str, Value]) -> Constraint | None:
        """The first constraint that a point breaks, if any."""
        for constraint in self.constraints:
            if constraint.expression.names <= point.keys() and not constraint.expression.holds(point):
                return constraint
        return None

    def __contains__(self, point: Mapping[str, Value]) -> bool:
        try:
            fits = self.active(point).keys() == point.keys()
        except KeyError:
            return False
        valid = (
            fits and all(contains(self.by_name[n].domain, v) for n, v in point.items()) and self.broken(point) is None
        )
        return valid and (self.only is None or self.code(point) in self.only)

    def baseline(self, chosen: Mapping[str, Value] | None = None) -> Point:
        """The point of all defaults, each moved to the nearest value of its domain, with `chosen` values over them."""
        values = {k.name: closest(k.domain, k.default) for k in self.knobs}
        return self.active(values | dict(chosen or {}))

    def narrowed(self, kept: Mapping[str, Sequence[Value]]) -> "Space":
        """The same with these values alone for some knobs, which are choices; a default that is gone gives way to the
        closest that is left."""

        def with_fewer(knob: Knob) -> Knob:
            if knob.name not in kept or not isinstance(knob.domain, Choice):
                return knob
            domain = Choice(tuple(kept[knob.name]), knob.domain.ordered)
            return replace(knob, domain=domain, default=closest(domain, knob.default))

        return Space(tuple(map(with_fewer, self.knobs)), self.constraints, self.only)

    def document(self) -> Json:
        """All that makes two spaces the same search, as JSON (help texts do not)."""
        document = {
            "knobs": [k.document() for k in self.knobs],
            "constraints": {c.name: c.expression.text for c in self.constraints},
        }
        return document if self.only is None else {**document, "only": _packed(sorted(self.only))}


def _ordered(knobs: Sequence[Knob]) -> tuple[Knob, ...]:
    placed: dict[str, Knob] = {}
    waiting = list(knobs)
    while waiting:
        ready = [k for k in waiting if k.when is None or k.when.names <= placed.keys()]
        if not ready:
            circle = ", ".join(k.name for k in waiting)
            raise ConfigError(f"The conditions of {circle} wait for each other; one of them must go.")
        placed |= {k.name: k for k in ready}
        waiting = [k for k in waiting if k.name not in placed]
    return tuple(placed.values())


def space_from(document: Json) -> Space:
    """The inverse of Space.document. Raises ConfigError, KeyError or TypeError on anything else."""
    knobs = tuple(
        Knob(
            name=k["name"],
            domain=_domain_from(k["domain"]),
            effect=_effect_from(k["effect"]),
            default=k["default"],
            when=parse(k["when"]) if k["when"] else None,
        )
        for k in document["knobs"]
    )
    constraints = tuple(Constraint(n, parse(text)) for n, text in document["constraints"].items())
    only = document.get("only")
    return Space(knobs, constraints, None if only is None else frozenset(_unpacked(only)))


def _packed(codes: Sequence[int]) -> str:
    """Ascending numbers as text: their differences, compressed."""
    steps = [b - a for a, b in zip([0, *codes], codes, strict=False)]
    return base64.b64encode(zlib.compress(",".join(map(str, steps)).encode(), 9)).decode()


def _unpacked(text: str) -> Iterator[int]:
    steps = zlib.decompress(base64.b64decode(text)).decode()
    return accumulate(int(step) for step in steps.split(",") if step)


def _domain_from(document: Json) -> Domain:
    if "choice" in document:
        return Choice(tuple(document["choice"]), document["ordered"])
    if "int" in document:
        low, high = document["int"]
        return Int(low, high, document["step"], document["log"])
    low, high = document["float"]
    return Float(low, high, document["log"])


def _effect_from(document: Json) -> Effect:
    table = document["table"]
    return Effect(
        kind=document["kind"],
        name=document["name"],
        template=tuple(document["template"]),
        table=None if table is None else tuple((v, tuple(w)) for v, w in table),
    )
