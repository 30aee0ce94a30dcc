"""How are numbers written for people? Three significant digits and a unit that fits."""

import math
from collections.abc import Mapping

from optimizer.metrics import unit_of
from optimizer.space import Point, Value

_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_BYTES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def quantity(metric: str, value: float) -> str:
    """A metric's value with its unit: 0.00123 s → 1.23 ms."""
    match unit := unit_of(metric):
        case "s":
            return _scaled(value, _SECONDS)
        case "B":
            return _scaled(value, _BYTES)
        case "%":
            return f"{value:.1f} %"
        case "1" | None:
            return f"{value:.4g}"
        case _:
            size, prefix = _unit(value, _SI)
            return f"{value / size:.3g} {prefix}{unit}" if unit != "1/s" else f"{value:.3g} /s"


def unit_for(metric: str, value: float) -> tuple[float, str]:
    """What the metric is divided by, and the unit it is in then, so that `value` reads well: for an axis."""
    match unit := unit_of(metric):
        case "s":
            return _unit(value, _SECONDS)
        case "B":
            return _unit(value, _BYTES)
        case "1" | None:
            return 1.0, ""
        case "%" | "1/s":
            return 1.0, unit
        case _:
            size, prefix = _unit(value, _SI)
            return size, f"{prefix}{unit}"


def _unit(value: float, units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    return next(((s, n) for s, n in units if abs(value) >= s), units[-1])


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    size, name = _unit(value, units)
    number = value / size
    return f"{number:.3g} {name}" if abs(number) < 1000 else f"{number:.0f} {name}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 95 → 1 min 35 s."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def value_text(value: Value) -> str:
    """A knob's value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def changes(point: Point, baseline: Mapping[str, Value]) -> str:
    """What a point does otherwise than the baseline: 'march=native threads=2'. Knobs that it leaves out because their
    condition no longer holds follow from the others and are not named."""
    changed = [f"{n}={value_text(v)}" for n, v in point.items() if n not in baseline or baseline[n] != v]
    return " ".join(changed) or "the baseline"


def first_words(log: str) -> str:
    """The telling line of a log: the first that speaks of an error, else the first that is no command."""
    lines = [s for line in log.splitlines() if (s := line.strip()) and not s.startswith("$ ")]
    return next((s for s in lines if "error" in s.lower()), lines[0] if lines else "")[:120]
