"""Is the champion still as good as it was? One check after another, each compared with all before it.

A regression is a broken promise (at once, by `verify`), or a change of the ratio's level that the change-point test
finds and that is at least the study's min_gain. The test looks at ratios of interleaved measurements, so a machine that
has become slower as a whole changes nothing. After a change the series begins anew at its first check on the new level:
a change is told once, and a promise that is broken stays told.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optimizer.export.exported import Exported
from optimizer.production.changepoint import change
from optimizer.production.history import IMPROVEMENT, REGRESSION, Check
from optimizer.production.places import changes
from optimizer.production.verify import DISTURBED_PCT, Verification
from optimizer.recipe import Environment


@dataclass(frozen=True)
class Level:
    """A change of the ratio's level."""

    kind: str  # regression, improvement
    since: int  # number of the first check on the new level
    before: float
    after: float


def check_of(exported: Exported, earlier: Sequence[Check], found: Verification, at_s: float) -> Check:
    """A verification as the next check of a history."""
    verdict, before = found.verdict, _before(exported, earlier)
    here = found.environment or before
    check = Check(
        number=len(earlier),
        at_s=at_s,
        finding=found.finding,
        ratio=verdict.ratio if verdict else None,
        low=verdict.low if verdict else None,
        high=verdict.high if verdict else None,
        load_pct=found.load_pct,
        environment=here,
        why=found.why,
        changed=tuple(changes(before, here)),
    )
    level = level_of([*earlier, check], exported.recipe.confirm.min_gain)
    if level is None:
        return check
    return replace(check, level=level.kind, since=level.since, before=level.before, after=level.after)


def level_of(checks: Sequence[Check], min_gain: float) -> Level | None:
    """What the last check shows together with those before it, back to the last change."""
    start = next((c.since for c in reversed(checks) if c.level and c.since is not None), 0)
    quiet = [c for c in checks[start:] if c.load_pct <= DISTURBED_PCT]
    series = [c for c in quiet if c.ratio is not None and c.ratio > 0]
    found = change([math.log(c.ratio) for c in series if c.ratio])
    if found is None or abs(found.after - found.before) < math.log1p(min_gain):
        return None
    kind = REGRESSION if found.after < found.before else IMPROVEMENT
    return Level(kind, series[found.at].number, math.exp(found.before), math.exp(found.after))


def suspects(checks: Sequence[Check], since: int) -> list[str]:
    """What changed in the environment around the first check on a new level: between it and the one before."""
    return list(checks[since].changed)


def _before(exported: Exported, earlier: Sequence[Check]) -> Environment:
    return earlier[-1].environment if earlier else exported.environment
