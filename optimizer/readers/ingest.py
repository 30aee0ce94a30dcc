"""How do benchmark files that exist become studies like any other? Provenance in, nothing invented, nothing twice.

A file is a study. Its id is the hash of the file's content, so the same content is the same study wherever the file
lies, in the journal and in MLflow.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from optimizer.errors import MALFORMED, ConfigError
from optimizer.files import write_whole
from optimizer.journal import FORMAT, JOURNAL, Study, journal_bytes
from optimizer.objective import Goal
from optimizer.protocols import Ending
from optimizer.readers.benchmark import Benchmark
from optimizer.readers.formats import DamagedFileError, UnknownFileError, read_file
from optimizer.readers.recording import space_of
from optimizer.recipe import Confirm, Environment, Part, Plan, Recipe
from optimizer.space import Json, Point
from optimizer.trial import Candidate, Measured, Trial

RECORDED = "recorded"
"""The strategy of a study that was not searched here."""

STAMP = re.compile(r"(20\d{6})[-_T]?(\d{6})")
State = Literal["new", "known", "unknown", "damaged"]


ANOTHER_FOLDER = "Name another folder with studies_dir=FOLDER."


@dataclass(frozen=True)
class Taken:
    """What became of a file. `study` is None and `why` tells the reason where it did not become one."""

    path: Path
    state: State
    what: str = ""  # the kind of file
    study: Study | None = None
    why: str = ""


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, and those in the folders that are named. Raises ConfigError where there is none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        elif path.exists():
            found.append(path)
        else:
            raise ConfigError(f"There is no file or folder {path}.")
    return list(dict.fromkeys(found))


def taken(path: Path, device: str = "") -> Taken:
    """A file as a study; it is not written anywhere. `device`: its name, where the file has none."""
    try:
        raw = path.read_bytes()
        if _is_journal(raw):
            return Taken(
                path, "unknown", why="it is a journal of this program: report, compare and track take it as it is"
            )
        form, benchmark = read_file(path, raw)
        study = study_of(benchmark, path, raw, device)
        journal_bytes(study)  # what can't be written down is no result: NaN, half of a surrogate pair
    except UnknownFileError as error:
        return Taken(path, "unknown", why=str(error))
    except DamagedFileError as error:
        return Taken(path, "damaged", why=str(error))
    except OSError as error:
        return Taken(path, "damaged", why=error.strerror or str(error))
    except (ConfigError, *MALFORMED) as error:
        return Taken(path, "damaged", why=f"it makes no study: {error}")
    return Taken(path, "new", form.what, study)


def _is_journal(raw: bytes) -> bool:
    return raw[:200].find(f'"{FORMAT}"'.encode()) >= 0


def study_of(benchmark: Benchmark, path: Path, raw: bytes, device: str = "") -> Study:
    """The file's results as a finished study, named after the file."""
    when, says = _when(benchmark, path)
    source = {"file": path.name, "sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "date": when.isoformat()}
    trials = tuple(replace(t, started_at_s=when.timestamp()) for t in _uniform(benchmark.trials))
    options: dict[str, Json] = {
        "work": benchmark.work,
        "work_knobs": list(benchmark.work_knobs),
        "facts": {k: v for k, v in benchmark.facts.items() if v is not None},
        "source": {**source, "date_from": says},
    }
    first = next((t.point for t in trials if isinstance(t.outcome, Measured)), trials[0].point)
    recipe = Recipe(
        Part(benchmark.kind, options), space_of(trials), Part(RECORDED), Goal((benchmark.objective,)),
        Plan(), Confirm(), 0, 1, (first,), benchmark.device,
    )  # fmt: skip
    stated = benchmark.device
    named = device if device and stated in ("not stated", "cpu", "cuda") else stated
    environment = Environment(named, "", dict(benchmark.compilers), dict(benchmark.host), benchmark.commit)
    return Study(
        name_of(path), recipe, environment, trials, ending=Ending(None),
        id=str(source["sha256"])[:16], created_at_s=when.timestamp(),
    )  # fmt: skip


def _uniform(trials: Sequence[Trial]) -> Iterator[Trial]:
    """Every point has every knob ("" where the file has no value), so that they are points of one space."""
    names = list(dict.fromkeys(name for t in trials for name in t.point))
    for trial in trials:
        if len(trial.point) == len(names):
            yield trial
        else:
            point = Point({name: trial.point.get(name, "") for name in names})
            yield replace(trial, candidate=Candidate(trial.number, point))


def _when(benchmark: Benchmark, path: Path) -> tuple[datetime, str]:
    """When it was measured, and who says so: the file itself, its name, or the time of its last change."""
    try:
        found = datetime.fromisoformat(benchmark.measured_at.replace("Z", "+00:00"))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)), "stated in the file"
    except ValueError:
        pass
    if stamp := STAMP.search(path.name):
        try:
            return datetime.strptime("".join(stamp.groups()), "%Y%m%d%H%M%S").replace(tzinfo=UTC), "the file's name"
        except ValueError:
            pass
    return datetime.fromtimestamp(path.stat().st_mtime, UTC), "the file's last change"


def name_of(path: Path) -> str:
    """The study's name: the file's, with a dash for the dot, since the name is a folder and no path."""
    return re.sub(r"[^A-Za-z0-9_+-]+", "-", path.name).strip("-") or "file"


def known_ids(studies_dir: Path) -> dict[str, str]:
    """Id → name of every study there."""
    found: dict[str, str] = {}
    for path in studies_dir.glob(f"*/{JOURNAL}"):
        with path.open("rb") as file:
            line = file.readline()
        try:
            found[str(json.loads(line)["id"])] = path.parent.name
        except (ValueError, KeyError, TypeError):
            continue  # damaged or foreign: whoever reads it is told; here it only is no copy
    return found


def kept(files: Sequence[Path], studies_dir: Path, device: str = "") -> Iterator[Taken]:
    """Takes each file and writes its journal, whole or not at all. What is there already is not touched.

    A file whose name is taken by another content (it has changed, or lies in another folder) gets a name with its id.
    Raises ConfigError where the folder can't be written to.
    """
    ids = known_ids(studies_dir)
    names = {p.name for p in studies_dir.iterdir()} if studies_dir.is_dir() else set()
    for path in files:
        one = taken(path, device)
        if one.study is None:
            yield one
            continue
        study = one.study
        if study.id in ids:
            yield replace(one, state="known", study=replace(study, name=ids[study.id]))
            continue
        if study.name in names:
            study = replace(study, name=f"{study.name}-{study.id[:8]}")
        write_whole(studies_dir / study.name / JOURNAL, journal_bytes(study), ANOTHER_FOLDER)
        ids[study.id] = study.name
        names.add(study.name)
        yield replace(one, study=study)


def is_recorded(study: Study) -> bool:
    """Whether nobody searched: the trials were recorded elsewhere."""
    return study.recipe.strategy.name == RECORDED


def source_of(study: Study) -> Mapping[str, Json]:
    """Where an ingested study is from; empty for one that was searched."""
    source = study.recipe.target.options.get("source") if is_recorded(study) else None
    return source if isinstance(source, Mapping) else {}
