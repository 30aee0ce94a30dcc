"""How did a search go, and what trades what? Best so far over evaluations and over time, and the front."""

from collections.abc import Iterator, Mapping, Sequence

from optimizer.journal import Study
from optimizer.objective import Direction, Goal, Objective
from optimizer.readers.ingest import is_recorded
from optimizer.report.data import links
from optimizer.report.pictures.picture import (
    BLUE,
    GREEN,
    GREY,
    HEIGHT,
    ORANGE,
    Picture,
    axis_of,
    how_many,
    kinds,
    place,
    rows,
    thinned,
    values_of,
)
from optimizer.space import Json
from optimizer.text import quantity
from optimizer.trial import Trial, samples_of

FEWEST = 3  # trials that are worth a picture
TRIED, BEST, BREAKS, BASELINE = "measured", "best so far", "breaks a limit", "baseline"
KINDS = {TRIED: BLUE, BREAKS: GREY, BEST: ORANGE, BASELINE: GREEN}


def search_pictures(study: Study, labels: Mapping[str, str]) -> Iterator[Picture]:
    """Nothing for what was recorded elsewhere: nobody searched there."""
    if study.baseline is None or is_recorded(study) or len(values_of(study)) < FEWEST:
        return
    yield from _progress(study, labels)
    if (front := _front(study, labels)) is not None:
        yield front


def _improvements(study: Study) -> list[tuple[Trial, float]]:
    """The feasible trials that were better than all before them, with their values."""
    objective, found = study.recipe.goal.first, []
    least = float("inf")
    feasible = {t.number for t in study.ranked}
    for trial, value in values_of(study):
        if trial.number in feasible and objective.loss(value) < least:
            least = objective.loss(value)
            found.append((trial, value))
    return found


def _progress(study: Study, labels: Mapping[str, str]) -> Iterator[Picture]:
    known, steps = values_of(study), _improvements(study)
    axis = axis_of(study.recipe.goal.first.metric, [v for _, v in known])
    best = {t.number for t, _ in steps}
    values = {t.number: v for t, v in known}
    feasible = {t.number for t in study.ranked}
    drawn = thinned([t for t, _ in known], {0, *best})
    last = study.trials[-1]

    def kind(trial: Trial) -> str:
        if trial.number == 0:
            return BASELINE
        return BEST if trial.number in best else TRIED if trial.number in feasible else BREAKS

    def at(trial: Trial) -> dict[str, Json]:
        minutes = float(f"{trial.elapsed_s / 60:.6g}")
        return {"n": trial.number, "min": minutes, "at": place(labels, study, trial)}

    points = [{**at(t), "v": axis.of(values[t.number]), "kind": kind(t)} for t in drawn]
    line = [{**at(t), "v": axis.of(v)} for t, v in steps]
    if steps:
        line.append({**at(last), "at": line[-1]["at"], "v": line[-1]["v"]})
    note = how_many(len(drawn), len(known), "the baseline, each new best and a random sample of the others")
    seen = {p["kind"] for p in points}
    timed = study.trials[-1].elapsed_s > 0
    xs = [("n", "evaluations", "trial")] + ([("min", "time", "minutes since the search began")] if timed else [])
    for field, name, title in xs:
        yield Picture(
            f"best-over-{name}",
            f"Best so far over {name}",
            f"Each point is a measured trial; the line is the best {axis.metric} that keeps every limit, "
            f"{quantity(axis.metric, steps[-1][1])} in the end.{note}"
            if line
            else f"Each point is a measured trial.{note}",
            _steps(points, line, field, title, axis.channel("v"), {k: c for k, c in KINDS.items() if k in seen}),
            links(study, [t for t, _ in known]),
        )


def _steps(
    points: Sequence[Json], line: Sequence[Json], field: str, title: str, y: Json, colours: Mapping[str, str]
) -> Json:
    x = {"field": field, "type": "quantitative", "title": title, "scale": {"nice": False}}
    return {
        "height": HEIGHT,
        "encoding": {"x": x, "y": y},
        "layer": [
            {"data": rows(points), "mark": {"type": "point", "filled": True, "opacity": 0.65, "size": 34},
             "encoding": {"color": kinds(colours)}},
            {"data": rows(line),
             "mark": {"type": "line", "interpolate": "step-after", "color": ORANGE, "strokeWidth": 2}},
        ],
    }  # fmt: skip


def traded(study: Study) -> Objective | None:
    """What the first objective is weighed against: the second one, or else the first limit's metric."""
    goal = study.recipe.goal
    if len(goal.objectives) > 1:
        return goal.objectives[1]
    first = next((x for x in goal.limits if x.metric != goal.first.metric), None)
    return Objective(first.metric, first.direction, first.statistic) if first else None


def _front(study: Study, labels: Mapping[str, str]) -> Picture | None:
    """Of two objectives, of more the first two; the limits of the goal hold in it."""
    second, first, baseline = traded(study), study.recipe.goal.first, study.baseline
    if second is None or baseline is None:
        return None
    goal = Goal((first, second), study.recipe.goal.limits)
    pairs = [(t, v, s) for t, v in values_of(study) if (s := samples_of(t).get(second.metric))]
    if len({second.of(s) for _, _, s in pairs}) < 2:
        return None
    front = {t.number for t in goal.front(study.trials, baseline)}
    feasible = {t.number for t in study.ranked}
    known = {t.number: (v, second.of(s)) for t, v, s in pairs}
    y, x = axis_of(first.metric, [a for a, _ in known.values()]), axis_of(second.metric, [b for _, b in known.values()])
    drawn = thinned([t for t, _, _ in pairs], {0, *front})

    def kind(number: int) -> str:
        named = BASELINE if number == 0 and number not in front else "on the front" if number in front else ""
        return named or (TRIED if number in feasible else BREAKS)

    data: list[dict[str, Json]] = [
        {"at": place(labels, study, t), "v": y.of(known[t.number][0]), "w": x.of(known[t.number][1]),
         "kind": kind(t.number)}
        for t in drawn
    ]  # fmt: skip
    colours = {TRIED: BLUE, BREAKS: GREY, "on the front": ORANGE, BASELINE: GREEN}
    colours = {k: c for k, c in colours.items() if any(d["kind"] == k for d in data)}
    best = f"{'more' if second.direction is Direction.MAXIMIZE else 'less'} {second.metric}"
    line = {"transform": [{"filter": "datum.kind == 'on the front'"}],
            "mark": {"type": "line", "color": ORANGE, "opacity": 0.6},
            "encoding": {"order": {"field": "w"}}}  # fmt: skip
    return Picture(
        "front",
        f"{first.metric} against {second.metric}",
        f"{len(front)} trials are on the front: no other has a better {first.metric} with {best} as well, among those "
        "that keep every limit."
        + how_many(len(drawn), len(pairs), "the whole front and a random sample of the others"),
        {
            "height": HEIGHT,
            "data": rows(data),
            "encoding": {"x": x.channel("w"), "y": y.channel("v")},
            "layer": [line, {"mark": {"type": "point", "filled": True, "opacity": 0.75, "size": 40},
                             "encoding": {"color": kinds(colours)}}],
        },
        links(study, [t for t, _, _ in pairs]),
    )  # fmt: skip
