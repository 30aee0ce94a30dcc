"""What is a picture before it is drawn? A Vega-Lite specification with its numbers inside, and what it must say.

A row of a picture's data names the trial it is from (`at`: S1.44), so that the page can show that trial. Colours are of
medium lightness: they stand out from white and from black.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median

from optimizer.journal import Study
from optimizer.report.data import Link
from optimizer.space import Json
from optimizer.text import unit_for
from optimizer.trial import Measured, Trial, samples_of

BLUE, ORANGE, GREEN, RED, GREY, PURPLE = "#3d8bfd", "#e8710a", "#1a9e5c", "#e5484d", "#8a94a6", "#a06cd5"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, "#d6409f", "#0d9aa5", "#b58900", RED, GREY)
MOST = 600  # points of a picture; of more a part is drawn, and the picture says so
WIDE_RANGE = 20.0  # largest over smallest value, from where on an axis is logarithmic
HEIGHT = 260


@dataclass(frozen=True)
class Picture:
    """`spec` is Vega-Lite without theme, width or schema: the page adds them. `trials`: what it was computed from."""

    name: str
    title: str
    about: str
    spec: Json
    trials: tuple[Link, ...]
    size: str = "half"  # of the page's width: third, half, whole


@dataclass(frozen=True)
class Axis:
    """How a metric is laid off: values are divided by `size`."""

    metric: str
    size: float
    title: str
    log: bool

    def of(self, value: float) -> float:
        return float(f"{value / self.size:.6g}")

    def channel(self, field: str) -> dict[str, Json]:
        scale: dict[str, Json] = {"type": "log"} if self.log else {"zero": False}
        axis: dict[str, Json] = {"tickCount": 6, "labelOverlap": "greedy"} | ({"format": "~g"} if self.log else {})
        return {"field": field, "type": "quantitative", "title": self.title, "scale": scale, "axis": axis}


def axis_of(metric: str, values: Sequence[float]) -> Axis:
    size, unit = unit_for(metric, median(values))
    wide = min(values) > 0 and max(values) / min(values) > WIDE_RANGE
    return Axis(metric, size, f"{metric} ({unit})" if unit and unit != "1/s" else metric, wide)


def place(labels: Mapping[str, str], study: Study, trial: Trial) -> str:
    """The trial's name in the page."""
    return f"{labels[study.name]}.{trial.number}"


def thinned(trials: Sequence[Trial], keep: Iterable[int], most: int = MOST) -> list[Trial]:
    """All whose number is in `keep`, and a seeded sample of the others, in order."""
    kept = set(keep)
    others = [t for t in trials if t.number not in kept]
    room = max(0, most - (len(trials) - len(others)))
    if len(others) > room:
        others = Random(0).sample(others, room)
    chosen = kept | {t.number for t in others}
    return [t for t in trials if t.number in chosen]


def how_many(drawn: int, of: int, which: str) -> str:
    """What a thinned picture says of itself; "" where all is drawn."""
    return "" if drawn == of else f" Drawn: {drawn:,} of {of:,} trials: {which}."


def values_of(study: Study) -> list[tuple[Trial, float]]:
    """The measured trials with the value of the first objective, by the statistic that it names."""
    objective = study.recipe.goal.first
    known = [(t, samples_of(t).get(objective.metric)) for t in study.trials if isinstance(t.outcome, Measured)]
    return [(t, objective.of(v)) for t, v in known if v]


def whole(field: str, title: str) -> Json:
    """An axis of numbers that count something."""
    axis = {"tickMinStep": 1, "format": "d", "labelOverlap": "greedy"}
    return {"field": field, "type": "quantitative", "title": title, "scale": {"nice": False}, "axis": axis}


def rows(values: Iterable[Mapping[str, Json]]) -> Json:
    return {"values": [dict(v) for v in values]}


def kinds(names: Mapping[str, str]) -> Json:
    """A colour a kind, with its legend."""
    return {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": list(names), "range": list(names.values())},
        "legend": {"title": None, "orient": "top"} if len(names) > 1 else None,
    }
