"""How do many runs lie side by side? Gains with intervals, distributions, compile against run time, failures, order."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random

from optimizer.journal import Study
from optimizer.report.data import Collection, Link, PerformanceRow, group_of, typical, varied, work_of
from optimizer.report.finding import Finding
from optimizer.report.pictures.picture import (
    BLUE,
    GREY,
    HEIGHT,
    MOST,
    ORANGE,
    PALETTE,
    RED,
    Picture,
    axis_of,
    how_many,
    kinds,
    place,
    rows,
)
from optimizer.space import Json
from optimizer.text import value_text
from optimizer.trial import Failed, Trial

FEWEST = 3
SHOWN = 14  # rows of a picture
MOST_OF_SEVERAL = 2000  # points of a picture of several studies
OTHERS = "others"
COUNT = {"type": "quantitative", "title": "trials", "axis": {"tickMinStep": 1, "format": "d"}}
CURVE = ("latency_s", "tokens_per_s", "throughput_ips")
"""What run time is, the first that a study has."""


def set_pictures(
    data: Collection, found: Mapping[str, Finding], table: Sequence[PerformanceRow], labels: Mapping[str, str]
) -> Iterator[Picture]:
    """What several studies show together."""
    made = [gains(found), *distributions(data, table, labels), compile_against_run(data.studies, labels),
            failures(data.studies, labels)]  # fmt: skip
    yield from (p for p in made if p is not None)


def gains(found: Mapping[str, Finding]) -> Picture | None:
    """Every option against the first of its study, as the findings have it."""
    data: list[dict[str, Json]] = []
    evidence: list[Link] = []
    for name, finding in found.items():
        if finding.kind != "option":
            continue
        figures = finding.test.figures
        for key in [k for k in figures if k.endswith("_gain")]:
            row = {"low": figures[f"{key}_low"], "gain": figures[key], "high": figures[f"{key}_high"]}
            option = key.removesuffix("_gain")
            data.append({"what": f"{name} {option}", "of": f"{name} {finding.about['study']}", **row})
        evidence += finding.evidence
    if not data:
        return None
    x = {"type": "quantitative", "scale": {"type": "log"}, "axis": {"format": "~g"},
         "title": "times as fast as the first option of the study (95% interval)"}  # fmt: skip
    y = {"field": "what", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 220}}
    works = list(dict.fromkeys(str(d["of"]) for d in data))
    colour = {"field": "of", "type": "nominal", "scale": {"domain": works, "range": _colours(len(works))},
              "legend": {"title": None, "orient": "bottom", "columns": 1, "labelLimit": 700}}  # fmt: skip
    return Picture(
        "gains",
        "Options against the first of their study",
        "Right of 1: faster. The number of a finding stands before each option; where no interval can be computed "
        "there is a point alone.",
        {
            "height": 20 * len(data),
            "layer": [
                {"data": rows([{"one": 1}]), "mark": {"type": "rule", "strokeDash": [4, 4], "color": GREY},
                 "encoding": {"x": {**x, "field": "one"}}},
                {"data": rows(data), "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.6},
                 "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": colour}},
                {"data": rows(data), "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                 "encoding": {"y": y, "x": {**x, "field": "gain"}, "color": colour}},
            ],
        },
        tuple(evidence),
    )  # fmt: skip


def _colours(n: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def short(text: str, most: int = 56) -> str:
    """Cut in its first part: what follows a dot in the middle (model, device) tells groups apart."""
    first, dot, rest = text.partition(" · ")
    room = max(12, most - len(dot + rest))
    return (first if len(first) <= room else f"{first[: room - 1]}…") + dot + rest


def distributions(
    data: Collection, table: Sequence[PerformanceRow], labels: Mapping[str, str]
) -> Iterator[Picture | None]:
    """A picture a metric of the table: each configuration a point, in rows of the same work, with the medians."""
    values = {Link(s.name, t.number): (s, t) for s in data.studies for t in s.trials}
    for metric in dict.fromkeys(r.metric for r in table):
        mine = [r for r in table if r.metric == metric and not r.group.startswith("all (")][:SHOWN]
        if len(mine) < 2 or sum(r.n for r in mine) < 2 * FEWEST:
            continue
        every = [values[link] for r in mine for link in r.links]
        axis = axis_of(metric, [v for _, t in every if (v := typical(t, metric)) is not None])
        names = {r.group: short(r.group, 48) for r in mine}
        points = [
            {"of": names[r.group], "v": axis.of(v), "at": place(labels, s, t), "kind": "a configuration"}
            for r in mine
            for s, t in map(values.__getitem__, _spread(r.links))
            if (v := typical(t, metric)) is not None
        ]
        middle = [{"of": names[r.group], "v": axis.of(r.median), "kind": "median"} for r in mine]
        y = {"field": "of", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 300}}
        yield Picture(
            f"values-{metric}",
            metric,
            "Each point is a configuration with its one typical number."
            + how_many(len(points), len(every), "spread evenly over each row"),
            {
                "height": 26 * len(mine),
                "encoding": {"y": y, "x": axis.channel("v")},
                "layer": [
                    {"data": rows(points), "mark": {"type": "point", "filled": True, "opacity": 0.5, "size": 36},
                     "encoding": {"color": kinds({"a configuration": BLUE, "median": ORANGE})}},
                    {"data": rows(middle), "mark": {"type": "tick", "thickness": 3, "size": 18, "color": ORANGE}},
                ],
            },
            tuple(link for r in mine for link in r.links),
        )  # fmt: skip


def _spread(found: Sequence[Link], most: int = 120) -> list[Link]:
    return list(found) if len(found) <= most else [found[i * len(found) // most] for i in range(most)]


def compile_against_run(studies: Sequence[Study], labels: Mapping[str, str]) -> Picture | None:
    """Time spent on building once against time spent on every run."""
    metric = next((m for m in CURVE if any(_both(s, m) for s in studies)), None)
    if metric is None:
        return None
    every = [(s, t, c, v) for s in studies for t, c, v in _both(s, metric)]
    if len(every) < FEWEST:
        return None
    x, y = axis_of("compile_time_s", [c for *_, c, _ in every]), axis_of(metric, [v for *_, v in every])
    several = len(studies) > 1
    bests = {id(s.best) for s in studies}
    others = [id(t) for _, t, *_ in every if id(t) not in bests]
    room = (MOST_OF_SEVERAL if several else MOST) - len(bests)
    chosen = bests | set(others if len(others) <= room else Random(0).sample(others, max(0, room)))
    data = [
        {"x": x.of(c), "y": y.of(v), "at": place(labels, s, t), "kind": _option(s, t) if several else "a trial"}
        for s, t, c, v in every
        if id(t) in chosen
    ]
    names = [n for n, _ in Counter(str(d["kind"]) for d in data).most_common()]
    colours = dict(zip(names, PALETTE, strict=False))
    if len(names) > len(PALETTE):
        colours = {**dict(zip(names, PALETTE[:-1], strict=False)), OTHERS: PALETTE[-1]}
    data = [d if d["kind"] in colours else {**d, "kind": OTHERS} for d in data]
    return Picture(
        "compile-against-run",
        f"Compile time against {metric}",
        "Whether a faster program takes longer to build: low and left is best of both."
        + how_many(len(data), len(every), "the best of each study and a random sample of the others"),
        {
            "height": HEIGHT,
            "data": rows(data),
            "mark": {"type": "point", "filled": True, "opacity": 0.75, "size": 44},
            "encoding": {"x": x.channel("x"), "y": y.channel("y"), "color": kinds(colours)},
        },
        tuple(Link(s.name, t.number) for s, t, *_ in every),
    )


def _both(study: Study, metric: str) -> list[tuple[Trial, float, float]]:
    return [
        (t, c, v)
        for t in study.trials
        if (c := typical(t, "compile_time_s")) is not None and (v := typical(t, metric)) is not None
    ]


def _option(study: Study, trial: Trial) -> str:
    names = varied(study)[:1]
    return value_text(trial.point[names[0]]) if names and names[0] in trial.point else work_of(study)


def failures(studies: Sequence[Study], labels: Mapping[str, str]) -> Picture | None:
    """How many trials failed, by reason and stage."""
    failed = [(s, t, t.outcome) for s in studies for t in s.trials if isinstance(t.outcome, Failed)]
    if not failed:
        return None
    several = len(studies) > 1
    counts = Counter((f"{o.reason} ({o.stage})", short(group_of(s)) if several else "") for s, _, o in failed)
    first: dict[tuple[str, str], str] = {}
    for s, t, o in failed:
        first.setdefault((f"{o.reason} ({o.stage})", short(group_of(s)) if several else ""), place(labels, s, t))
    data = [{"why": why, "of": of, "n": n, "at": first[why, of]} for (why, of), n in counts.most_common(3 * SHOWN)]
    works = list(dict.fromkeys(str(d["of"]) for d in data))
    legend = {"title": None, "orient": "bottom", "columns": 1, "labelLimit": 500}
    colour = {"field": "of", "type": "nominal", "legend": legend,
              "scale": {"domain": works, "range": _colours(len(works))}} if several else {"value": RED}  # fmt: skip
    return Picture(
        "failures",
        "Failures by reason",
        f"{len(failed):,} of {sum(len(s.trials) for s in studies):,} trials failed.",
        {
            "height": 30 * len({why for why, _ in counts}),
            "data": rows(data),
            "mark": {"type": "bar", "height": 18},
            "encoding": {
                "x": {"field": "n", **COUNT},
                "y": {"field": "why", "type": "nominal", "title": None, "sort": "-x"},
                "color": colour,
            },
        },
        tuple(Link(s.name, t.number) for s, t, _ in failed),
    )
