"""The command monitor: checks of an export, once or on a schedule, with their history, picture and alarms."""

import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

from optimizer.cli import FAILED
from optimizer.cli.studies import PLACES, journal_named, settings_of, store_for
from optimizer.cli.verify import confirm_of
from optimizer.config import nested
from optimizer.errors import ConfigError
from optimizer.export.experiment import experiment_file
from optimizer.export.exported import Exported, exported_in
from optimizer.export.provenance import PROVENANCE
from optimizer.export.shipment import TOLERANCE_PCT
from optimizer.files import write_whole
from optimizer.journal import JOURNAL
from optimizer.listeners.monitored import Step, send_steps
from optimizer.production.history import Check, History, history_of
from optimizer.production.monitor import check_of, suspects
from optimizer.production.picture import picture
from optimizer.production.verify import verified
from optimizer.readers.store import StoreError
from optimizer.space import digest
from optimizer.text import duration

PICTURE = "history.png"
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SETTINGS = (*PLACES, "tracking")


@dataclass(frozen=True)
class Asked:
    every: str | None
    out: Path | None
    rounds: int | None
    seconds: float | None
    research: bool
    once: bool
    folders: tuple[Path, ...]


def command(name: str, words: Sequence[str], asked: Asked, *, as_json: bool) -> None:
    settings = settings_of(words, SETTINGS)
    if asked.every is not None and asked.once:
        raise ConfigError("--once and --every exclude each other.")
    every_s = None if asked.every is None else seconds_of(asked.every)
    exported, folder = _exported(name, settings, asked.out)
    while True:
        start_s = time.monotonic()
        try:
            regressed = _check(exported, folder, settings, asked, as_json=as_json)
        except ConfigError as error:
            if every_s is None:
                raise
            print(f"not measured: {error}", file=sys.stderr, flush=True)
            regressed = False
        if regressed:
            raise SystemExit(FAILED)
        if every_s is None:
            return
        wait_s = max(0.0, every_s - (time.monotonic() - start_s))
        print(f"next check in {duration(wait_s)} (Ctrl-C ends it)", file=sys.stderr, flush=True)
        time.sleep(wait_s)


