"""Which studies do the words of a command name? Names, folders, journals, benchmark files, MLflow experiments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import ConfigError, nearest
from optimizer.journal import JOURNAL, Study, read
from optimizer.listeners.tracker import patience, read_status
from optimizer.readers.ingest import Taken, files_of, taken
from optimizer.readers.mlflow import experiment
from optimizer.readers.store import StoreError, experiment_address, sqlite_path
from optimizer.report.page.runs import Runs

MLFLOW = "mlflow:"


@dataclass(frozen=True)
class Found:
    """The studies that a word stands for, and the files of a folder that are none."""

    word: str
    studies: tuple[Study, ...]
    left: tuple[Taken, ...] = ()
    runs: tuple[Runs | None, ...] = ()  # where each study is in MLflow, as far as that is known


def journal_of(name: str, settings: Mapping[str, str]) -> Path | None:
    """The journal that a study's name, its folder or a path to the journal itself stands for."""
    studies = Path(settings.get("studies_dir", "studies"))
    for place in (Path(name), Path(name) / JOURNAL, studies / name / JOURNAL):
        if place.is_file() and (place != Path(name) or is_journal(place)):
            return place
    return None


def is_journal(path: Path) -> bool:
    return JOURNAL in path.name


def found_in(word: str, settings: Mapping[str, str]) -> Found:
    """Raises ConfigError where there is nothing, with the nearest name."""
    if (path := journal_of(word, settings)) is not None:
        return _journals(word, [path])
    place = Path(word)
    if place.is_dir():
        if journals := sorted(place.rglob(JOURNAL)):
            return _journals(word, journals)
        files = [taken(p) for p in files_of([place])]
        studies = tuple(t.study for t in files if t.study is not None)
        if not studies:
            raise ConfigError(f"There are neither studies nor benchmark files in {place}.")
        return Found(word, studies, tuple(t for t in files if t.study is None))
    if place.is_file():
        one = taken(place)
        if one.study is None:
            return Found(word, (read(place),)) if one.why.startswith("it is a journal") else _refused(one)
        return Found(word, (one.study,))
    if word.startswith(MLFLOW) or "tracking.uri" in settings:
        return _experiment(word, settings)
    studies_dir = Path(settings.get("studies_dir", "studies"))
    known = [p.parent.name for p in studies_dir.glob(f"*/{JOURNAL}")]
    raise ConfigError(f"There is no study {word} in {studies_dir}.{nearest(word, known)}")


def _journals(word: str, paths: Sequence[Path]) -> Found:
    return Found(word, tuple(read(p) for p in paths), runs=tuple(runs_of(p) for p in paths))


def runs_of(journal: Path) -> Runs | None:
    """Where the study's tracker left its runs. A store that no server shows is shown by `optimizer ui`."""
    status = read_status(journal)
    if status is None or status.run_id is None or status.experiment_id is None:
        return None
    return Runs(experiment_address(status.uri, status.experiment_id), status.run_id)


def _experiment(word: str, settings: Mapping[str, str]) -> Found:
    """An MLflow experiment, by name or id: mlflow:NAME, or what names nothing else where tracking.uri is given."""
    uri = settings.get("tracking.uri") or default_uri(Path(settings.get("studies_dir", "studies")).resolve())
    if (database := sqlite_path(uri)) is not None and not database.is_file():
        raise ConfigError(f"There is no study {word}, and no MLflow store at {database} that could have it.")
    patience()
    try:
        found = experiment(uri, word.removeprefix(MLFLOW), settings.get("metric"), settings.get("direction"))
    except StoreError as error:
        raise ConfigError(f"MLflow at {uri} can't be read: {error}.") from None
    runs = tuple(Runs(experiment_address(uri, k.experiment_id), k.parent, k.runs) for k in found)
    return Found(word.removeprefix(MLFLOW), tuple(k.study for k in found), runs=runs)


def default_uri(studies_dir: Path) -> str:
    return f"sqlite:///{studies_dir / 'mlflow.db'}"


def _refused(one: Taken) -> Found:
    raise ConfigError(f"{one.path} can't be read as benchmark data: {one.why}.")


def split_words(words: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[str]]:
    """What names a study, and what is a setting (KEY=VALUE)."""

    def setting(word: str) -> bool:
        key = word.partition("=")[0]
        return key in known or ("=" in word and "/" not in key and not Path(word).exists())

    return [w for w in words if not setting(w)], [w for w in words if setting(w)]
