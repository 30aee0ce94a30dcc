"""What do a file's runs show that a search's don't? Cold loads in the order of running, and the spread of summaries."""

from collections.abc import Iterator, Mapping
from itertools import islice

from optimizer.journal import Study
from optimizer.report.cold import cold_loads
from optimizer.report.data import links, measured, told
from optimizer.report.pictures.picture import BLUE, ORANGE, RED, WIDE_RANGE, Picture, axis_of, kinds, place, rows, whole
from optimizer.text import value_text

FEWEST = 3
SHOWN = 14  # rows of a picture


def recorded_pictures(study: Study, labels: Mapping[str, str]) -> Iterator[Picture]:
    """Cold loads in the order of running, and the spread of summaries."""
    cold = {t.number for t in cold_loads(study)}
    for metric in dict.fromkeys(("ttft_s", study.recipe.goal.first.metric)) if cold else ():
        if len(known := measured(study, metric)) >= FEWEST:
            axis = axis_of(metric, [v for _, v in known])
            data = [
                {"n": t.number, "v": axis.of(v), "at": place(labels, study, t),
                 "kind": "loaded the model first" if t.number in cold else "model in memory"}
                for t, v in known
            ]  # fmt: skip
            yield Picture(
                f"order-{metric}",
                f"{metric} in the order of running",
                f"{len(cold)} of {len(known)} runs loaded the model first.",
                {
                    "height": 190,
                    "data": rows(data),
                    "mark": {"type": "point", "filled": True, "opacity": 0.85, "size": 44},
                    "encoding": {
                        "x": whole("n", "run"),
                        "y": axis.channel("v"),
                        "color": kinds({"model in memory": BLUE, "loaded the model first": RED}),
                    },
                },
                links(study, [t for t, _ in known]),
            )
    if (picture := _spread_of_summaries(study, labels)) is not None:
        yield picture


def _spread_of_summaries(study: Study, labels: Mapping[str, str]) -> Picture | None:
    """From the smallest to the largest reading, with the mean: a warm-up inside the mean stands far from the rest."""
    metric = study.recipe.goal.first.metric
    every = ((t, s) for t in study.trials if (s := told(t, metric)) is not None and s.low and s.high and s.mean)
    known = list(islice(every, SHOWN + 1))  # of more there is no picture
    if len(known) < 2 or len(known) > SHOWN or all((s.high or 0) / (s.low or 1) < 1.05 for _, s in known):
        return None
    values = [v for _, s in known for v in (s.low, s.mean, s.high) if v]
    axis = axis_of(metric, values)
    data = [
        {"what": "/".join(value_text(v) for v in t.point.values()) or str(t.number), "low": axis.of(s.low or 0),
         "mean": axis.of(s.mean or 0), "high": axis.of(s.high or 0), "at": place(labels, study, t)}
        for t, s in known
    ]  # fmt: skip
    x = {**axis.channel("low"), "title": f"{axis.title}: smallest, mean (point), largest"}
    y = {"field": "what", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 220}}
    far = max(s.high / s.low for _, s in known if s.high and s.low) > WIDE_RANGE
    return Picture(
        f"spread-{metric}",
        f"{metric}: smallest to largest reading",
        "From the smallest to the largest reading, the point is the mean."
        + (" A mean far from the left end has a few slow readings inside." if far else ""),
        {
            "height": 28 * len(data),
            "data": rows(data),
            "encoding": {"y": y},
            "layer": [
                {"mark": {"type": "rule", "strokeWidth": 4, "opacity": 0.5, "color": BLUE},
                 "encoding": {"x": x, "x2": {"field": "high"}}},
                {"mark": {"type": "point", "filled": True, "size": 80, "color": ORANGE, "opacity": 1},
                 "encoding": {"x": {**axis.channel("mean"), "title": x["title"]}}},
            ],
        },
        links(study, [t for t, _ in known]),
    )  # fmt: skip
