"""How does Hydra's sweep grammar become a knob's domain?

choice(16, 32, 64) · range(1, 9) (the stop is left out, as in Python) · interval(0.0, 0.5) · int(interval(1, 64)) ·
tag(log, interval(1e-4, 1)) · tag(ordered, choice(a, b, c)) · tag(categorical, choice(1, 2, 4)) · sort(…) · a single
value. Numbers in a choice are ordered unless tagged categorical; other values are not unless tagged ordered.
"""

import math
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep
from hydra.errors import HydraException

from optimizer.errors import ConfigError
from optimizer.space import Choice, Domain, Float, Int, Value, is_number

MAX_STEPS = 100_000
TAGS = ("log", "ordered", "categorical")
SWEEPS = ("choice(", "range(", "interval(", "tag(", "sort(")


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def parse_word(word: str) -> Override:
    """A command-line word of Hydra's grammar. Raises ConfigError where it is none."""
    try:
        return _parser().parse_override(word)
    except (HydraException, ValueError) as error:  # ValueError: a number of more digits than Python reads
        raise ConfigError(
            f"'{word}' is not a setting: {str(error).splitlines()[-1].strip()}. Write KEY=VALUE."
        ) from None


def parse_domain(text: Any, name: str) -> Domain:
    """A domain as a configuration file writes it: a string of the grammar, or a plain value."""
    if not isinstance(text, str):
        return domain_of(text, name)
    return domain_of(parse_word(f"{name}={text}"), name)


def domain_of(given: Any, name: str) -> Domain:
    """The domain of a parsed word or of a plain value. Raises ConfigError naming the knob."""
    value = given.value() if isinstance(given, Override) else given
    try:
        match value:
            case ChoiceSweep():
                return _choice([_plain(v, name) for v in value.list], value.tags)
            case RangeSweep():
                return _range(value)
            case IntervalSweep():
                return _interval(value)
            case list():
                return _choice([_plain(v, name) for v in value], set())
            case str() if value.startswith(SWEEPS):
                raise ConfigError(f"the quotes around {value} make a text of it: leave them away.")
            case _:
                return Choice((_plain(value, name),))
    except (ConfigError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name}: {error}") from None


def _choice(values: list[Value], tags: set[str]) -> Choice:
    _known(tags)
    ordered = all(is_number(v) for v in values) and len(values) > 1
    if ordered and "categorical" not in tags and "ordered" not in tags:
        values = sorted(values, key=float)
    return Choice(tuple(values), ("ordered" in tags) or (ordered and "categorical" not in tags))


def _range(sweep: RangeSweep) -> Domain:
    _known(sweep.tags)
    if sweep.shuffle:
        raise ConfigError("shuffle has no meaning here; a strategy decides the order.")
    start, stop, step = sweep.start, sweep.stop, sweep.step
    if start is None or stop is None or not step:
        raise ConfigError("a range needs a start, a stop and a step that is not 0.")
    if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
        steps = range(start, stop, step)
        if not steps:
            raise ConfigError(f"range({start}, {stop}, {step}) is empty; the stop itself is left out.")
        return Int(min(steps), max(steps), abs(step), "log" in sweep.tags)
    count = int((stop - start) / step - 1e-9) + 1
    if not 0 < count <= MAX_STEPS:
        raise ConfigError(
            f"range({start}, {stop}, {step}) has {max(0, count)} values; 1 to {MAX_STEPS} can be searched."
        )
    return Choice(tuple(float(start + i * step) for i in range(count)), ordered=True)


def _interval(sweep: IntervalSweep) -> Domain:
    _known(sweep.tags)
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if low is None or high is None:
        raise ConfigError("an interval needs both ends.")
    if isinstance(low, int) and isinstance(high, int):  # as int(interval(…)) leaves them
        return Int(low, high, 1, log)
    return Float(float(low), float(high), log)


def _known(tags: set[str]) -> None:
    if unknown := sorted(tags - set(TAGS)):
        raise ConfigError(f"the tag {', '.join(unknown)} is not known; write log, ordered or categorical.")


def _plain(value: Any, name: str) -> Value:
    if isinstance(value, QuotedString):
        return str(value.text)
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ConfigError(f"'{value}' can't be a value of a knob: write a number, true, false or a word.")
