"""Which runs paid for loading the model, and what do they make look slow?

A cold load is a run whose load_s is over FAR times the study's median. What explains it is looked for in the order of
running: the knobs that had just changed. A knob of which one value holds the cold runs seems to drive every metric that
has the load inside.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from optimizer.journal import Study
from optimizer.readers.ingest import is_recorded
from optimizer.report.data import links, measured, typical_values, varied
from optimizer.report.finding import Finding, Test, interval
from optimizer.report.resampling import ratio_of_medians
from optimizer.text import quantity, value_text
from optimizer.trial import Trial

FAR = 5.0
FEWEST = 4  # runs, to say which of them is unusual
SAME = 1e-9


def cold_loads(study: Study) -> list[Trial]:
    """None in a search: there every trial loads in a process of its own."""
    if not is_recorded(study):
        return []
    found = measured(study, "load_s")
    if len(found) < FEWEST:
        return []
    usual = median(v for _, v in found)
    return [t for t, v in found if v > FAR * usual]


def warm(study: Study, metric: str) -> list[tuple[Trial, float]]:
    """The trials that have the metric, without the cold ones."""
    cold = {t.number for t in cold_loads(study)}
    return [(t, v) for t, v in measured(study, metric) if t.number not in cold]


def cold_findings(study: Study) -> Iterator[Finding]:
    cold = cold_loads(study)
    if not cold:
        return
    all_loads, cold_numbers = measured(study, "load_s"), {t.number for t in cold}
    usual = median(v for t, v in all_loads if t.number not in cold_numbers)
    slow = median(v for t, v in all_loads if t.number in cold_numbers)
    names = context_of(study, cold)
    where = _where(study, cold, names)
    yield Finding(
        "cold-load",
        f"{len(cold)} of {len(all_loads)} runs loaded the model first ({quantity('load_s', slow)} against "
        f"{quantity('load_s', usual)}, medians): {where}.{_inside(study)}",
        links(study, cold),
        Test(
            f"load_s over {FAR:g} times the median",
            {"cold": len(cold), "of": len(all_loads), "cold_load_s": slow, "warm_load_s": usual},
        ),
        {"study": study.name, "context": ", ".join(names)},
    )
    for metric in dict.fromkeys(("ttft_s", study.recipe.goal.first.metric)):
        for knob in varied(study):
            yield from _mistaken(study, metric, knob, cold_numbers)


def context_of(study: Study, cold: Sequence[Trial]) -> list[str]:
    """The fewest knobs of which one had always changed before a cold run; the first run of all counts as changed."""
    before: dict[int, Trial] = {t.number: study.trials[t.number - 1] for t in cold if t.number > 0}
    changed = {
        n: {k for k in study.trials[n].point if study.trials[n].point[k] != p.point.get(k)} for n, p in before.items()
    }
    if not changed:
        return []
    left, names = set(changed), []
    counts = {k: _changes(study, k) for k in varied(study)}
    while left:  # the knob that explains most of what is left; of equals the one that changes least often
        best = max(counts, key=lambda k: (sum(k in changed[n] for n in left), -counts[k]))
        if not any(best in changed[n] for n in left):
            return []
        names.append(best)
        left = {n for n in left if best not in changed[n]}
    return names


def _changes(study: Study, knob: str) -> int:
    values = [t.point.get(knob) for t in study.trials]
    return sum(a != b for a, b in pairwise(values))


def _where(study: Study, cold: Sequence[Trial], names: Sequence[str]) -> str:
    if [t.number for t in cold] == [0]:
        return "the first run of all"
    if not names:
        return "no knob's change explains them"
    groups = [tuple(t.point.get(n) for n in names) for t in study.trials]
    fresh = [t for i, t in enumerate(study.trials) if i == 0 or groups[i] != groups[i - 1]]
    return f"each a first run after {' or '.join(names)} changed ({len(fresh)} such runs)"


def _inside(study: Study) -> str:
    """Whether ttft_s is told with the load inside."""
    rows = [v for t in study.trials if {"ttft_s", "load_s", "prompt_eval_s"} <= (v := typical_values(t)).keys()]
    off = [abs(v["ttft_s"] - v["load_s"] - v["prompt_eval_s"]) for v in rows]
    if rows and max(off) <= SAME * max(v["ttft_s"] for v in rows):
        return f" ttft_s = load_s + prompt_eval_s in all {len(rows)} runs: the load is inside."
    return ""


def _mistaken(study: Study, metric: str, knob: str, cold: set[int]) -> Iterator[Finding]:
    """A knob that looks as if it drove the metric because the cold runs share one of its values."""
    known = measured(study, metric)
    values = {str(t.point.get(knob)) for t, _ in known if t.number in cold}
    if len(values) != 1:
        return
    value = next(iter(values))
    mine = [(t, v) for t, v in known if str(t.point.get(knob)) == value]
    others = [v for t, v in known if str(t.point.get(knob)) != value]
    if len(mine) < 2 or len(others) < 2:
        return
    seeming = ratio_of_medians([v for _, v in mine], others)
    if not seeming.excludes_one:
        return
    warm_mine = [v for t, v in mine if t.number not in cold]
    warm_others = [v for t, v in known if t.number not in cold and str(t.point.get(knob)) != value]
    point = mine[0][0].point
    level = f"{knob}={value_text(point[knob])}" if knob in point else f"{knob} not active"
    figures = {**interval("seeming_ratio", seeming), "cold_at_value": len(cold), "warm_at_value": len(warm_mine)}
    if len(warm_mine) >= 2:
        honest = ratio_of_medians(warm_mine, warm_others)
        figures |= interval("warm_ratio", honest)
        rest = f"Without the cold runs the ratio is {honest.value:.3g} ({honest.low:.3g} to {honest.high:.3g})" + (
            ", not told from 1." if not honest.excludes_one else "."
        )
    else:
        rest = f"There are {len(warm_mine)} warm runs at that value, so its own effect is not in the data."
    yield Finding(
        "cold-load-mistaken",
        f"`{knob}` looks as if it drove {metric}: at {level} it is {seeming.value:.3g} times that of the other values "
        f"({seeming.low:.3g} to {seeming.high:.3g}, medians). But all {len(cold)} cold loads are there: "
        "the knob varies "
        f"within a context and that value is run first. {rest}",
        links(study, [t for t, _ in mine]),
        Test("ratio of medians (bootstrap), with and without cold loads", figures, holds=False),
        {"study": study.name, "knob": knob, "metric": metric},
    )