def seconds_of(text: str) -> float:
    """30m → 1800. Raises ConfigError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"--every {text}: write a number and a unit: 30m, 6h, 1d.")
    return float(found[1]) * UNITS_S[found[2]]


def _exported(name: str, settings: Mapping[str, str], out: Path | None) -> tuple[Exported, Path]:
    """The export that is monitored, and where its history is kept; of a study, its winner is exported there first."""
    place = Path(name)
    if (place / PROVENANCE).is_file() or place.name == PROVENANCE:
        exported = exported_in(place)
        return exported, out or Path("monitoring") / exported.study
    if place.is_dir() and not (place / JOURNAL).is_file():
        raise ConfigError(f"{place} is neither an export (it has no {PROVENANCE}) nor a study's folder.")
    from optimizer.cli.export import command as export
    from optimizer.journal import read

    journal = journal_named(name, settings)
    folder = out or Path("monitoring") / read(journal).name
    if not (folder / "export" / PROVENANCE).is_file():
        with redirect_stdout(sys.stderr):
            export(
                str(journal), [], ["json"], folder / "export", force=False, tolerance_pct=TOLERANCE_PCT, register=False
            )
    return exported_in(folder / "export"), folder


def _check(exported: Exported, folder: Path, settings: Mapping[str, str], asked: Asked, *, as_json: bool) -> bool:
    """One check, written down before it is drawn, sent or told; whether it is a regression."""
    with history_of(exported, folder) as history:
        with tempfile.TemporaryDirectory(prefix="optimizer-monitor-") as builds:
            confirm = confirm_of(exported, asked.rounds, asked.seconds)
            found = verified(exported, Path(builds), time.perf_counter, confirm)
        check = check_of(exported, history.checks, found, time.time())
        history.add(check)
        drawn = picture(exported, history.checks)
        write_whole(folder / PICTURE, drawn)
        tracked = _tracked(exported, history, drawn, settings)
        print(json.dumps(_document(check, tracked), ensure_ascii=False) if as_json else _text(history, found.notes))
        if asked.research and check.changed:
            _research(exported, history, folder, settings, asked.folders)
    return check.regressed


def _document(check: Check, tracked: str | None) -> Mapping[str, object]:
    return {**asdict(check), "regressed": check.regressed, "tracking": tracked}


def _text(history: History, notes: Sequence[str]) -> str:
    check = history.checks[-1]
    ratio = "not measured" if check.ratio is None else f"{check.ratio:.3f}× ({check.low:.3f} to {check.high:.3f})"
    lines = [f"check {check.number}: {ratio}, {check.finding.value}"]
    lines += [f"  {why}" for why in check.why]
    if check.level and check.since is not None:
        lines.append(
            f"  {check.level} since check {check.since}: {check.before:.3f}× → {check.after:.3f}× (change-point test)"
        )
        lines += [f"  changed then: {text}" for text in suspects(history.checks, check.since)]
    elif check.changed:
        lines += [f"  changed since the last check: {text}" for text in check.changed]
    return "\n".join([*lines, *(f"  note: {note}" for note in notes if note not in check.changed)])


def _tracked(exported: Exported, history: History, drawn: bytes, settings: Mapping[str, str]) -> str | None:
    """The run in MLflow; None where it is not wanted or does not answer, and then the next check sends it all."""
    if settings.get("tracking") == "none":
        return None
    uri = store_for(settings, Path(settings.get("studies_dir", "studies")).resolve())
    experiment = settings.get("tracking.experiment") or exported.recipe.target.name
    steps = [_step(check) for check in history.checks]
    try:
        return send_steps(uri, experiment, history.id, exported.study, steps, (PICTURE, drawn))
    except StoreError as error:
        print(f"warning: MLflow at {uri} can't be written to: {error}. The next check sends it.", file=sys.stderr)
        return None


def _step(check: Check) -> Step:
    told = {"ratio": check.ratio, "low": check.low, "high": check.high, "load_pct": check.load_pct}
    metrics = {name: float(value) for name, value in told.items() if value is not None}
    metrics["regressed"] = float(check.regressed)
    tags = {"finding": check.finding.value, "level": check.level or "unchanged", "device": check.environment.device}
    return Step(check.number, check.at_s, metrics, tags)


def _research(
    exported: Exported, history: History, folder: Path, settings: Mapping[str, str], folders: Sequence[Path]
) -> None:
    """A search of the same target with the champion right after the baseline; once for each environment."""
    environment = history.checks[-1].environment
    here = digest(
        [environment.device, environment.driver, dict(environment.compilers), environment.host.get("packages")]
    )
    if here in history.researched:
        return
    told = exported.document["settings"]
    if "target" not in told["choices"]:
        raise ConfigError(
            "The export does not say from which configuration it was searched: --research can't repeat it."
        )
    tree = {**nested(told["words"]), "known_good": [dict(exported.point)]}
    head = [f"The champion of {exported.study}, searched anew because the environment changed."]
    file = experiment_file(head, told["choices"], told["spaces"], tree)
    write_whole(folder / "conf" / "experiment" / "champion.yaml", file)
    words = [w for w in told["words"] if w.startswith(("budget.", "executor.", "tracking"))]
    words = [w for w in words if not w.startswith("tracking") or not settings.keys() & {"tracking", "tracking.uri"}]
    words += ["experiment=champion", *(f"{name}={value}" for name, value in settings.items())]
    print(
        f"searching anew: python -m optimizer search --config-dir {folder / 'conf'} {' '.join(words)}", file=sys.stderr
    )
    history.add_research(here)
    from optimizer.cli.search import command as search

    search(
        words,
        [*folders, folder / "conf"],
        dry_run=False,
        resume=False,
        as_json=False,
        print_config=False,
        each_device=False,
    )
