"""How do two studies, exports or ingested sets compare? The same metric of the same work, as ratios with intervals.

What can't be compared is refused with the reason. A ratio says how many times as good B is as A: above 1, B is better.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import geometric_mean

from optimizer.errors import ConfigError
from optimizer.journal import Study
from optimizer.metrics import better
from optimizer.objective import Direction
from optimizer.readers.ingest import is_recorded
from optimizer.recipe import Environment, differences, environment_from
from optimizer.report.data import collection, readings_of, told, typical_values, work_knobs, work_of
from optimizer.report.resampling import Interval, ratio_of_means, ratio_of_medians
from optimizer.report.spoils import spoils
from optimizer.space import Json, Point, Value, canonical
from optimizer.stats import FEWEST, estimate
from optimizer.trial import Measured, Summary, Trial

BEST = "best"
DOUBTS = ("warmup-in-mean", "cold-load-mistaken", "wrong-device", "other-precision")
"""The kinds of findings that a ratio must not be read without."""


@dataclass(frozen=True)
class Row:
    """A measured configuration of a side."""

    work: str
    group: tuple[Value, ...]  # the values of the knobs that say what was run
    point: Point
    summaries: Mapping[str, Summary]
    readings: Mapping[str, tuple[float, ...]]
    place: str  # study and trial


@dataclass(frozen=True)
class Side:
    """One of the things that are compared."""

    name: str
    rows: tuple[Row, ...]
    leaders: tuple[Row, ...]  # the best of each study, or what is shipped
    fingerprints: Mapping[str, Json]  # work → all that makes it the same work
    metric: str  # its own objective
    direction: Direction
    environment: Environment
    facts: Mapping[str, Json] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()  # what spoils its figures


@dataclass(frozen=True)
class Pair:
    """A configuration of A against one of B. `interval` is False where no interval can be computed."""

    work: str
    what: str  # the configuration, or "best"
    a: float
    b: float
    ratio: Interval
    interval: bool
    how: str
    a_place: str
    b_place: str
    changed: tuple[str, ...] = ()  # what their configurations differ in


@dataclass(frozen=True)
class Comparison:
    a: str
    b: str
    metric: str
    pairs: tuple[Pair, ...]
    overall: Interval | None  # over pairs of equal configurations
    overall_how: str
    unmatched: tuple[int, int]  # configurations of A and of B that the other lacks
    environment: tuple[str, ...]  # what differs between the two places
    warnings: tuple[str, ...]


def side_of(name: str, studies: Sequence[Study]) -> Side:
    """Raises ConfigError where nothing was measured."""
    rows: list[Row] = []
    leaders: list[Row] = []
    for study in studies:
        rows += [_row(study, t) for t in study.trials if isinstance(t.outcome, Measured)]
        leaders += _leaders(study)
    if not rows:
        raise ConfigError(f"{name} has no trial that was measured: there is nothing to compare.")
    first = studies[0]
    facts: dict[str, Json] = {}
    for study in studies:
        facts |= dict(study.recipe.target.options.get("facts") or {}) if is_recorded(study) else {}
    objective = first.recipe.goal.first
    prints = {work_of(s): _fingerprint(s) for s in studies}
    doubts = tuple(f.statement for f in spoils(collection(studies)) if f.kind in DOUBTS)
    place = first.environment
    return Side(name, tuple(rows), tuple(leaders), prints, objective.metric, objective.direction, place, facts, doubts)


def _fingerprint(study: Study) -> Json:
    """What must agree for two studies to have run the same work: of a search, all of its target."""
    return {"work": work_of(study)} if is_recorded(study) else dict(study.recipe.target.options)


def _row(study: Study, trial: Trial) -> Row:
    names = list(typical_values(trial))
    summaries = {n: s for n in names if (s := told(trial, n)) is not None}
    readings = {n: r for n in names if len(r := readings_of(trial, n)) > 1}
    group = tuple(trial.point.get(k, "") for k in work_knobs(study))
    return Row(work_of(study), group, trial.point, summaries, readings, f"{study.name} trial {trial.number}")


def _leaders(study: Study) -> Iterator[Row]:
    """The winner, or the best as measured; of a study of different work the best of each."""
    if not work_knobs(study):
        if (leader := study.winner or study.best) is not None:
            yield _row(study, leader)
        return
    objective = study.recipe.goal.first
    by: dict[tuple[Value, ...], tuple[float, Trial]] = {}
    for trial in study.trials:
        if (value := typical_values(trial).get(objective.metric)) is not None:
            group = tuple(trial.point.get(k, "") for k in work_knobs(study))
            loss = objective.loss(value)
            if group not in by or loss < by[group][0]:
                by[group] = (loss, trial)
    for _, trial in by.values():
        yield _row(study, trial)


def side_of_export(name: str, document: Json) -> Side:
    """A provenance.json. Raises ConfigError where it is none."""
    try:
        recipe, metrics = document["recipe"], document["metrics"]
        target = recipe["target"]
        objective = recipe["objectives"][0]
        row = Row(
            str(target["name"]),
            (),
            Point(document["point"]),
            {n: Summary(median=float(v)) for n, v in metrics.items()},
            {},
            f"export of {document['study']}, trial {document['number']}",
        )
        return Side(
            name,
            (row,),
            (row,),
            {str(target["name"]): target["options"]},
            str(objective["metric"]),
            Direction(objective["direction"]),
            environment_from(document["environment"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{name} is no export of this program ({error!r}).") from None


def compare(a: Side, b: Side, metric: str | None = None) -> Comparison:
    """Raises ConfigError, with the reason, for what can't be compared."""
    metric = metric or a.metric
    works = _same_work(a, b)
    for side in (a, b):
        _has(side, metric)
    direction = _direction(metric, a, b)
    mine, theirs = (_with(s, metric, works) for s in (a, b))
    pairs = [
        _pair(metric, direction, row, other, _text(row.point))
        for key, row in mine.items()
        if (other := theirs.get(key)) is not None
    ]
    overall, how = _overall(pairs)
    unmatched = (len(mine.keys() - theirs.keys()), len(theirs.keys() - mine.keys()))
    pairs += _best(a, b, metric, direction, works, pairs)
    if not pairs:
        raise ConfigError(
            f"{a.name} and {b.name} have no benchmark in common: {_groups(a)} against {_groups(b)}. "
            "Compare sets that ran the same ones."
        )
    environment = differences(_place(a), _place(b))
    return Comparison(
        a.name,
        b.name,
        metric,
        tuple(pairs),
        overall,
        how,
        unmatched,
        tuple(environment),
        tuple(_warnings(a, b, pairs)),
    )


