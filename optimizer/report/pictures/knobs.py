"""Which knob does what? How much each explains with its interval, slices, and all together as parallel coordinates."""

from collections.abc import Iterator, Mapping, Sequence

from optimizer.journal import Study
from optimizer.objective import Direction
from optimizer.report.cold import warm
from optimizer.report.data import links, varied
from optimizer.report.finding import Finding
from optimizer.report.pictures.picture import (
    BLUE,
    GREY,
    MOST,
    ORANGE,
    PURPLE,
    Axis,
    Picture,
    axis_of,
    how_many,
    place,
    rows,
    thinned,
    values_of,
)
from optimizer.space import Float, Int, Json, Knob, Value
from optimizer.text import value_text
from optimizer.trial import Trial

FEWEST = 8  # trials
SLICES, AXES = 6, 7  # knobs that are drawn
LINES = 250
LEVELS = 16  # of an integer knob: with more it is drawn as a number
ABSENT = "not active"
ENDS = {"share": "", "low": "_low", "high": "_high"}


def knob_pictures(
    study: Study, found: Sequence[Finding], shares: Mapping[str, float], labels: Mapping[str, str]
) -> Iterator[Picture]:
    """`found`: the study's findings of the kind knob, which have the intervals; `shares`: of the functional ANOVA."""
    for finding in found:
        yield _importance(finding)
    names = _order(study, found, shares)
    known = {t.number: v for t, v in values_of(study)}
    if len(known) < FEWEST or not names:
        return
    axis = axis_of(study.recipe.goal.first.metric, list(known.values()))
    warmed = warm(study, axis.metric)
    for name in names[:SLICES]:
        yield _slice(study, name, axis, warmed, labels)
    if len(names) > 1:
        yield _parallel(study, names[:AXES], axis, warmed, labels)


def _order(study: Study, found: Sequence[Finding], shares: Mapping[str, float]) -> list[str]:
    """The varied knobs, those that explain most first."""
    alone: dict[str, float] = {}
    for finding in found[:1]:
        alone = {
            n.removesuffix("_share"): float(v or 0) for n, v in finding.test.figures.items() if n.endswith("_share")
        }
    names = varied(study)
    return sorted(names, key=lambda n: (-max(shares.get(n, 0.0), alone.get(n, 0.0)), names.index(n)))


