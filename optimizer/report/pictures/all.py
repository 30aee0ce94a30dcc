"""Which pictures does a report have? Groups of them, each under a title; names are unique in the whole report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from optimizer.journal import Study
from optimizer.report.data import Collection
from optimizer.report.overview import Overview
from optimizer.report.pictures.knobs import knob_pictures
from optimizer.report.pictures.picture import Picture
from optimizer.report.pictures.recorded import recorded_pictures
from optimizer.report.pictures.search import search_pictures
from optimizer.report.pictures.sets import compile_against_run, failures, gains, set_pictures

Group = tuple[str, Sequence[Picture]]
FEW = 2  # pictures of a study that don't need a title of their own


def pictures(found: Overview, studies: Sequence[Study], labels: Mapping[str, str]) -> list[Group]:
    """`studies`: those that count, without copies. Of one study a group without a title."""
    if len(studies) == 1:
        return [("", _of_study(found, studies[0], labels, alone=True))]
    together = list(set_pictures(Collection(tuple(studies), {}), found.findings, found.performance, labels))
    few: list[Picture] = []
    groups: list[Group] = []
    for study in studies:
        label = labels[study.name]
        mine = [replace(p, name=f"{label}-{p.name}") for p in _of_study(found, study, labels, alone=False)]
        if len(mine) > FEW:
            groups.append((f"{label} {study.name}", mine))
        else:
            few += [replace(p, title=f"{label} {study.name}: {p.title}") for p in mine]
    return [("", together), *([("Studies with few runs", few)] if few else []), *groups]


def _of_study(found: Overview, study: Study, labels: Mapping[str, str], *, alone: bool) -> list[Picture]:
    mine = [f for f in found.findings.values() if f.kind == "knob" and f.about["study"] == study.name]
    made: list[Picture | None] = [*search_pictures(study, labels), *recorded_pictures(study, labels)]
    if alone:
        own = {n: f for n, f in found.findings.items() if f.kind == "option"}
        made += [gains(own), compile_against_run([study], labels), failures([study], labels)]
    made += knob_pictures(study, mine, found.importance.get(study.name, {}), labels)
    return [p for p in made if p is not None]
