"""What did a search end with, in a sentence or two, and may it be believed?"""

import math
from collections.abc import Iterator, Mapping

from optimizer.journal import Study
from optimizer.stats import Judgement
from optimizer.trial import Trial

LOAD_PCT = 5.0  # load by others that is worth a warning


def leader(study: Study) -> Trial:
    """The trial that the report is about: the winner, else the best as measured, else number 0."""
    return study.winner or study.best or study.trials[0]


def passed_over(study: Study) -> list[str]:
    """Why trials that looked better in the search are not the winner."""
    told = study.ending.passed_over if study.ending else {}
    return [f"Trial {number} was passed over: measured again, {why}." for number, why in told.items()]


def verdict_line(study: Study) -> str:
    """The result in a sentence or two: what nothing ran for says so first."""
    return _verdict(study) if study.environment.runs else f"**Compile side only, nothing ran.** {_verdict(study)}"


def _verdict(study: Study) -> str:
    if study.baseline is None:
        return "The baseline was not measured, so nothing could be proved."
    verdict = study.ending.verdict if study.ending else None
    if verdict is None:
        return f"**Unconfirmed**: trial {leader(study).number} is the best as measured; no verdict was reached."
    interval = f"(95% interval {verdict.low:.3f} to {verdict.high:.3f}, {verdict.rounds} interleaved rounds)"
    if verdict.judgement is Judgement.BETTER:
        return f"**Better**: trial {verdict.number} gains {verdict.ratio:.3f}× in {verdict.metric} {interval}."
    if verdict.number == 0:
        return f"**Same**: nothing beat the baseline, which against itself measured {verdict.ratio:.3f}× {interval}."
    return (
        f"**Same**: the leading finalist, trial {verdict.number}, can't be told from the baseline: "
        f"{verdict.ratio:.3f}× in {verdict.metric} {interval}.{_told_apart(study)}"
    )


def _told_apart(study: Study) -> str:
    return f" What can be told here is more than {text}." if (text := floor_text(study)) else ""


def floor_of(study: Study) -> float | None:
    """How far a ratio must lie from 1 to be told from it, percent: as measured on its machine before; None: never."""
    told = study.environment.host.get("noise")
    pct = told.get("pct") if isinstance(told, Mapping) else None
    return float(pct) if isinstance(pct, int | float) and math.isfinite(pct) else None


def floor_text(study: Study) -> str:
    """In words; "" where none was measured."""
    pct, told = floor_of(study), study.environment.host.get("noise")
    if pct is None or not isinstance(told, Mapping):
        return ""
    return f"±{pct:.2g} % ({told.get('target')} against itself, {told.get('rounds')} rounds: doctor --noise)"


def load_warning(study: Study) -> Iterator[str]:
    """A verdict reached on a busy machine tells of the load as well as of the configuration."""
    if study.ending and study.ending.verdict and study.ending.load_pct > LOAD_PCT:
        yield (
            f"Others used {study.ending.load_pct:.0f} % of the machine while the winner was confirmed. Programs that "
            "use all cores suffer most from that, so the ratio tells of the load too. Confirm again on a quiet machine."
        )