def _direction(metric: str, a: Side, b: Side) -> Direction:
    for side in (a, b):
        if side.metric == metric:
            return side.direction
    match better(metric):
        case "lower":
            return Direction.MINIMIZE
        case "higher":
            return Direction.MAXIMIZE
    raise ConfigError(f"Neither way is {metric} better, so a ratio of it says nothing. Name another: metric=latency_s.")


def _has(side: Side, metric: str) -> None:
    known = sorted({n for row in side.rows for n in row.summaries})
    if metric not in known:
        raise ConfigError(f"{side.name} has no {metric}. It has: {', '.join(known)}. Choose one with metric=….")


def _same_work(a: Side, b: Side) -> set[str]:
    common = a.fingerprints.keys() & b.fingerprints.keys()
    if not common:
        raise ConfigError(
            f"{a.name} and {b.name} did not run the same work: {'; '.join(a.fingerprints)} against "
            f"{'; '.join(b.fingerprints)}. "
            "A ratio of their times would say nothing."
        )
    same = {w for w in common if canonical(a.fingerprints[w]) == canonical(b.fingerprints[w])}
    if not same:
        work = sorted(common)[0]
        changed = "\n  ".join(differences(a.fingerprints[work], b.fingerprints[work])[:6])
        raise ConfigError(f"{a.name} and {b.name} both ran {work}, but not the same of it. What differs:\n  {changed}")
    return same


def _with(side: Side, metric: str, works: set[str]) -> dict[tuple[str, str], Row]:
    """The rows that have the metric, by work and configuration; the first of equals."""
    found: dict[tuple[str, str], Row] = {}
    for row in side.rows:
        if row.work in works and metric in row.summaries:
            found.setdefault((row.work, row.point.key), row)
    return found


