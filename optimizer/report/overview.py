"""What do several studies say together? Everything a report shows, as values; pages are made of it elsewhere.

`overview` computes, `document` gives JSON; Markdown (overview_markdown.py) and the page (page/) are made of the same
Overview. Every figure carries the trials it came from, as links (study, trial).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from optimizer.journal import Study
from optimizer.readers.ingest import is_recorded, source_of
from optimizer.report.advice import Advice, advice
from optimizer.report.data import (
    Collection,
    DataSummary,
    PerformanceRow,
    absent,
    collection,
    data_summary,
    group_of,
    performance,
    typical_values,
)
from optimizer.report.finding import Finding
from optimizer.report.findings import findings
from optimizer.report.importance import shares_of
from optimizer.report.spoils import spoils
from optimizer.report.verdict import verdict_line
from optimizer.space import Json
from optimizer.text import quantity, value_text
from optimizer.trial import Failed


@dataclass(frozen=True)
class Source:
    """A study as one line: what it is, where it is from, what stands out."""

    label: str  # S1, S2, …: what links are shown with
    study: str
    kind: str
    group: str
    file: str
    sha256: str
    date: str
    date_from: str
    trials: int
    failed: int
    metric: str
    best: float | None  # as measured, confirmed or not
    best_trial: int | None
    best_is: str  # its configuration
    copy_of: str = ""


@dataclass(frozen=True)
class Overview:
    title: str
    summary: tuple[str, ...]
    data: DataSummary
    sources: tuple[Source, ...]
    performance: tuple[PerformanceRow, ...]
    absent: tuple[str, ...]  # metrics of the table that no trial has
    findings: Mapping[str, Finding]  # F1, F2, …
    spoils: Mapping[str, Finding]  # D1, D2, …
    advice: tuple[Advice, ...]
    importance: Mapping[str, Mapping[str, float]]  # of a search's knobs: study → knob → share of the variation


def overview(studies: Sequence[Study], title: str) -> Overview:
    studies = sorted(studies, key=lambda s: (s.created_at_s, s.name))
    data = collection(studies)
    found = {f"F{i}": f for i, f in enumerate(findings(data), start=1)}
    spoilt = {f"D{i}": f for i, f in enumerate(spoils(data), start=1)}
    ordered = [*data.studies, *(s for s in studies if s.name in data.copies)]
    summary = data_summary(data, studies)
    given = advice({**found, **spoilt})
    return Overview(
        title,
        tuple(_summary(summary, data, found, spoilt, given)),
        summary,
        tuple(_source(f"S{i}", s, data) for i, s in enumerate(ordered, start=1)),
        tuple(performance(data)),
        tuple(absent(data)),
        found,
        spoilt,
        tuple(given),
        {s.name: shares for s in data.studies if not is_recorded(s) and (shares := shares_of(s))},
    )


def _source(label: str, study: Study, data: Collection) -> Source:
    source = source_of(study)
    objective, best = study.recipe.goal.first, study.best
    value = typical_values(best).get(objective.metric) if best else None
    date = str(source.get("date") or datetime.fromtimestamp(study.created_at_s, UTC).isoformat(timespec="seconds"))
    return Source(
        label,
        study.name,
        study.recipe.target.name,
        group_of(study),
        str(source.get("file", "")),
        str(source.get("sha256", "")),
        date,
        str(source.get("date_from", "the journal")),
        len(study.trials),
        sum(isinstance(t.outcome, Failed) for t in study.trials),
        objective.metric,
        value,
        best.number if best else None,
        " ".join(f"{n}={value_text(v)}" for n, v in best.point.items()) if best else "",
        data.copies.get(study.name, ""),
    )


LEADING = (
    ("option", "gain_low"),
    ("model", "ratio"),
    ("warmup-in-mean", ""),
    ("cold-load-mistaken", "seeming_ratio"),
    ("failure", "failed"),
    ("knob", "share"),
)
"""The kinds of findings that the summary names, one each: the one with the largest figure of that name."""


MOST_VERDICTS = 5  # that the summary tells one by one


def _summary(
    data: DataSummary,
    kept: Collection,
    found: Mapping[str, Finding],
    spoilt: Mapping[str, Finding],
    given: Sequence[Advice],
) -> list[str]:
    """A few sentences by rule: what there is, how the searches ended, the strongest finding of each kind that holds,
    what to do first."""
    failed = data.trials - data.measured
    lines = [
        f"{_count(len(kept.studies), 'study', 'studies')}"
        f"{f' of {len(data.files)} files' if data.files else ''} with {_count(data.trials, 'run', 'runs')}, "
        f"{failed or 'none'} of them failed" + (f"; {len(data.copies)} files repeat others." if data.copies else ".")
    ]
    searched = [s for s in kept.studies if not is_recorded(s) and s.trials]
    proved = [s for s in searched if s.winner and s.winner.number > 0]
    if len(searched) > MOST_VERDICTS:
        lines.append(f"{len(proved)} of {len(searched)} searches ended with a trial that was proved better.")
    else:
        lines += [_ended(s, several=len(searched) > 1) for s in searched]
    everything = {**found, **spoilt}
    for kind, figure in LEADING:
        mine = {
            n: f
            for n, f in everything.items()
            if f.kind == kind and (f.test.holds or kind in ("failure", "cold-load-mistaken"))
        }
        if mine:
            name = max(mine, key=lambda n: _largest(mine[n], figure))
            lines.append(f"{name}: {mine[name].statement}")
    if 0 < len(proved) <= MOST_VERDICTS:
        shipped = ", ".join(f"trial {s.winner.number} of {s.name}" for s in proved if s.winner)
        lines.append(f"First of all: ship {shipped}, by `optimizer export STUDY`: it was proved.")
    elif given:
        lines.append(f"First of all: {given[0].text}")
    return lines


def _ended(study: Study, *, several: bool) -> str:
    """The verdict of a search, by its name where there are others."""
    return f"{f'{study.name}: ' if several else ''}{verdict_line(study).replace('**', '')}"


def _count(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _largest(finding: Finding, ending: str) -> float:
    values = [float(v) for n, v in finding.test.figures.items() if n.endswith(ending) and isinstance(v, int | float)]
    return max(values, default=0.0)


def document(found: Overview) -> Json:
    """The whole as JSON: numbers as numbers, links as {"study", "trial"}."""
    told: dict[str, Any] = asdict(found)
    return {"format": "optimizer-report", "version": 1, **told}


def best_text(source: Source) -> str:
    return "" if source.best is None else f"{quantity(source.metric, source.best)} (trial {source.best_trial})"
