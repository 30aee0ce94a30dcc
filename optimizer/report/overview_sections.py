"""Which tables does an overview have? Data, performance and studies, as sections for Markdown and page alike.

Links are shown as S3:0,1,4-9: trials 0, 1 and 4 to 9 of study S3.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from optimizer.report.blocks import Cell, Section, table_of
from optimizer.report.data import Link
from optimizer.report.overview import Overview, best_text
from optimizer.text import quantity

MOST_LINKS = 8  # studies that a cell names
ABOUT_SETS = ("missing-metrics", "unnamed-device", "copies", "unstated-n")
"""What spoils a set of files and is no news of a single study."""


def data_section(found: Overview) -> Section:
    data = found.data
    failed = "".join(f", {n} {r}" for r, n in data.failed.items())
    rows = [
        ["studies", str(data.studies)],
        ["files", str(len(data.files)) if data.files else ""],
        ["kinds", _counted(data.kinds)],
        ["measured", f"{data.first} to {data.last}" if data.first else ""],
        ["without a date of their own", str(data.undated) if data.undated else ""],
        ["names", _counted(data.names)],
        ["runs", f"{data.trials}: {data.measured} measured{failed}"],
        ["repeated files", str(len(data.copies)) if data.copies else ""],
        ["metrics", _counted(data.metrics)],
    ]
    return Section("Data", (table_of(("", ""), [r for r in rows if r[1]]),))


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def performance_section(found: Overview) -> Section | None:
    labels = {s.study: s.label for s in found.sources}
    rows: list[list[str | Cell]] = [
        [
            r.metric,
            r.group,
            Cell(quantity(r.metric, r.mean), r.mean),
            Cell("") if r.sd is None else Cell(quantity(r.metric, r.sd), r.sd),
            Cell(quantity(r.metric, r.median), r.median),
            Cell(quantity(r.metric, r.p95), r.p95),
            Cell(str(r.n), r.n),
            Cell("not told") if r.readings is None else Cell(str(r.readings), r.readings),
            Cell(shown(r.links, labels), None, r.links),
        ]
        for r in found.performance
    ]
    missing = (f"Not in the data: {', '.join(found.absent)}.",) if found.absent else ()
    if not rows:
        return Section("Performance", missing) if missing else None
    header = ("metric", "of", "mean", "sd", "median", "p95", "n", "readings", "from")
    note = "Over configurations (n), each with its median, or with the mean where a file tells no more."
    return Section("Performance", (note, table_of(header, rows), *missing))


def sources_section(found: Overview) -> Section:
    rows: list[list[str | Cell]] = []
    for s in found.sources:
        best = (Link(s.study, s.best_trial),) if s.best_trial is not None and not s.copy_of else ()
        rows.append(
            [
                Cell(s.label, float(s.label[1:])),
                s.study,
                s.kind,
                s.group,
                s.date[:19] if s.date_from == "stated in the file" else f"{s.date[:10]} ({s.date_from})",
                Cell(f"{s.trials}" + (f" ({s.failed} failed)" if s.failed else ""), s.trials),
                Cell(best_text(s), s.best, best),
                s.best_is,
                s.sha256[:12],
                f"repeats {s.copy_of}" if s.copy_of else "",
            ]
        )
    header = ("", "study", "kind", "of", "date", "runs", "best as measured", "which is", "sha256 of the file", "")
    return Section("Studies", (table_of(header, rows),))


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
