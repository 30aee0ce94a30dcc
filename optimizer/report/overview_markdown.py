"""How does an overview read as Markdown? Links are shown as S3:0,1,4-9: trials 0, 1 and 4 to 9 of study S3."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from optimizer.report.advice import Advice
from optimizer.report.data import Link
from optimizer.report.finding import Figure, Finding
from optimizer.report.overview import Overview, best_text
from optimizer.text import quantity

MOST_LINKS = 8  # studies that a cell names


def overview_markdown(found: Overview) -> str:
    labels = {s.study: s.label for s in found.sources}
    parts = [
        f"# {found.title}",
        "## In short\n\n" + "\n".join(f"- {line}" for line in found.summary),
        _data(found),
        _performance(found, labels),
        _findings("## What the data say", found.findings, labels),
        _findings("## What spoils the data", found.spoils, labels),
        _advice(found.advice),
        _sources(found),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


ABOUT_SETS = ("missing-metrics", "unnamed-device", "copies", "unstated-n")
"""What spoils a set of files and is no news of a single study."""


def findings_markdown(found: Overview) -> str:
    """The sections that a report of a single study gets beside its own; "" where there is nothing to say."""
    kept = {n: f for n, f in found.spoils.items() if f.kind not in ABOUT_SETS}
    names = {*found.findings, *kept}
    given = tuple(a for a in found.advice if names.intersection(a.because))
    parts = [
        _findings("## What the data say", found.findings, {}),
        _findings("## What spoils the data", kept, {}),
        _advice(given),
    ]
    return "\n\n".join(p for p in parts if p)


def _data(found: Overview) -> str:
    data = found.data
    rows = [
        ["studies", str(data.studies)],
        ["files", str(len(data.files)) if data.files else ""],
        ["kinds", ", ".join(f"{k} {n}" for k, n in data.kinds.items())],
        ["measured", f"{data.first} to {data.last}" if data.first else ""],
        ["without a date of their own", str(data.undated) if data.undated else ""],
        ["names", ", ".join(f"{k} {n}" for k, n in data.names.items())],
        ["runs", f"{data.trials}: {data.measured} measured" + "".join(f", {n} {r}" for r, n in data.failed.items())],
        ["repeated files", str(len(data.copies)) if data.copies else ""],
        ["metrics", ", ".join(f"{k} {n}" for k, n in data.metrics.items())],
    ]
    return f"## Data\n\n{table(['', ''], [r for r in rows if r[1]])}"


def _performance(found: Overview, labels: Mapping[str, str]) -> str:
    rows = [
        [
            r.metric,
            r.group,
            quantity(r.metric, r.mean),
            "" if r.sd is None else quantity(r.metric, r.sd),
            quantity(r.metric, r.median),
            quantity(r.metric, r.p95),
            str(r.n),
            "not told" if r.readings is None else str(r.readings),
            shown(r.links, labels),
        ]
        for r in found.performance
    ]
    missing = f"\n\nNot in the data: {', '.join(found.absent)}." if found.absent else ""
    header = ["metric", "of", "mean", "sd", "median", "p95", "n", "readings", "from"]
    note = "Over configurations (n), each with its median, or with the mean where a file tells no more."
    return f"## Performance\n\n{note}\n\n{table(header, rows)}{missing}" if rows else missing.strip()


def _findings(title: str, found: Mapping[str, Finding], labels: Mapping[str, str]) -> str:
    lines = []
    for name, finding in found.items():
        held = {True: "holds", False: "does not hold", None: "counted"}[finding.test.holds]
        where = f" From {shown(finding.evidence, labels)}." if finding.evidence and any(labels.values()) else ""
        figures = ", ".join(f"{k} {_figure(v)}" for k, v in finding.test.figures.items())
        lines.append(
            f"- **{name}** {finding.statement}{where}\n  *Test*: {finding.test.name}; "
            f"{held}{f' ({figures})' if figures else ''}."
        )
    return f"{title}\n\n" + "\n".join(lines) if lines else ""


def _figure(value: Figure) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _advice(given: Sequence[Advice]) -> str:
    lines = [f"{i}. {a.text} ({', '.join(a.because)}; rule: {a.rule}.)" for i, a in enumerate(given, start=1)]
    return "## Recommendations\n\n" + "\n".join(lines) if lines else ""


def _sources(found: Overview) -> str:
    rows = [
        [
            s.label,
            s.study,
            s.kind,
            s.group,
            s.date[:19] if s.date_from == "stated in the file" else f"{s.date[:10]} ({s.date_from})",
            f"{s.trials}" + (f" ({s.failed} failed)" if s.failed else ""),
            best_text(s),
            s.best_is,
            s.sha256[:12],
            f"repeats {s.copy_of}" if s.copy_of else "",
        ]
        for s in found.sources
    ]
    header = ["", "study", "kind", "of", "date", "runs", "best as measured", "which is", "sha256 of the file", ""]
    return f"## Studies\n\n{table(header, rows)}"


def shown(links: Iterable[Link], labels: Mapping[str, str]) -> str:
    by: dict[str, list[int]] = defaultdict(list)
    for link in links:
        by[labels.get(link.study) or link.study].append(link.trial)
    texts = [f"{study}:{ranges(sorted(set(numbers)))}" for study, numbers in by.items()]
    more = len(texts) - MOST_LINKS
    return " ".join(texts[:MOST_LINKS]) + (f" and {more} more" if more > 0 else "")


def ranges(numbers: Sequence[int]) -> str:
    """0,1,2,5 → 0-2,5."""
    found: list[list[int]] = []
    for n in numbers:
        if found and n == found[-1][1] + 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in line)} |" for line in lines)
