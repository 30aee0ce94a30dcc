"""How does a report look as one page? HTML with everything inside: texts, pictures, every trial; nothing is fetched.

The page is made of an Overview and the studies. The pictures are Vega-Lite, drawn by the bundle of Vega that vl-convert
brings, which is put into the page once.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimizer import __version__
from optimizer.journal import Study
from optimizer.report.data import Link, collection
from optimizer.report.finding import figure_text
from optimizer.report.overview import Overview
from optimizer.report.overview_sections import ABOUT_SETS, data_section, performance_section, ranges, sources_section
from optimizer.report.page.runs import Runs
from optimizer.report.page.trials import study_document
from optimizer.report.pictures.all import pictures
from optimizer.report.study_sections import study_sections
from optimizer.report.verdict import leader, passed_over, verdict_line
from optimizer.space import Json
from optimizer.stats import Judgement
from optimizer.text import quantity

HERE = Path(__file__).parent
LINK_LENGTH = 44


def page(found: Overview, studies: Sequence[Study], runs: Mapping[str, Runs]) -> bytes:
    """`runs`: where the studies' runs are in MLflow, by the study's name, where that is known."""
    import jinja2
    import vl_convert
    from markupsafe import Markup

    kept = collection(studies).studies
    labels = {s.study: s.label for s in found.sources}
    made = _Made(labels)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    one = kept[0] if len(studies) == 1 else None
    environment.filters |= {"inline": lambda text: Markup(inline(text, made.one(one)))}
    environment.globals |= {"evidence": made.evidence, "figure_text": figure_text}
    groups = pictures(found, kept, labels)
    html = environment.get_template("page.html").render(
        found=found,
        one=one,
        lead=_lead(one),
        tiles=_tiles(found, one),
        groups=groups,
        spoils=_spoils(found, one),
        advice=[a for a in found.advice if one is None or {*found.findings, *_spoils(found, one)} & {*a.because}],
        sections=study_sections(one, found.importance.get(one.name, {})) if one else [],
        performance=performance_section(found),
        data=data_section(found),
        sources=sources_section(found),
        version=__version__,
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        licence=(HERE / "vega_licence.txt").read_text(encoding="utf-8"),
        vega=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"),
        pictures_json=script_json({p.name: p.spec for _, ps in groups for p in ps}),
        trials_json=script_json([study_document(s, labels[s.name], runs.get(s.name)) for s in kept]),
        sets_json=lambda: script_json(made.sets),  # known when all the links are written
    )
    return html.encode()


def script_json(value: Json) -> str:
    """JSON that can stand inside a script element: no text in it can end that element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def inline(text: str, label: str) -> str:
    """Text of a report as HTML: **bold**, `code`, and links to findings; of one study (`label`) to its trials too."""
    from markupsafe import escape

    html = str(escape(text))
    html = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html)
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    html = re.sub(r"^([FD]\d+):", r'<a href="#\1">\1</a>', html)
    if label:
        html = re.sub(r"\b(trial|number) (\d+)\b", rf'<a href="#{label}.\2">\1 \2</a>', html, flags=re.IGNORECASE)
    return html


@dataclass
class _Made:
    """Sets of trials that links of the page stand for, each once."""

    labels: Mapping[str, str]
    sets: list[str] = field(default_factory=list)

    def one(self, study: Study | None) -> str:
        return self.labels[study.name] if study else ""

    def evidence(self, links: Sequence[Link]) -> list[tuple[str, str]]:
        """Address and text of a link for each study."""
        by: dict[str, list[int]] = defaultdict(list)
        for link in links:
            by[self.labels.get(link.study, link.study)].append(link.trial)
        found = []
        for label, numbers in by.items():
            text = f"{label}:{ranges(sorted(set(numbers)))}"
            found.append((self._address(text, numbers, label), _cut(text, len(set(numbers)))))
        return found

    def _address(self, text: str, numbers: Sequence[int], label: str) -> str:
        if len(numbers) == 1:
            return f"#{label}.{numbers[0]}"
        if text not in self.sets:
            self.sets.append(text)
        return f"#set-{self.sets.index(text)}"


def _cut(text: str, n: int) -> str:
    return text if len(text) <= LINK_LENGTH else f"{text[: text.rfind(',', 0, LINK_LENGTH)]},… ({n:,} trials)"


def _spoils(found: Overview, one: Study | None) -> Mapping[str, Any]:
    return {n: f for n, f in found.spoils.items() if one is None or f.kind not in ABOUT_SETS}


# --- the head


def _lead(one: Study | None) -> list[str]:
    """What stands first: of one study its verdict, of several what there is."""
    return [verdict_line(one), *passed_over(one)] if one else []


@dataclass(frozen=True)
class Tile:
    value: str
    text: str
    href: str


def _tiles(found: Overview, one: Study | None) -> list[Tile]:
    data = found.data
    failed = sum(data.failed.values())
    trials = Tile(f"{data.trials:,}", f"trials, {f'{failed:,}' if failed else 'none'} of them failed", "#trials")
    holds = [f for f in found.findings.values() if f.test.holds]
    said = Tile(f"{len(holds)}", f"findings that hold, of {len(found.findings)}", "#findings")
    spoilt = Tile(str(len(_spoils(found, one))), "things that spoil the data", "#spoils")
    if one is None:
        files = f"studies of {len(data.files)} files" if data.files else "studies"
        return [Tile(str(data.studies), files, "#studies"), trials, said, spoilt]
    return [*_outcome(found, one), trials, said, spoilt]


def _outcome(found: Overview, study: Study) -> list[Tile]:
    """The verdict and the best value as measured."""
    tiles = []
    label = found.sources[0].label
    verdict = study.ending.verdict if study.ending else None
    if verdict is not None:
        proved = verdict.judgement is Judgement.BETTER
        text = f"{verdict.metric}, {'proved' if proved else 'not told from the baseline'}"
        text += f" (95% interval {verdict.low:.3f} to {verdict.high:.3f})"
        tiles.append(Tile(f"{verdict.ratio:.3f}×", text, f"#{label}.{verdict.number}"))
    if study.baseline is not None:
        best, objective = leader(study), study.recipe.goal.first
        row = next((s for s in found.sources if s.best_trial == best.number and s.best is not None), None)
        if row is not None and row.best is not None:
            tiles.append(Tile(quantity(objective.metric, row.best), f"{objective.metric} of trial {best.number}, as "
                              "measured in the search", f"#{label}.{best.number}"))  # fmt: skip
    return tiles
