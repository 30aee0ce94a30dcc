"""The command report: one study, or an overview of several, as Markdown, JSON and a page."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from optimizer.cli.sources import Found, found_in, journal_of, split_words
from optimizer.cli.studies import settings_of
from optimizer.errors import ConfigError
from optimizer.files import write_whole
from optimizer.journal import Study
from optimizer.report.overview import document, overview
from optimizer.report.overview_markdown import overview_markdown, study_markdown
from optimizer.report.page.page import page
from optimizer.report.page.runs import Runs

LISTED = 10
SETTINGS = ("studies_dir", "tracking.uri", "metric", "direction")


def command(words: Sequence[str], out: Path | None, html: Path | None, *, as_json: bool) -> None:
    """`html`: where the page is written; None: beside the others."""
    names, typed = split_words(words, SETTINGS)
    if not names:
        raise ConfigError("report needs a study: python -m optimizer report NAME.")
    settings = settings_of(typed, SETTINGS)
    found = [found_in(name, settings) for name in names]
    runs = {s.id or s.name: r for f in found for s, r in zip(f.studies, f.runs, strict=False) if r is not None}
    studies = _named(list({s.id or s.name: s for f in found for s in f.studies}.values()))
    title = studies[0].name if len(studies) == 1 else " and ".join(Path(f.word).name or f.word for f in found)
    seen = overview(studies, title)
    text = study_markdown(studies[0], seen) if len(studies) == 1 else overview_markdown(seen)
    told = json.dumps(document(seen), ensure_ascii=False, allow_nan=False)
    folder = out or _folder(names, studies, settings, title)
    where = html or folder / "report.html"
    write_whole(folder / "report.md", text.encode())
    write_whole(folder / "report.json", told.encode())
    write_whole(where, page(seen, studies, _by_name(studies, runs)))
    print(told if as_json else text, end="\n" if as_json else "")
    _leave(found)
    print(f"the page: {where}", file=sys.stderr)


def _by_name(studies: Sequence[Study], runs: Mapping[str, Runs]) -> dict[str, Runs]:
    return {s.name: runs[s.id or s.name] for s in studies if (s.id or s.name) in runs}


def _named(studies: Sequence[Study]) -> list[Study]:
    """Links name a study, so no two may share a name: the later ones get their id beside it."""
    seen: set[str] = set()
    kept = []
    for study in studies:
        one = replace(study, name=f"{study.name}-{study.id[:8]}") if study.name in seen else study
        seen.add(one.name)
        kept.append(one)
    return kept


def _folder(names: Sequence[str], studies: Sequence[Study], settings: dict[str, str], title: str) -> Path:
    path = journal_of(names[0], settings) if len(names) == 1 and len(studies) == 1 else None
    return path.parent if path is not None else Path("reports") / title.replace(" ", "-").replace("/", "-")


def _leave(found: Sequence[Found]) -> None:
    """The files of a folder that are no benchmark data, on stderr."""
    left = [t for f in found for t in f.left]
    for one in left[:LISTED]:
        print(f"left out: {one.path}: {one.why}", file=sys.stderr)
    if len(left) > LISTED:
        print(f"left out: {len(left) - LISTED} more files", file=sys.stderr)
