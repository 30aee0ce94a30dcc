"""How does an overview read as Markdown? What is there, what the data say, what spoils them, what should be done."""

from collections.abc import Mapping, Sequence

from optimizer.journal import Study
from optimizer.report.advice import Advice
from optimizer.report.finding import Finding, figure_text
from optimizer.report.markdown import markdown, section_markdown
from optimizer.report.overview import Overview
from optimizer.report.overview_sections import ABOUT_SETS, data_section, performance_section, shown, sources_section


def overview_markdown(found: Overview) -> str:
    labels = {s.study: s.label for s in found.sources}
    performance = performance_section(found)
    parts = [
        f"# {found.title}",
        "## In short\n\n" + "\n".join(f"- {line}" for line in found.summary),
        section_markdown(data_section(found)),
        section_markdown(performance) if performance else "",
        _findings("## What the data say", found.findings, labels),
        _findings("## What spoils the data", found.spoils, labels),
        _advice(found.advice),
        section_markdown(sources_section(found)),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def study_markdown(study: Study, found: Overview) -> str:
    """The report of a single study, with what its overview says besides."""
    more = findings_markdown(found)
    return markdown(study, found.importance.get(study.name, {})) + (f"\n{more}\n" if more else "")


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


def _findings(title: str, found: Mapping[str, Finding], labels: Mapping[str, str]) -> str:
    lines = []
    for name, finding in found.items():
        held = {True: "holds", False: "does not hold", None: "counted"}[finding.test.holds]
        where = f" From {shown(finding.evidence, labels)}." if finding.evidence and any(labels.values()) else ""
        figures = ", ".join(f"{k} {figure_text(v)}" for k, v in finding.test.figures.items())
        lines.append(
            f"- **{name}** {finding.statement}{where}\n  *Test*: {finding.test.name}; "
            f"{held}{f' ({figures})' if figures else ''}."
        )
    return f"{title}\n\n" + "\n".join(lines) if lines else ""


def _advice(given: Sequence[Advice]) -> str:
    lines = [f"{i}. {a.text} ({', '.join(a.because)}; rule: {a.rule}.)" for i, a in enumerate(given, start=1)]
    return "## Recommendations\n\n" + "\n".join(lines) if lines else ""
