"""What data is there? Studies of any kind as one collection: what each trial tells, which studies are copies of others,
what was measured, and the table of performance. Pure; every figure carries links to its trials."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean, median, stdev

from optimizer.journal import Study
from optimizer.metrics import METRICS
from optimizer.readers.ingest import is_recorded, source_of
from optimizer.space import Json
from optimizer.stats import quantile
from optimizer.targets.replay import READINGS
from optimizer.trial import Failed, Measured, Samples, Summary, Trial, samples_of

TABLE = (
    "compile_time_s",
    "latency_s",
    "throughput_ips",
    "tokens_per_s",
    "prefill_tokens_per_s",
    "ttft_s",
    "gpu_utilization_pct",
    "memory_utilization_pct",
)
"""The metrics of the table of performance, in its order."""

ROUNDED = 0.015  # two records of one run may differ by so much where one was rounded for people
EXACT = 1e-6
WORDS = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """A trial that a figure comes from."""

    study: str
    trial: int


@dataclass(frozen=True)
class Collection:
    """The studies that count, and those that only repeat one of them: copy → original."""

    studies: tuple[Study, ...]
    copies: Mapping[str, str]


@dataclass(frozen=True)
class DataSummary:
    studies: int
    copies: Mapping[str, str]
    files: tuple[str, ...]
    kinds: Mapping[str, int]
    first: str  # ISO date of the first measurement; "" where no file says when
    last: str
    undated: int  # files that don't say when they were measured
    names: Mapping[str, int]  # what the files and works are called, by how often
    trials: int
    measured: int
    failed: Mapping[str, int]  # by reason
    metrics: Mapping[str, int]  # by how many trials have it


@dataclass(frozen=True)
class PerformanceRow:
    """A metric over the configurations of a group: each counts with its one typical number."""

    metric: str
    group: str
    mean: float
    sd: float | None
    median: float
    p95: float
    n: int  # configurations
    readings: int | None  # behind them; None where a file does not say
    links: tuple[Link, ...]


def collection(studies: Iterable[Study]) -> Collection:
    """Finds the copies: what stands in two files was measured once. The study that says most is the original."""
    kept: list[Study] = []
    copies: dict[str, str] = {}
    for study in sorted(studies, key=lambda s: (-_richness(s), s.name)):
        original = next((k for k in kept if is_copy(study, k)), None)
        if original is None:
            kept.append(study)
        else:
            copies[study.name] = original.name
    return Collection(tuple(sorted(kept, key=lambda s: (s.created_at_s, s.name))), copies)


def _richness(study: Study) -> int:
    """How much a study tells: trials first, then metrics, then how exactly (a JSON file before its table)."""
    known = [t for t in study.trials if isinstance(t.outcome, Measured)]
    told_of = sum(s.n is not None for t in known for s in _summaries(t).values())
    return len(study.trials) * 1000 + told_of + sum(len(_samples(t)) for t in known)


def _summaries(trial: Trial) -> Mapping[str, Summary]:
    return trial.outcome.summaries if isinstance(trial.outcome, Measured) else {}


def _samples(trial: Trial) -> Samples:
    return trial.outcome.samples if isinstance(trial.outcome, Measured) else {}


def is_copy(study: Study, original: Study) -> bool:
    """Whether a file's measurements are all in another: the same points, and the same numbers, to the rounding of a
    table where both state the same time of measuring, else exactly."""
    if not (is_recorded(study) and is_recorded(original)):
        return False
    theirs = {t.point.key: t for t in original.trials}
    mine = [t for t in study.trials if isinstance(t.outcome, Measured)]
    if not mine or any(t.point.key not in theirs for t in mine):
        return False
    dated = [source_of(s).get("date_from") == "stated in the file" for s in (study, original)]
    if all(dated) and study.created_at_s != original.created_at_s:
        return False
    close = ROUNDED if all(dated) else EXACT
    compared = 0
    for trial in mine:
        ours, other = typical_values(trial), typical_values(theirs[trial.point.key])
        for name in ours.keys() & other.keys():
            compared += 1
            if not math.isclose(ours[name], other[name], rel_tol=close):
                return False
    return compared >= len(mine)


def told(trial: Trial, metric: str) -> Summary | None:
    """What is known of a metric: computed from the readings where they are listed, else as it was told."""
    samples = samples_of(trial)
    readings = samples.get(READINGS) if metric == "latency_s" and READINGS in samples else samples.get(metric)
    if (summary := _summaries(trial).get(metric)) is not None and not (
        isinstance(trial.outcome, Measured) and metric in trial.outcome.samples
    ):
        return summary
    if not readings:
        return None
    sd = stdev(readings) if len(readings) > 1 else None
    p95 = quantile(readings, 0.95) if len(readings) > 1 else None
    return Summary(fmean(readings), sd, min(readings), max(readings), median(readings), p95, len(readings))


def readings_of(trial: Trial, metric: str) -> tuple[float, ...]:
    """The single readings; none where only a summary is known."""
    if not isinstance(trial.outcome, Measured):
        return ()
    samples = trial.outcome.samples
    return samples.get(READINGS if metric == "latency_s" and READINGS in samples else metric, ())


def typical_values(trial: Trial) -> dict[str, float]:
    """One number a metric; only of trials that were measured."""
    if not isinstance(trial.outcome, Measured):
        return {}
    return {n: median(v) for n, v in samples_of(trial).items() if v and n != READINGS}


def names_of(trial: Trial) -> list[str]:
    """The metrics that a trial has."""
    if not isinstance(trial.outcome, Measured):
        return []
    return [n for n, v in samples_of(trial).items() if v and n != READINGS]


def measured(study: Study, metric: str) -> list[tuple[Trial, float]]:
    """The trials that have the metric, with its typical number, in the order of running."""
    return [(t, v) for t in study.trials if (v := typical(t, metric)) is not None]


def typical(trial: Trial, metric: str) -> float | None:
    """The one number of one metric; None where it was not measured."""
    if not isinstance(trial.outcome, Measured):
        return None
    if values := trial.outcome.samples.get(metric):
        return median(values)
    return typical_values(trial).get(metric)


def links(study: Study, trials: Iterable[Trial]) -> tuple[Link, ...]:
    return tuple(Link(study.name, t.number) for t in trials)


def option(study: Study, name: str) -> Json:
    return study.recipe.target.options.get(name)


def work_of(study: Study) -> str:
    """What was run, in words; two studies of the same work may be compared."""
    return str(option(study, "work") or study.recipe.target.name)


def model_of(study: Study) -> str:
    """The model's name where the file says it."""
    return str((option(study, "facts") or {}).get("model") or "")


