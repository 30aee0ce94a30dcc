"""What made readings of a study unsteady, how far can its differences be trusted, and what should be done? Pure."""

import math
from collections.abc import Iterator, Sequence
from statistics import median

from optimizer.conditions import unsteady
from optimizer.journal import Study
from optimizer.report.verdict import LOAD_PCT, floor_of, floor_text, leader, load_warning
from optimizer.stats import apart, estimate, modes
from optimizer.text import quantity
from optimizer.trial import Trial, samples_of

DRIFT = 0.05  # change of the baseline that is worth a warning, whatever its interval says
SEEN = 0.01  # change of the baseline, or distance of two heaps, that is worth one where it is sure
LOOKED_AT = 200  # trials whose readings are asked for two heaps


def noise_warnings(study: Study) -> list[str]:
    """What spoils the comparison between trials, and what to do about it; then what makes this machine unsteady."""
    found = [*load_warning(study), *_drift(study), *_loads(study), *_heat(study), *_two_heaps(study), *_wide(study)]
    small = list(_small_gain(study))
    return [*small, *found, *(unsteady(study.environment.host) if found or small else ())]


def _small_gain(study: Study) -> Iterator[str]:
    verdict, floor = study.ending.verdict if study.ending else None, floor_of(study)
    if verdict is not None and verdict.number and floor is not None and 0 < abs(verdict.ratio - 1) * 100 <= floor:
        yield (
            f"A ratio of {verdict.ratio:.3f} can't be told from 1 on this machine, where a program against itself gave "
            f"{floor_text(study)}. Take it for the same, or prove it with more rounds (measure=thorough)."
        )


def _drift(study: Study) -> Iterator[str]:
    metric = study.recipe.goal.first.metric
    if study.baseline is None or not (first := samples_of(study.baseline).get(metric)) or not median(first):
        return
    readings = {after: s[metric] for after, s in study.drift if s.get(metric)}
    far = {after: median(values) / median(first) - 1 for after, values in readings.items()}
    bound = max(SEEN, (floor_of(study) or 0.0) / 100)
    sure = {n: f for n, f in far.items() if abs(f) > DRIFT or (abs(f) > bound and apart(first, readings[n]))}
    if not sure:
        return
    worst = max(sure, key=lambda after: abs(sure[after]))
    yield (
        f"The machine drifted: the baseline's {metric}, read again after trial {worst}, had changed by "
        f"{100 * far[worst]:+.1f} % ({len(sure)} of {len(far)} such readings differ). Single trials compare that "
        "badly; the verdict, measured interleaved, does not. Let the machine warm up before a search, and see that "
        "nothing else begins or ends meanwhile."
    )


def _loads(study: Study) -> Iterator[str]:
    loads = [v for t in study.trials for v in samples_of(t).get("foreign_load_pct", ())[:1]]
    busy = sum(v > LOAD_PCT for v in loads)
    if busy > len(loads) / 4:
        yield (
            f"Others used more than {LOAD_PCT:g} % of the machine during {busy} of {len(loads)} trials. Close what "
            "runs beside the search, or give it more time (measure=thorough)."
        )


def _heat(study: Study) -> Iterator[str]:
    told = [max(v) for t in study.trials if (v := samples_of(t).get("throttled_pct"))]
    hot = sum(v > 0 for v in told)
    if hot:
        yield (
            f"Heat or the power supply held clocks down during {hot} of {len(told)} trials, in readings for which "
            "there were no better ones. Cool the machine, or hold its clocks where it can keep them (a GPU's: "
            "nvidia-smi -lgc)."
        )


def _two_heaps(study: Study) -> Iterator[str]:
    """Of the baseline and the leader by name, of the rest by number."""
    metric = study.recipe.goal.first.metric
    if study.baseline is None:
        return
    named = {0: study.baseline, leader(study).number: leader(study)}
    step = max(1, len(study.trials) // LOOKED_AT)
    looked_at = {**{t.number: t for t in study.trials[::step]}, **named}
    hit = {n: heaps for n, t in looked_at.items() if (heaps := _heaps(samples_of(t).get(metric, ())))}
    if not (hit.keys() & named.keys()) and len(hit) <= max(1, len(looked_at) // 20):
        return
    number = next((n for n in named if n in hit), next(iter(hit)))
    low, high, share = hit[number]
    yield (
        f"Readings lie around two values in {len(hit)} of {len(looked_at)} trials (dip test): those of trial {number} "
        f"around {quantity(metric, low)} and, {100 * share:.0f} % of them, {quantity(metric, high)}. A median then "
        "stands for whichever had more. Usual causes: clocks with two levels, a neighbour on the same core, threads "
        "that move between cores (measure.cpus pins them), pages that lie otherwise."
    )


def _heaps(samples: Sequence[float]) -> tuple[float, float, float] | None:
    """Two heaps that are apart by what matters."""
    found = modes(samples)
    if found is None or found.high - found.low <= SEEN * abs(found.low):
        return None
    return found.low, found.high, found.upper_share


def _wide(study: Study) -> Iterator[str]:
    """Trials that were measured to their end and are not known as well as was asked for."""
    metric, wanted = study.recipe.goal.first.metric, study.recipe.plan.rel_error
    known = [e for t in study.trials if (e := _rel_error(t, metric)) is not None]
    wide = sorted(e for e in known if e > wanted)
    if len(wide) > len(known) / 4:
        yield (
            f"{len(wide)} of {len(known)} trials ran out of time or readings before their median was known to "
            f"{100 * wanted:g} % (most often it is to {100 * median(wide):.2g} %): smaller differences between trials "
            "are noise. Give them more time (measure=thorough), or look for what disturbs them."
        )


def _rel_error(trial: Trial, metric: str) -> float | None:
    samples = samples_of(trial)
    if "given_up" in samples or len(values := samples.get(metric, ())) < 2:
        return None
    error = estimate(values).rel_error
    return error if math.isfinite(error) else None
