"""What is a finding? A statement with the trials it is about and the test that bears it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from optimizer.report.data import Link
from optimizer.report.resampling import Interval

Figure = float | int | str | bool | None


@dataclass(frozen=True)
class Test:
    """`holds`: True where the data bear the statement, False where they don't, None where it is a count."""

    __test__ = False  # for pytest: none of its own

    name: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    holds: bool | None = None


@dataclass(frozen=True)
class Finding:
    """`kind` is what rules go by; `about` names study, metric, knob and the like."""

    kind: str
    statement: str
    evidence: tuple[Link, ...]
    test: Test
    about: Mapping[str, str] = field(default_factory=dict)


def figure_text(value: Figure) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def interval(name: str, found: Interval) -> dict[str, Figure]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
