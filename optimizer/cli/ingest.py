"""The command ingest: files in, studies out, and what became of each file."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from optimizer.cli import FAILED
from optimizer.cli.sources import split_words
from optimizer.cli.studies import settings_of, store_for
from optimizer.errors import ConfigError
from optimizer.journal import JOURNAL, Study
from optimizer.readers.formats import FORMATS
from optimizer.readers.ingest import State, Taken, files_of, kept

SETTINGS = ("studies_dir", "tracking", "tracking.uri", "tracking.experiment", "device")
AT_ONCE = 500  # studies that MLflow gets in one transaction
LISTED = 20  # files of a state that are named on the screen
STATES: dict[State, str] = {
    "new": "new",
    "known": "known already, not touched",
    "unknown": "of an unknown kind",
    "damaged": "that can't be read",
}


def command(words: Sequence[str], *, as_json: bool) -> None:
    """Exit code 1 where a file is damaged or MLflow can't be written to; 2 where nothing at all is benchmark data."""
    names, typed = split_words(words, SETTINGS)
    paths = [Path(n) for n in names]
    settings = settings_of(typed, SETTINGS)
    if not paths:
        raise ConfigError("ingest needs files or folders: python -m optimizer ingest FOLDER [studies_dir=DIR].")
    if settings.get("tracking", "mlflow") not in ("mlflow", "none"):
        raise ConfigError(f"tracking={settings['tracking']} is not known. Known: mlflow, none.")
    studies = Path(settings.get("studies_dir", "studies"))
    found = list(kept(files_of(paths), studies, settings.get("device", "")))
    mine = [t.study for t in found if t.study is not None]
    if not mine:
        raise ConfigError(f"Nothing here is benchmark data that can be read.\n{_listed(found)}\n{_kinds()}")
    problem = "" if settings.get("tracking") == "none" else _sent(mine, studies, settings)
    if as_json:
        print(json.dumps(_document(found, problem)))
    else:
        print(_said(found, studies))
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    if problem or any(t.state == "damaged" for t in found):
        raise SystemExit(FAILED)


def _sent(studies: Sequence[Study], folder: Path, settings: dict[str, str]) -> str:
    """Sends to MLflow what it lacks; what went wrong, "" for nothing."""
    from rich.console import Console
    from rich.progress import Progress

    from optimizer.listeners.tracker import read_status
    from optimizer.readers.store import StoreError

    uri = store_for(settings, folder.resolve())
    missing = []
    for study in studies:
        status = read_status(folder / study.name / JOURNAL)
        if status is None or (status.uri, status.sent, status.error) != (uri, len(study.trials), None):
            missing.append(study)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("MLflow", total=len(missing))
        for first in range(0, len(missing), AT_ONCE):
            some = missing[first : first + AT_ONCE]
            try:
                _send(some, folder, uri, settings.get("tracking.experiment"))
            except StoreError as error:
                return (
                    f"MLflow at {uri} can't be written to: {error}. The journals are complete; give this command "
                    "again to send what is missing, or tracking=none to leave MLflow out."
                )
            progress.advance(task, len(some))
    return ""


def _send(studies: Sequence[Study], folder: Path, uri: str, experiment: str | None) -> None:
    """Together what the store has nothing of, then what is left of the others. Raises StoreError."""
    from optimizer.listeners.mlflow import no_pages, send
    from optimizer.listeners.together import send_together
    from optimizer.listeners.tracker import Status, sending, write_status

    by_experiment: dict[str, list[Study]] = {}
    for study in studies:
        by_experiment.setdefault(experiment or study.recipe.target.name, []).append(study)
    with ExitStack() as locks:
        for study in studies:
            locks.enter_context(sending(folder / study.name / JOURNAL))
        copies = send_together(by_experiment, uri, lambda sent: None, no_pages)
        for name, mine in by_experiment.items():
            for study in mine:
                copy = copies.get(study.id) or send(study, uri, name, lambda sent: None, no_pages)
                journal = folder / study.name / JOURNAL
                write_status(journal, Status(uri, copy.experiment_id, copy.parent, len(study.trials)))


def _said(found: Sequence[Taken], studies: Path) -> str:
    counts = Counter(t.state for t in found)
    kinds = Counter(t.what for t in found if t.study)
    trials = sum(len(t.study.trials) for t in found if t.study)
    lines = [
        f"{len(found)} files: " + ", ".join(f"{counts[s]} {text}" for s, text in STATES.items() if counts[s]) + "."
    ]
    lines += [f"  {count:4d}  {what}" for what, count in kinds.most_common()]
    lines += [f"{trials} trials in {studies}."]
    if listed := _listed(found):
        lines += [listed]
    lines += [f"next: python -m optimizer report {studies}"]
    return "\n".join(lines)


def _listed(found: Sequence[Taken]) -> str:
    """The files that became no study, and why."""
    lines = []
    bad: tuple[State, ...] = ("damaged", "unknown")
    for state in bad:
        mine = [t for t in found if t.state == state]
        lines += [f"  {state}: {t.path}: {t.why}" for t in mine[:LISTED]]
        if len(mine) > LISTED:
            lines.append(f"  … and {len(mine) - LISTED} more {STATES[state]} (--json lists them all)")
    return "\n".join(lines)


def _kinds() -> str:
    return f"What can be read: {', '.join(f.what for f in FORMATS)}."


def _document(found: Sequence[Taken], problem: str) -> dict[str, object]:
    files = [
        {
            "file": str(t.path),
            "state": t.state,
            "kind": t.what,
            "study": t.study.name if t.study else None,
            "trials": len(t.study.trials) if t.study else 0,
            "why": t.why,
        }
        for t in found
    ]
    return {"files": files, "counts": dict(Counter(t.state for t in found)), "problem": problem or None}
