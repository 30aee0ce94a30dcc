"""What do the data say? Which knob matters how much, backend against backend, model against model, and what failed.

Each finding states its test. Runs that loaded the model first are left out where knobs are judged.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from statistics import median

from optimizer.journal import Study
from optimizer.objective import Direction
from optimizer.report.cold import warm
from optimizer.report.data import Collection, Link, links, measured, model_of, told, varied, work_knobs, work_of
from optimizer.report.finding import Figure, Finding, Test, interval
from optimizer.report.resampling import Effect, Interval, effect, holm, ratio_of_means, spearman
from optimizer.space import Point
from optimizer.stats import FEWEST, estimate
from optimizer.text import value_text
from optimizer.trial import Failed, Measured, Trial

ALPHA = 0.05
FEW_TRIALS = 8
MOST_LEVELS = 24  # of a knob: beyond, a level has too few runs to have a median
APART = 1.5  # gains by means and by smallest readings that differ by more are both told
SHOWN = 5  # knobs of a study that are named
METRICS = ("tokens_per_s", "latency_s", "ttft_s")
SIZE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)([mb])(?![a-z])", re.IGNORECASE)
WEIGHT = re.compile(r"weight : Float\(([\d, ]+?), strides|bias : Float\((\d+), strides")


def findings(data: Collection) -> list[Finding]:
    found: list[Finding] = []
    for study in data.studies:
        found += options(study)
    found += models(data)
    found += sizes(data)
    for study in data.studies:
        found += knobs(study)
    return [*found, *failures(data)]


# --- which knob matters how much


def knobs(study: Study) -> Iterator[Finding]:
    """A finding a metric: the share of its variation that each knob explains by itself, and its ratio end to end."""
    first = study.recipe.goal.first.metric
    for metric in dict.fromkeys((first, *(m for m in METRICS if m == "ttft_s"))):
        rows = warm(study, metric)
        if len(rows) < FEW_TRIALS or min(v for _, v in rows) <= 0:
            continue
        effects = {name: e for name in varied(study) if (e := _effect(rows, name)) is not None}
        if effects:
            yield _knob_finding(study, metric, rows, effects)


def _effect(rows: Sequence[tuple[Trial, float]], knob: str) -> Effect | None:
    """None where the levels have too few runs each to be compared."""
    by: dict[str, list[float]] = defaultdict(list)
    for trial, value in rows:
        by[value_text(trial.point[knob]) if knob in trial.point else "not active"].append(value)
    kept = {level: values for level, values in by.items() if len(values) >= 2}
    if not 2 <= len(kept) <= MOST_LEVELS or sum(map(len, kept.values())) < FEW_TRIALS:
        return None
    pairs = [(value, level) for level, values in kept.items() for value in values]
    return effect([v for v, _ in pairs], [level for _, level in pairs])


def _knob_finding(
    study: Study, metric: str, rows: Sequence[tuple[Trial, float]], effects: Mapping[str, Effect]
) -> Finding:
    ps = holm({name: e.p for name, e in effects.items()})
    ordered = sorted(effects, key=lambda name: -effects[name].share.value)[:SHOWN]
    figures: dict[str, Figure] = {"n": len(rows)}
    for name in ordered:
        e = effects[name]
        figures |= {**interval(f"{name}_share", e.share), **interval(f"{name}_ratio", e.ratio), f"{name}_p": ps[name]}
    sure = [n for n in ordered if ps[n] < ALPHA]
    texts = [_knob_text(n, effects[n]) for n in sure]
    what = f"{metric} of {study.name}"
    if sure:
        rest = [n for n in ordered if n not in sure]
        others = f" No effect is seen of {', '.join(f'`{n}`' for n in rest)}." if rest else ""
        statement = f"{what}: {'; '.join(texts)}.{others}"
    else:
        widest = max(ordered, key=lambda n: effects[n].ratio.value)
        statement = (
            f"{what}: no effect is seen of {', '.join(f'`{n}`' for n in ordered)}; the largest difference "
            "between medians is "
            f"{100 * (effects[widest].ratio.value - 1):.1f} % (`{widest}`)."
        )
    return Finding(
        "knob",
        statement,
        links(study, [t for t, _ in rows]),
        Test(
            "epsilon² of the ranks by knob, bootstrap interval; Kruskal-Wallis p, Holm-corrected",
            figures,
            holds=bool(sure),
        ),
        {
            "study": study.name,
            "metric": metric,
            "sure": ", ".join(sure),
            "idle": ", ".join(n for n in ordered if n not in sure),
        },
    )


def _knob_text(name: str, e: Effect) -> str:
    return (
        f"`{name}` explains {100 * e.share.value:.0f} % of the variation ({100 * e.share.low:.0f} to "
        f"{100 * e.share.high:.0f} %), "
        f"{e.highest} has {e.ratio.value:.3g} times the median of {e.lowest} ({e.ratio.low:.3g} to {e.ratio.high:.3g})"
    )


# --- backend against backend


def options(study: Study) -> Iterator[Finding]:
    """Where one knob has one trial a value: each against the first that was measured, with the time to earn back what
    building costs."""
    names = varied(study)
    if not names or work_knobs(study):
        yield from _within_work(study)
        return
    if len(names) > 1 and len({str(t.point.get(names[0])) for t in study.trials}) < len(study.trials):
        return
    yield from _against_first(study, [t for t in study.trials if isinstance(t.outcome, Measured)], "")


def _within_work(study: Study) -> Iterator[Finding]:
    """Alternatives for the same work: trials that share their work knobs."""
    by: dict[tuple[str, ...], list[Trial]] = defaultdict(list)
    for trial in study.trials:
        if isinstance(trial.outcome, Measured):
            by[tuple(str(trial.point.get(k)) for k in work_knobs(study))].append(trial)
    if not varied(study):
        return
    for group, trials in by.items():
        if 2 <= len(trials) < FEW_TRIALS:
            yield from _against_first(study, trials, f" ({', '.join(group)})")


def _against_first(study: Study, trials: Sequence[Trial], of: str) -> Iterator[Finding]:
    objective = study.recipe.goal.first
    metric = objective.metric
    known = [t for t in trials if told(t, metric) is not None]
    if not 2 <= len(known) <= MOST_LEVELS:
        return
    base, names = known[0], varied(study)
    figures: dict[str, Figure] = {}
    texts: list[tuple[float, str]] = []
    sure = []
    for trial in known[1:]:
        name = _option(names, trial)
        gain = _gain(base, trial, metric, objective.direction)
        if gain is None:
            continue
        figures |= interval(f"{name}_gain", gain)
        text = f"{name} {gain.value:.3g}× ({gain.low:.3g} to {gain.high:.3g})"
        if gain.low == gain.high:
            text = f"{name} {gain.value:.3g}× (no interval: readings or deviation not told)"
        elif gain.excludes_one:
            sure.append(name)
        if (runs := _earned_back(base, trial)) is not None:
            figures[f"{name}_earned_back_after"] = runs
            text += f", its compile time is earned back after {_count(runs)} inferences"
        if (smallest := _of_smallest(base, trial, metric, objective.direction)) is not None:
            figures[f"{name}_gain_of_smallest"] = smallest
            if not 1 / APART < smallest / gain.value < APART:
                text += f", but by their smallest readings {smallest:.3g}×"
        texts.append((gain.value, text))
    if not texts:
        return
    texts.sort(key=lambda item: -item[0])
    place = f" on {study.environment.device}" if study.environment.device != "not stated" else ""
    yield Finding(
        "option",
        f"{work_of(study)}{of}{place}: how many times as fast as {_option(names, base)} is each? "
        f"{'; '.join(t for _, t in texts)}.",
        links(study, known),
        Test(
            "ratio of means from mean, deviation and number of readings (Welch, on logarithms)",
            figures,
            holds=bool(sure),
        ),
        {"study": study.name, "metric": metric, "base": _option(names, base), "sure": ", ".join(sure)},
    )


def _option(names: Sequence[str], trial: Trial) -> str:
    return "/".join(value_text(trial.point[k]) for k in names if k in trial.point)


def _gain(base: Trial, trial: Trial, metric: str, direction: Direction) -> Interval | None:
    """How many times better, above 1 is better. Without an interval (low = high) where none can be computed."""
    theirs, mine = told(base, metric), told(trial, metric)
    if theirs is None or mine is None:
        return None
    pair = (theirs, mine) if direction is Direction.MINIMIZE else (mine, theirs)
    if (found := ratio_of_means(*pair)) is not None:
        return found
    a, b = pair[0].typical, pair[1].typical
    return Interval(a / b, a / b, a / b) if a and b and a > 0 and b > 0 else None


def _of_smallest(base: Trial, trial: Trial, metric: str, direction: Direction) -> float | None:
    """The gain by the smallest readings, which a warm-up or an interruption does not touch; of times only."""
    theirs, mine = told(base, metric), told(trial, metric)
    if direction is not Direction.MINIMIZE or theirs is None or mine is None or not theirs.low or not mine.low:
        return None
    return theirs.low / mine.low


def _earned_back(base: Trial, trial: Trial) -> float | None:
    """After how many inferences the time spent on compiling is gained; None where nothing is gained or told."""
    spent, slow, fast = told(trial, "compile_time_s"), told(base, "latency_s"), told(trial, "latency_s")
    before = told(base, "compile_time_s")
    if (
        spent is None
        or slow is None
        or fast is None
        or spent.typical is None
        or slow.typical is None
        or fast.typical is None
    ):
        return None
    saved = slow.typical - fast.typical
    return (spent.typical - (before.typical or 0.0 if before else 0.0)) / saved if saved > 0 else None


def _count(n: float) -> str:
    return f"{n:,.0f}" if n < 1e6 else f"{n:.3g}"


# --- model against model, size against time


def models(data: Collection) -> Iterator[Finding]:
    """The same work and points with two models: the median of the ratios over the points both have."""
    groups: dict[str, list[Study]] = defaultdict(list)
    for study in data.studies:
        if model_of(study) and study.recipe.strategy.name == "recorded":
            groups[work_of(study)].append(study)
    for work, mine in groups.items():
        if len({model_of(s) for s in mine}) < 2:
            continue
        base = max(mine, key=lambda s: _typical(s) or 0.0)
        for other in (s for s in mine if s is not base):
            if (found := _paired(work, base, other)) is not None:
                yield found


def _typical(study: Study) -> float | None:
    values = [v for _, v in measured(study, study.recipe.goal.first.metric)]
    return median(values) if values else None


def _paired(work: str, a: Study, b: Study) -> Finding | None:
    metric = a.recipe.goal.first.metric
    mine, theirs = ({t.point: (t, v) for t, v in warm(s, metric)} for s in (a, b))
    common: list[Point] = [p for p in mine if p in theirs]
    if not common or metric != b.recipe.goal.first.metric:
        return None
    ratios = [mine[p][1] / theirs[p][1] for p in common]
    e = estimate(ratios)
    found = Interval(e.median, e.low, e.high)
    kind = "95% interval" if len(ratios) >= FEWEST else "smallest to largest ratio,"
    sized = ", ".join(f"{model_of(s)} {_size_text(s)}" for s in (a, b))
    return Finding(
        "model",
        f"{work}: {model_of(a)} has {found.value:.3g} ({kind} {found.low:.3g} to {found.high:.3g}) times "
        f"the {metric} of {model_of(b)}, over the {len(common)} configurations that "
        f"both have. Parameters by name: {sized}.",
        (*links(a, [mine[p][0] for p in common]), *links(b, [theirs[p][0] for p in common])),
        Test(
            "median of paired ratios, interval between order statistics",
            {**interval("ratio", found), "n": len(common)},
            holds=found.excludes_one and len(common) >= FEWEST,
        ),
        {"metric": metric, "fast": model_of(a), "slow": model_of(b), "study": a.name},
    )


def _size_text(study: Study) -> str:
    n = parameters(study)
    return f"{n:.3g}" if n else "not stated"


def parameters(study: Study) -> float | None:
    """How many parameters the model has: told by the file, by its name (270m, 1b), or counted in a graph that the
    file has whole."""
    facts = study.recipe.target.options.get("facts") or {}
    if isinstance(n := facts.get("model_n_params"), int | float):
        return float(n)
    if found := SIZE.search(model_of(study)):
        return float(found.group(1)) * (1e9 if found.group(2).lower() == "b" else 1e6)
    logs = [t.artifact.log for t in study.trials if t.artifact]
    whole = next((log for log in logs if "return (" in log and "weight : Float(" in log), "")
    counts = [prod(int(x) for x in (a or b).split(",") if x.strip()) for a, b in WEIGHT.findall(whole)]
    return float(sum(counts)) if counts else None


def sizes(data: Collection) -> Iterator[Finding]:
    """Model size against compile time and inference time, an option at a time over the models of one device."""
    rows: dict[tuple[str, str], list[tuple[float, Study, Trial]]] = defaultdict(list)
    unknown: set[str] = set()
    for study in data.studies:
        if not any(measured(study, m) for m in ("compile_time_s",)):
            continue
        size = parameters(study)
        if size is None:
            unknown.add(work_of(study).split(",")[0])
            continue
        names = varied(study)
        for trial in study.trials:
            if isinstance(trial.outcome, Measured):
                rows[study.environment.device, _option(names, trial)].append((size, study, trial))
    for metric in ("compile_time_s", "latency_s"):
        figures: dict[str, Figure] = {}
        texts: list[str] = []
        evidence: list[Link] = []
        testable = False
        for (device, option), items in rows.items():
            known = sorted(
                (size, v.typical, s, t) for size, s, t in items if (v := told(t, metric)) is not None and v.typical
            )
            if len({size for size, *_ in known}) < 2:
                continue
            evidence += [Link(s.name, t.number) for _, _, s, t in known]
            small, large = known[0], known[-1]
            ratio = (large[1] or 0) / (small[1] or 1)
            figures[f"{option} on {device}"] = ratio
            texts.append(f"{option} on {device} {ratio:.3g}×")
            if len(known) >= FEW_TRIALS:
                testable = True
                rho, p = spearman([k[0] for k in known], [k[1] or 0.0 for k in known])
                figures |= {f"{option} rho": rho, f"{option} p": p}
        if texts:
            counts = sorted({size for items in rows.values() for size, *_ in items})
            missing = f" Not counted: {', '.join(sorted(unknown))} (its size is not in the files)." if unknown else ""
            yield Finding(
                "size",
                f"From {counts[0]:,.0f} to {counts[-1]:,.0f} parameters ({counts[-1] / counts[0]:.3g}×), "
                f"{metric} changes by: "
                f"{'; '.join(texts)}. "
                f"{'' if testable else f'{len(counts)} sizes show no law: reported, not concluded.'}{missing}",
                tuple(dict.fromkeys(evidence)),
                Test("ratio of the largest to the smallest model", figures, holds=None),
                {"metric": metric},
            )


# --- what failed


def failures(data: Collection) -> Iterator[Finding]:
    """The same value of a knob that fails with the same words, over all studies of a kind of device."""
    failed: dict[tuple[str, str, str], list[tuple[Study, Trial]]] = defaultdict(list)
    ran: Counter[tuple[str, str]] = Counter()  # (option, device) → runs; option "": all runs
    for study in data.studies:
        names, device = varied(study), study.environment.device
        for trial in study.trials:
            option = _option(names, trial) if len(names) == 1 else ""
            ran.update({("", device), (option, device)})
            if isinstance(trial.outcome, Failed):
                words = next((w.strip() for w in trial.outcome.log.splitlines() if w.strip()), trial.outcome.reason)
                failed[option, str(words), device].append((study, trial))
    for (option, words, device), items in sorted(failed.items(), key=lambda i: -len(i[1])):
        studies = {s.name for s, _ in items}
        of = ran[option, device]
        who = (
            f"`{option}` failed in {len(items)} of {of} runs on {device}"
            if option
            else f"{len(items)} of {of} runs failed"
        )
        yield Finding(
            "failure",
            f"{who}: {words[:200]}",
            tuple(Link(s.name, t.number) for s, t in items),
            Test("counted", {"failed": len(items), "of": of}),
            {"option": option, "words": words, "studies": ", ".join(sorted(studies))},
        )