def _importance(finding: Finding) -> Picture:
    figures = finding.test.figures
    names = [n.removesuffix("_share") for n in figures if n.endswith("_share")]
    sure = finding.about["sure"].split(", ")
    data = [
        {"knob": n, **{part: figures[f"{n}_share{end}"] for part, end in ENDS.items()},
         "sure": "an effect is seen" if n in sure else "none is seen"}
        for n in names
    ]  # fmt: skip
    y = {"field": "knob", "type": "nominal", "sort": None, "title": None}
    x = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": {"format": "%"},
         "title": f"share of the variation of {finding.about['metric']}"}  # fmt: skip
    colour = {"field": "sure", "type": "nominal", "legend": {"title": None, "orient": "top"},
              "scale": {"domain": ["an effect is seen", "none is seen"], "range": [BLUE, GREY]}}  # fmt: skip
    return Picture(
        f"importance-{finding.about['metric']}",
        f"What explains {finding.about['metric']}",
        "The share of the variation that each knob explains by itself, with its 95% interval "
        f"({finding.test.name}), over {figures['n']} trials.",
        {
            "height": 30 * len(data),
            "data": rows(data),
            "encoding": {"y": y, "color": colour},
            "layer": [
                {"mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.5},
                 "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}}},
                {"mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
                 "encoding": {"x": {**x, "field": "share"}}},
            ],
        },
        finding.evidence,
    )  # fmt: skip


def _number(knob: Knob, values: Sequence[Value | None]) -> bool:
    wide = isinstance(knob.domain, Int) and len(set(values)) > LEVELS
    return isinstance(knob.domain, Float) or wide


def _slice(
    study: Study, name: str, axis: Axis, known: Sequence[tuple[Trial, float]], labels: Mapping[str, str]
) -> Picture:
    knob = study.recipe.space.by_name[name]
    numbers = {t.number: v for t, v in known}
    drawn = thinned([t for t, _ in known], (), MOST // 2)
    numeric = _number(knob, [t.point.get(name) for t in drawn])
    levels = [*dict.fromkeys(value_text(v) for v in _values(knob, [t for t, _ in known])), ABSENT]
    data = [
        {"x": _level(t, name, numeric=numeric), "v": axis.of(numbers[t.number]), "at": place(labels, study, t)}
        for t in drawn
        if not numeric or name in t.point
    ]
    seen = {d["x"] for d in data}
    x: dict[str, Json] = {"field": "x", "title": name, "type": "quantitative" if numeric else "ordinal"}
    if numeric:
        x["scale"] = {"zero": False, "type": "log" if getattr(knob.domain, "log", False) else "linear"}
    else:
        x |= {"sort": [v for v in levels if v in seen], "axis": {"labelAngle": 0, "labelOverlap": True}}
    y = axis.channel("v")
    tick = {"mark": {"type": "tick", "thickness": 3, "color": ORANGE, "opacity": 1, "width": 26},
            "encoding": {"x": x, "y": {**y, "aggregate": "median"}}}  # fmt: skip
    cloud = {"mark": {"type": "point", "filled": True, "opacity": 0.45, "size": 28, "color": BLUE},
             "encoding": {"x": x, "y": y}}  # fmt: skip
    return Picture(
        f"slice-{name}",
        f"{axis.metric} by {name}",
        ("" if numeric else "Orange: the median of a value. ") + "Other knobs vary as well."
        + how_many(len(drawn), len(known), "a random sample"),
        {"height": 190, "data": rows(data), "layer": [cloud] if numeric else [cloud, tick]},
        links(study, [t for t, _ in known]),
        "third",
    )  # fmt: skip


def _values(knob: Knob, trials: Sequence[Trial]) -> list[Value]:
    """In the domain's order; of numbers that is their own."""
    found = {t.point[knob.name] for t in trials if knob.name in t.point}
    if all(isinstance(v, int | float) for v in found):
        return sorted(found, key=float)
    if isinstance(knob.domain, Float):
        return sorted(found, key=str)
    listed = {value_text(knob.domain.at(i)): i for i in range(knob.domain.size)}
    return sorted(found, key=lambda v: listed.get(value_text(v), 0))


def _level(trial: Trial, name: str, *, numeric: bool) -> Json:
    value = trial.point.get(name)
    return ABSENT if value is None else value if numeric else value_text(value)


def _parallel(
    study: Study, names: Sequence[str], axis: Axis, warmed: Sequence[tuple[Trial, float]], labels: Mapping[str, str]
) -> Picture:
    """Every line is a trial: its values on each knob's axis, evenly spaced, and its result on the last."""
    numbers = {t.number: v for t, v in warmed}
    known = [t for t in study.trials if t.number in numbers]
    objective = study.recipe.goal.first
    ranked = sorted(numbers, key=lambda n: objective.loss(numbers[n]))
    best = ranked[: max(1, len(ranked) // 20)]
    drawn = thinned(known, best[: LINES // 2], LINES)
    places: dict[str, dict[str, float]] = {}
    for name in names:
        knob = study.recipe.space.by_name[name]
        levels = [value_text(v) for v in _values(knob, known)]
        levels = list(dict.fromkeys([*levels, *([ABSENT] if any(name not in t.point for t in known) else [])]))
        places[name] = {v: i / max(1, len(levels) - 1) for i, v in enumerate(levels)}
    low, high = min(numbers.values()), max(numbers.values())
    lines: list[dict[str, Json]] = []
    for trial in drawn:
        own = {"at": place(labels, study, trial), "kind": "best 5 %" if trial.number in best else "others"}
        for name in names:
            level = str(_level(trial, name, numeric=False))
            lines.append({"k": name, "y": float(f"{places[name][level]:.4g}"), **own})
        lines.append({"k": axis.metric, "y": (numbers[trial.number] - low) / ((high - low) or 1), **own})
    ends = {f"{axis.of(low):g}": 0.0, f"{axis.of(high):g}": 1.0}
    ticks = [
        {"k": name, "y": y, "text": text[:18]}
        for name, by in [*places.items(), (axis.metric, ends)]
        for text, y in by.items()
        if len(by) <= LEVELS or y in (0.0, 1.0)
    ]
    x = {"field": "k", "type": "nominal", "sort": [*names, axis.metric], "title": None,
         "axis": {"labelAngle": 0, "orient": "top", "domain": False, "ticks": False, "grid": True, "labelLimit": 140},
         "scale": {"padding": 0.5}}  # fmt: skip
    y = {"field": "y", "type": "quantitative", "axis": None, "scale": {"domain": [-0.04, 1.04]}}
    colour = {"field": "kind", "type": "nominal", "legend": {"title": None, "orient": "bottom"},
              "scale": {"domain": ["best 5 %", "others"], "range": [ORANGE, GREY]}}  # fmt: skip
    opacity = {"condition": {"test": "datum.kind == 'others'", "value": 0.18}, "value": 0.9}
    which = "most" if objective.direction is Direction.MAXIMIZE else "least"
    return Picture(
        "parallel",
        "All knobs together",
        f"A line is a trial; orange are the 5 % with the {which} {axis.metric}, whose axis is the last"
        f" ({axis.title}).{how_many(len(drawn), len(known), 'the best and a random sample of the others')}",
        {
            "height": 320,
            "layer": [
                {"data": rows(lines), "mark": {"type": "line", "strokeWidth": 1.4},
                 "encoding": {"x": x, "y": y, "color": colour, "opacity": opacity, "detail": {"field": "at"}}},
                {"data": rows(ticks), "mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 10},
                 "encoding": {"x": x, "y": y, "text": {"field": "text"}, "color": {"value": PURPLE}}},
            ],
        },
        links(study, known),
        "whole",
    )  # fmt: skip