def _pair(metric: str, direction: Direction, a: Row, b: Row, what: str) -> Pair:
    up, down = (a, b) if direction is Direction.MINIMIZE else (b, a)
    first, second = up.summaries[metric], down.summaries[metric]
    mine, theirs = a.summaries[metric].typical or 0.0, b.summaries[metric].typical or 0.0
    r1, r2 = up.readings.get(metric, ()), down.readings.get(metric, ())
    known, how = True, ""
    if len(r1) >= FEWEST and len(r2) >= FEWEST:
        ratio, how = ratio_of_medians(r1, r2), "medians of readings (bootstrap)"
    elif (found := ratio_of_means(first, second)) is not None:
        ratio, how = found, "means with deviations (Welch)"
    else:
        top, bottom = first.typical, second.typical
        if not top or not bottom or min(top, bottom) <= 0:
            raise ConfigError(f"{metric} of {a.place} or {b.place} is not positive: there is no ratio.")
        ratio, known, how = Interval(top / bottom, top / bottom, top / bottom), False, "single numbers: no interval"
    changed = tuple(d for d in differences(dict(a.point), dict(b.point)))
    return Pair(a.work, what, mine, theirs, ratio, known, how, a.place, b.place, changed)


def _overall(pairs: Sequence[Pair]) -> tuple[Interval | None, str]:
    """Over the configurations that both have."""
    ratios = [p.ratio.value for p in pairs]
    if len(ratios) < 2:
        return None, ""
    if len(ratios) < FEWEST:
        mean = geometric_mean(ratios)
        return Interval(mean, min(ratios), max(ratios)), f"geometric mean of {len(ratios)} pairs, smallest and largest"
    e = estimate(ratios)
    return Interval(e.median, e.low, e.high), f"median of {len(ratios)} pairs, 95% interval between order statistics"


def _best(
    a: Side, b: Side, metric: str, direction: Direction, works: set[str], pairs: Sequence[Pair]
) -> Iterator[Pair]:
    """What each ends with, per work; left out where it is a pair already."""
    for mine in a.leaders:
        for theirs in b.leaders:
            same = mine.work == theirs.work and mine.work in works and mine.group == theirs.group
            told_of = metric in mine.summaries and metric in theirs.summaries
            paired = any((p.a_place, p.b_place) == (mine.place, theirs.place) for p in pairs)
            if same and told_of and not paired:
                yield _pair(metric, direction, mine, theirs, BEST)


def _text(point: Point) -> str:
    return " ".join(f"{n}={v}" for n, v in point.items())


def _groups(side: Side) -> str:
    names = list(dict.fromkeys(" ".join(map(str, r.group)) for r in side.rows))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


APART = ("packages", "load_1min", "load_avg", "noise")
"""Facts of a host that are listed elsewhere or say nothing of how fast it is when it is quiet."""


def _place(side: Side) -> Json:
    environment = side.environment
    packages = environment.host.get("packages")
    return {
        "device": environment.device,
        "driver": environment.driver,
        **{f"compiler {n}": v for n, v in environment.compilers.items()},
        **{f"host {n}": v for n, v in environment.host.items() if n not in APART},
        **{f"package {n}": v for n, v in (packages.items() if isinstance(packages, Mapping) else ())},
        **{f"fact {n}": v for n, v in side.facts.items()},
        "commit": environment.commit,
    }


def _warnings(a: Side, b: Side, pairs: Sequence[Pair]) -> Iterator[str]:
    yield from dict.fromkeys((*a.doubts, *b.doubts))
    if a.environment.device != b.environment.device:
        yield f"The devices differ ({a.environment.device}, {b.environment.device}): the ratio tells of them as well."
    elif a.environment.device == "not stated":
        yield "Neither says on which device it ran."
    if any(not p.interval for p in pairs):
        without = sum(not p.interval for p in pairs)
        yield f"{without} of {len(pairs)} ratios have no interval: too few readings are told."
    if any(p.what == BEST for p in pairs):
        yield "The best of many measured once is partly luck: confirm it interleaved before it is believed."
