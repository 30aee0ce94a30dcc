"""What spoils the data? Each a finding of its own, with the trials it is about and what was computed."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from optimizer.journal import Study
from optimizer.readers.ingest import is_recorded
from optimizer.report.cold import cold_findings
from optimizer.report.data import Collection, absent, links, measured, readings_of, told, typical_values, varied
from optimizer.report.finding import Finding, Test
from optimizer.report.resampling import spearman
from optimizer.report.warmup import lengths, named, outliers, warmups
from optimizer.stats import FEWEST
from optimizer.text import quantity, value_text
from optimizer.trial import Failed, Measured, Reason, Trial

TREND_P = 0.01
ENOUGH = 8  # runs, to see a trend


def spoils(data: Collection) -> list[Finding]:
    """In the order of how much they can mislead."""
    found: list[Finding] = []
    for study in data.studies:
        found += [*warmups(study), *cold_findings(study)]
    for study in data.studies:
        found += [*_wrong_device(study), *_other_precision(study), *_timeouts(study), *_order(study), *_blocks(study)]
    for study in data.studies:
        found += [*outliers(study), *lengths(study)]
    return [*found, *_too_few(data), *_unstated(data), *_missing(data), *_copies(data)]


# --- what ran elsewhere or otherwise than its neighbours


def _wrong_device(study: Study) -> Iterator[Finding]:
    """ONNX Runtime that says it ran on the processor, in a file that says cuda."""
    if not _on_gpu(study):
        return
    hit = [t for t in study.trials if any(_cpu_only(w) for w in _words(t)) and isinstance(t.outcome, Measured)]
    if hit:
        names = ", ".join(named(t) for t in hit)
        yield Finding(
            "wrong-device",
            f"{names} ran on the processor though {study.name} says {study.environment.device}: its providers are "
            "CPUExecutionProvider alone. It can't be compared with its neighbours as backends of one device.",
            links(study, hit),
            Test("providers told by the backend", {"found": len(hit)}, holds=True),
            {"study": study.name, "option": names},
        )


def _on_gpu(study: Study) -> bool:
    return study.recipe.device.lower().startswith(("cuda", "gpu", "nvidia"))


def _cpu_only(word: str) -> bool:
    return word == "providers=CPUExecutionProvider"


def _words(trial: Trial) -> Sequence[str]:
    return trial.artifact.arguments if trial.artifact else ()


def _other_precision(study: Study) -> Iterator[Finding]:
    dtype = str((study.recipe.target.options.get("facts") or {}).get("dtype", "")) or _dtype_in(study)
    hit = [
        (t, w.partition("=")[2])
        for t in study.trials
        if isinstance(t.outcome, Measured)
        for w in _words(t)
        if w.startswith("enabled_precisions=") and dtype and dtype not in w
    ]
    if hit:
        each = ", ".join(f"{named(t)} ({p})" for t, p in hit)
        yield Finding(
            "other-precision",
            f"{each} in {study.name} computed in another precision than the rest ({dtype}), and no error was recorded: "
            "a gain may be bought with accuracy.",
            links(study, [t for t, _ in hit]),
            Test("precision told by the backend", {"found": len(hit)}, holds=True),
            {"study": study.name, "option": ", ".join(named(t) for t, _ in hit)},
        )


def _dtype_in(study: Study) -> str:
    work = str(study.recipe.target.options.get("work") or "")
    return next((p.partition(" ")[2] for p in work.split(", ") if p.startswith("dtype ")), "")


def _timeouts(study: Study) -> Iterator[Finding]:
    """Time-outs, and how the runs right after them fared: what made them time out may not have ended with them."""
    late = [t for t in study.trials if isinstance(t.outcome, Failed) and t.outcome.reason is Reason.TIMEOUT]
    if not late:
        return
    metric, maximise = study.recipe.goal.first.metric, study.recipe.goal.first.direction == "maximize"
    known = measured(study, metric)
    usual = median(v for _, v in known) if known else None
    after = [t for t in study.trials if t.number - 1 in {x.number for x in late} and t not in late]
    slow = []
    for trial in after:
        value = typical_values(trial).get(metric)
        if value and usual and (value < usual / 1.1 if maximise else value > usual * 1.1):
            slow.append((trial, value))
    rest = "".join(
        f" The run right after, trial {t.number}, had {quantity(metric, v)} against "
        f"{quantity(metric, usual or 0)} usually: "
        "the machine was disturbed."
        for t, v in slow
    )
    yield Finding(
        "timeouts",
        f"{len(late)} of {len(study.trials)} runs of {study.name} timed out "
        f"({', '.join(_point(t, varied(study)) for t in late[:3])}).{rest}",
        links(study, [*late, *(t for t, _ in slow)]),
        Test(
            "counted", {"timeouts": len(late), "of": len(study.trials), **{f"{metric}_{t.number}": v for t, v in slow}}
        ),
        {"study": study.name},
    )


def _point(trial: Trial, names: Sequence[str]) -> str:
    return " ".join(f"{n}={value_text(trial.point[n])}" for n in names if n in trial.point)


# --- the order of running


def _order(study: Study) -> Iterator[Finding]:
    """A trend over the runs that no knob was meant to make. A search gets better by itself: only recordings count."""
    if not is_recorded(study):
        return
    metric = study.recipe.goal.first.metric
    known = measured(study, metric)
    values = [v for _, v in known]
    if len(known) < ENOUGH or is_sorted(values):
        return
    rho, p = spearman([t.number for t, _ in known], values)
    if p < TREND_P:
        third = max(1, len(known) // 3)
        first, last = median(values[:third]), median(values[-third:])
        yield Finding(
            "trend",
            f"{metric} {'falls' if rho < 0 else 'rises'} with the order of running in {study.name} (rank "
            f"correlation {rho:.2f}): "
            f"{quantity(metric, first)} in the first third, {quantity(metric, last)} in the last. A drift "
            "of the machine and "
            "what was varied slowly look the same.",
            links(study, [t for t, _ in known]),
            Test(
                "Spearman's rank correlation with the order",
                {"rho": rho, "p": p, "n": len(known), "first": first, "last": last},
                holds=True,
            ),
            {"study": study.name, "metric": metric},
        )


def is_sorted(values: Sequence[float]) -> bool:
    """A table that was sorted by its result has lost the order of running."""
    pairs = list(pairwise(values))
    return all(a <= b for a, b in pairs) or all(a >= b for a, b in pairs)


def _blocks(study: Study) -> Iterator[Finding]:
    """Knobs that were varied in blocks, all runs of a value in a row: their effect is one with the drift."""
    if not is_recorded(study) or is_sorted([v for _, v in measured(study, study.recipe.goal.first.metric)]):
        return
    hit = []
    for name in varied(study):
        values = [str(t.point.get(name)) for t in study.trials]
        levels = len(set(values))
        runs = 1 + sum(a != b for a, b in pairwise(values))
        if runs == levels and len(values) >= 4 * levels:
            hit.append(name)
    if hit:
        yield Finding(
            "blocks",
            f"{', '.join(f'`{n}`' for n in hit)} in {study.name} was varied in blocks, each value once "
            "and all its runs in a row: its "
            "effect can't be told from a drift of the machine.",
            links(study, study.trials),
            Test("a value's runs stand in one row", {"knobs": ", ".join(hit)}, holds=True),
            {"study": study.name, "knob": ", ".join(hit)},
        )


# --- what is not there


def _too_few(data: Collection) -> Iterator[Finding]:
    few: list[tuple[Study, Trial]] = []
    known = 0
    for study in data.studies:
        metric = study.recipe.goal.first.metric
        for trial in study.trials:
            count = len(readings_of(trial, metric))
            one = told(trial, metric) if count < FEWEST else None
            known += count >= FEWEST or one is not None
            if one is not None and one.n is not None and one.n < FEWEST:
                few.append((study, trial))
    if few:
        names = sorted({s.name for s, _ in few})
        yield Finding(
            "too-few",
            f"{len(few)} of {known} measured configurations have fewer than {FEWEST} readings "
            f"({len(names)} studies), most often "
            "one: there is no interval for a single one of them, and a best one among them is partly luck.",
            tuple(link for s, t in few for link in links(s, [t])),
            Test(f"fewer than {FEWEST} readings: no interval of 95% for the median", {"few": len(few), "of": known}),
            {"studies": ", ".join(names)},
        )


def _unstated(data: Collection) -> Iterator[Finding]:
    """Summaries that don't say of how many readings."""
    hit = [
        (s, t)
        for s in data.studies
        for t in s.trials
        if isinstance(t.outcome, Measured)
        and (x := t.outcome.summaries.get(s.recipe.goal.first.metric)) is not None
        and x.n is None
    ]
    if hit:
        names = sorted({s.name for s, _ in hit})
        yield Finding(
            "unstated-n",
            f"{len(hit)} configurations have a mean and no number of readings ({', '.join(names[:4])}): "
            "no interval can be computed.",
            tuple(link for s, t in hit for link in links(s, [t])),
            Test("counted", {"found": len(hit)}),
            {"studies": ", ".join(names)},
        )


def _missing(data: Collection) -> Iterator[Finding]:
    if names := absent(data):
        yield Finding(
            "missing-metrics",
            f"Nothing in the data says {', '.join(names)}.",
            (),
            Test("metrics of the table that no trial has", {"missing": ", ".join(names)}),
            {"metrics": ", ".join(names)},
        )
    nameless = [s for s in data.studies if s.environment.device in ("not stated", "cpu", "cuda")]
    if nameless:
        yield Finding(
            "unnamed-device",
            f"{len(nameless)} of {len(data.studies)} studies don't say on which processor or GPU they ran "
            "(device=NAME of ingest adds it).",
            (),
            Test("counted", {"found": len(nameless), "of": len(data.studies)}),
        )


def _copies(data: Collection) -> Iterator[Finding]:
    if data.copies:
        yield Finding(
            "copies",
            f"{len(data.copies)} of {len(data.copies) + len(data.studies)} files repeat the measurements "
            "of another (a table beside its data, a "
            "summary of single readings): they are counted once.",
            (),
            Test("the same points with the same numbers, to their rounding", {"copies": len(data.copies)}),
        )
