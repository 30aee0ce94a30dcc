"""Which readings spoil a mean? The warm-up that was counted, single far readings, answers of unequal length."""

import math
from collections.abc import Iterator, Sequence

from optimizer.journal import Study
from optimizer.report.data import links, measured, readings_of
from optimizer.report.finding import Finding, Test
from optimizer.text import quantity, value_text
from optimizer.trial import Measured, Summary, Trial

TIMES = ("latency_s", "ttft_s")
NEAR_BOUND = 0.95  # of what one far reading among n can do at most to (max − mean) / sd
MOVED = 1.1  # the mean over the mean of the others: what a far reading must make of it to be worth a word
SLOW_FIRST = 1.2
FENCE = 3.0  # interquartile ranges: Tukey's outer fence (Tukey 1977)
ENOUGH_TO_FENCE = 8


# --- warm-up inside the mean


def far_reading(s: Summary) -> tuple[float, float] | None:
    """(n, mean of the others) where a mean, a deviation and a maximum show that one reading makes the deviation.

    Of n readings none lies further above the mean than sd·√(n − 1), and one lies so far only where all others are
    equal (Samuelson 1968, for the deviation divided by n; (n − 1)/√n where divided by n − 1). Where n is not told,
    1 + ((max − mean)/sd)² is the fewest that there can be, and it is n where the others are nearly equal.
    """
    if s.mean is None or s.sd is None or s.high is None or s.sd <= 0:
        return None
    reach = (s.high - s.mean) / s.sd
    n = float(s.n or math.ceil(1 + reach**2 - 1e-3))  # a whole number; the figures are rounded
    if n < 3 or (s.n and reach < NEAR_BOUND * (s.n - 1) / math.sqrt(s.n)):
        return None
    return n, s.mean - (s.high - s.mean) / (n - 1)


def warmups(study: Study) -> Iterator[Finding]:
    """Means that one slow reading makes: the warm-up where nothing else is known of it."""
    for metric in TIMES:
        hit: list[tuple[Trial, Summary, float, float]] = []
        seen = 0
        for trial in study.trials:
            if not isinstance(trial.outcome, Measured) or (s := trial.outcome.summaries.get(metric)) is None:
                continue
            seen += s.sd is not None
            found = far_reading(s)
            if (
                found
                and s.mean is not None
                and s.sd is not None
                and (s.sd >= s.mean or (s.n and s.mean >= found[1] * MOVED))
            ):
                hit.append((trial, s, *found))
        if not hit:
            continue
        heavy = [h for h in hit if (h[1].sd or 0) >= (h[1].mean or math.inf)]
        yield from _heavy(study, metric, heavy, seen)
        if single := [h for h in hit if h not in heavy]:
            yield _single(study, metric, single, seen)


def _heavy(
    study: Study, metric: str, hit: Sequence[tuple[Trial, Summary, float, float]], seen: int
) -> Iterator[Finding]:
    if not hit:
        return
    ratios = [(s.sd or 0) / (s.mean or 1) for _, s, _, _ in hit]
    each = "; ".join(
        f"{named(t)}: mean {quantity(metric, s.mean or 0)}, sd {quantity(metric, s.sd or 0)}, "
        f"largest {quantity(metric, s.high or 0)}: one of {n:.0f} readings, the others "
        f"{quantity(metric, rest)} in the mean"
        for t, s, n, rest in hit
    )
    yield Finding(
        "warmup-in-mean",
        f"The warm-up is inside the mean: {len(hit)} of {seen} standard deviations are {min(ratios):.1f} to "
        f"{max(ratios):.1f} times their means, and one slow reading explains each ({each}).",
        links(study, [t for t, _, _, _ in hit]),
        Test(
            "one reading far from the others: (max − mean)/sd at its bound √(n − 1)",
            {
                "of": seen,
                "found": len(hit),
                **{f"sd_over_mean_{t.number}": r for (t, _, _, _), r in zip(hit, ratios, strict=True)},
                **{f"n_{t.number}": n for t, _, n, _ in hit},
                **{f"others_s_{t.number}": rest for t, _, _, rest in hit},
            },
            holds=True,
        ),
        {"study": study.name, "metric": metric},
    )


def _single(study: Study, metric: str, hit: Sequence[tuple[Trial, Summary, float, float]], seen: int) -> Finding:
    each = "; ".join(
        f"{named(t)}: {quantity(metric, s.high or 0)} among {n:.0f}, the others {quantity(metric, rest)} in the mean, "
        f"the mean {quantity(metric, s.mean or 0)}"
        for t, s, n, rest in hit
    )
    return Finding(
        "outlier-in-mean",
        f"One slow reading makes the deviation of {len(hit)} of {seen} means: {each}.",
        links(study, [t for t, _, _, _ in hit]),
        Test(
            f"(max − mean)/sd over {NEAR_BOUND:g} of its bound",
            {"of": seen, "found": len(hit), **{f"others_s_{t.number}": rest for t, _, _, rest in hit}},
            holds=True,
        ),
        {"study": study.name, "metric": metric},
    )


def named(trial: Trial) -> str:
    return "/".join(value_text(v) for v in trial.point.values())


# --- readings that are listed


def outliers(study: Study) -> Iterator[Finding]:
    """First readings that are slow, and readings beyond the outer fences."""
    slow: list[Trial] = []
    far, readings, with_far = 0, 0, []
    for trial in study.trials:
        values = readings_of(trial, "latency_s")
        if len(values) < 5:
            continue
        rest = sorted(values[1:])
        if values[0] > SLOW_FIRST * rest[-1]:
            slow.append(trial)
        if len(values) >= ENOUGH_TO_FENCE:
            ordered = sorted(values)
            low, high = ordered[len(values) // 4], ordered[(3 * len(values)) // 4]
            beyond = sum(not low - FENCE * (high - low) <= v <= high + FENCE * (high - low) for v in values)
            readings, far = readings + len(values), far + beyond
            with_far += [trial] if beyond else []
    if slow:
        yield Finding(
            "slow-first",
            f"The first reading is over {SLOW_FIRST:g} times the largest of the others in {len(slow)} of "
            f"{len(study.trials)} trials of "
            f"{study.name}: a warm-up that was counted.",
            links(study, slow),
            Test("first reading against the largest of the rest", {"found": len(slow)}, holds=True),
            {"study": study.name},
        )
    if with_far:
        yield Finding(
            "outliers",
            f"{far} of {readings} readings of latency_s in {study.name} lie beyond Tukey's outer fences "
            f"({len(with_far)} trials): medians stand, means and deviations don't.",
            links(study, with_far),
            Test("3 interquartile ranges beyond the quartiles", {"far": far, "of": readings}),
            {"study": study.name},
        )


def lengths(study: Study) -> Iterator[Finding]:
    """Answers of different length: times of whole answers are no measure of speed."""
    found = measured(study, "generated_tokens")
    if len(found) < 3:
        return
    values = [v for _, v in found]
    if min(values) > 0 and max(values) / min(values) > 2:
        yield Finding(
            "unequal-work",
            f"Answers in {study.name} are {min(values):.0f} to {max(values):.0f} tokens long: the length "
            "was not fixed, so "
            "eval_s measures it more than the speed. tokens_per_s is what can be compared.",
            links(study, [t for t, _ in found]),
            Test(
                "largest over smallest length",
                {"ratio": max(values) / min(values), "low": min(values), "high": max(values)},
            ),
            {"study": study.name},
        )
