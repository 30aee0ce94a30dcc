"""The command compare: each of the things named against the first."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from optimizer.cli.sources import found_in, split_words
from optimizer.cli.studies import settings_of
from optimizer.errors import ConfigError
from optimizer.report.compare import Comparison, Side, compare, side_of, side_of_export
from optimizer.report.markdown import table
from optimizer.text import quantity

SETTINGS = ("studies_dir", "metric", "direction", "tracking.uri")
PROVENANCE = "provenance.json"
SHOWN = 40  # pairs; --json has all


def command(words: Sequence[str], *, as_json: bool) -> None:
    names, typed = split_words(words, SETTINGS)
    settings = settings_of(typed, SETTINGS)
    if len(names) < 2:
        raise ConfigError("compare needs two things or more: python -m optimizer compare A B.")
    sides = [_side(name, settings) for name in names]
    found = [compare(sides[0], side, settings.get("metric")) for side in sides[1:]]
    if as_json:
        print(json.dumps({"comparisons": [asdict(c) for c in found]}, ensure_ascii=False, allow_nan=False))
    else:
        print("\n".join(_markdown(c) for c in found), end="")


def _side(name: str, settings: Mapping[str, str]) -> Side:
    for place in (Path(name), Path(name) / PROVENANCE):
        if place.name == PROVENANCE and place.is_file():
            return side_of_export(name, _read(place))
    shown = Path(name).name if Path(name).exists() else name
    return side_of(shown or name, found_in(name, settings).studies)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read: {error}.") from None


def _markdown(found: Comparison) -> str:
    parts = [f"# {found.a} against {found.b}\n\nRatios of {found.metric}: above 1, {found.b} is better."]
    if found.overall is not None:
        o = found.overall
        parts.append(f"**{o.value:.3g}×** ({o.low:.3g} to {o.high:.3g}): {found.overall_how}.")
    rows = [
        [
            p.what if p.what != "best" else f"best ({', '.join(p.changed) or 'the same configuration'})",
            quantity(found.metric, p.a),
            quantity(found.metric, p.b),
            f"{p.ratio.value:.3g}" + (f" ({p.ratio.low:.3g} to {p.ratio.high:.3g})" if p.interval else ""),
            p.how,
        ]
        for p in found.pairs
    ]
    more = f"\n\n… and {len(rows) - SHOWN} more." if len(rows) > SHOWN else ""
    parts.append(table(["configuration", "first", "second", "ratio", "from"], rows[:SHOWN]) + more)
    if any(found.unmatched):
        parts.append(
            f"Only in the first: {found.unmatched[0]} configurations; only in the second: {found.unmatched[1]}."
        )
    if found.environment:
        parts.append("What differs:\n\n" + "\n".join(f"- {d}" for d in found.environment))
    if found.warnings:
        parts.append("To be kept in mind:\n\n" + "\n".join(f"- {w}" for w in found.warnings))
    return "\n\n".join(parts) + "\n"