def group_of(study: Study) -> str:
    parts = [work_of(study), model_of(study), study.environment.device]
    return " · ".join(p for p in parts if p and p != "not stated")


def work_knobs(study: Study) -> tuple[str, ...]:
    return tuple(option(study, "work_knobs") or ())


def varied(study: Study) -> list[str]:
    """The knobs with more than one value that are alternatives, not different work."""
    seen: dict[str, set[str]] = defaultdict(set)
    for trial in study.trials:
        for name, value in trial.point.items():
            seen[name].add(str(value))
    return [k.name for k in study.recipe.space.knobs if len(seen[k.name]) > 1 and k.name not in work_knobs(study)]


def data_summary(data: Collection, every: Sequence[Study]) -> DataSummary:
    """`every`: the studies with the copies: files and dates are counted over all, trials without copies."""
    sources = [source_of(s) for s in every]
    files = tuple(sorted(str(s["file"]) for s in sources if s))
    trials = [t for s in data.studies for t in s.trials]
    failed = Counter(str(t.outcome.reason) for t in trials if isinstance(t.outcome, Failed))
    metrics: Counter[str] = Counter()
    for trial in trials:
        metrics.update(names_of(trial))
    dated = [s for s in every if source_of(s).get("date_from") != "the file's last change"]
    dates = [datetime.fromtimestamp(s.created_at_s, UTC).isoformat(timespec="seconds") for s in dated]
    names = Counter(w for s in every for w in dict.fromkeys(_words(s)))
    return DataSummary(
        len(every),
        data.copies,
        files,
        dict(Counter(s.recipe.target.name for s in every).most_common()),
        min(dates, default=""),
        max(dates, default=""),
        len(every) - len(dated),
        dict(names.most_common(12)),
        len(trials),
        len(trials) - sum(failed.values()),
        dict(failed),
        dict(metrics.most_common()),
    )


def _words(study: Study) -> list[str]:
    """The words of a file's name (a search's study: of its target); numbers and endings are none."""
    name = str(source_of(study).get("file") or study.recipe.target.name).rsplit(".", 1)[0]
    return [w.lower() for w in WORDS.split(name) if len(w) > 1 and not w.isdigit()]


def performance(data: Collection) -> list[PerformanceRow]:
    """A row a metric and group, and one over all groups (which mixes different work). What is not there is absent."""
    rows = []
    for metric in TABLE:
        found = {s.name: (s, pairs) for s in data.studies if (pairs := measured(s, metric))}
        groups: dict[str, list[tuple[Study, Trial, float]]] = defaultdict(list)
        for study, pairs in found.values():
            groups[group_of(study)] += [(study, t, v) for t, v in pairs]
        everything = [item for items in groups.values() for item in items]
        if len(groups) > 1:
            rows.append(_row(metric, "all (different work mixed)", everything))
        rows += [_row(metric, group, items) for group, items in groups.items()]
    return rows


def _row(metric: str, group: str, items: Sequence[tuple[Study, Trial, float]]) -> PerformanceRow:
    values = [v for _, _, v in items]
    counts = [_count(t, metric) for _, t, _ in items]
    known = [c for c in counts if c is not None]
    return PerformanceRow(
        metric,
        group,
        fmean(values),
        stdev(values) if len(values) > 1 else None,
        median(values),
        quantile(values, 0.95),
        len(values),
        sum(known) if len(known) == len(counts) else None,
        tuple(Link(s.name, t.number) for s, t, _ in items),
    )


def _count(trial: Trial, metric: str) -> int | None:
    """How many readings are behind a trial's number; None where a summary does not say."""
    if readings := readings_of(trial, metric):
        return len(readings)
    summary = _summaries(trial).get(metric)
    return summary.n if summary is not None else 1


def absent(data: Collection) -> list[str]:
    """The metrics of the table that no trial has."""
    seen = {m for s in data.studies for t in s.trials for m in names_of(t)}
    return [m for m in TABLE if m not in seen and m in METRICS]
