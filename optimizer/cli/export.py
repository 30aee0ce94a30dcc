"""The command export: a study's winner as files to ship."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

from optimizer.cli.registering import NAME, must_be_fit, registered
from optimizer.cli.studies import PLACES, journal_named, settings_of
from optimizer.config import composed, nested
from optimizer.errors import ConfigError
from optimizer.export.model import MODEL
from optimizer.export.program import PROGRAM
from optimizer.export.registry import PREVIOUS
from optimizer.export.shipment import Shipment
from optimizer.export.table import chosen, exported
from optimizer.files import stays_within, write_whole
from optimizer.journal import Study, read
from optimizer.report.verdict import verdict_line
from optimizer.space import Json
from optimizer.trial import Trial


def command(
    name: str,
    words: Sequence[str],
    to: Sequence[str],
    out: Path | None,
    *,
    force: bool,
    tolerance_pct: float,
    register: bool,
) -> None:
    settings = settings_of(words, (*PLACES, NAME))
    path = journal_named(name, settings)
    study = read(path)
    trial, target = _shipped(study, force=force), target_of(study)
    if drawn(target) and not force:
        raise ConfigError(
            f"The weights of {study.name} are drawn: its speed is true, but no quality was measured or kept. "
            "Search with real weights (target.options.weights=…), or export it all the same: --force."
        )
    folder = out or Path("exports") / study.name
    with _built(study, trial, target, to, folder) as built:
        shipment = Shipment(study, trial, target, nested(study.settings.words), built, tolerance_pct)
        kinds = chosen(to, shipment)
        if register:
            must_be_fit(study, kinds, settings)
        files = exported(kinds, shipment)
    if outside := [file for file in files if not stays_within(folder, (folder / file).parent)]:
        raise ConfigError(f"{folder / outside[0]} lies outside {folder} by a link: remove it, or name another --out.")
    for file, content in files.items():
        write_whole(folder / file, content)
        if file == PROGRAM:
            (folder / file).chmod(0o755)
    print(f"Trial {trial.number} of {study.name} is in {folder}:")
    for file in sorted(files):
        print(f"  {file}")
    if register:
        done = registered(folder, path, study, settings)
        before = f", version {done.previous} is {PREVIOUS}" if done.previous else ""
        print(f"{'It was' if done.known else 'It is'} version {done.version} of {done.name}: {done.uri}{before}.")


def _shipped(study: Study, *, force: bool) -> Trial:
    winner = study.winner
    if winner is not None and winner.number > 0:
        return winner
    if not force:
        raise ConfigError(
            f"{study.name} has no winner that was proved better. {verdict_line(study).replace('**', '')} "
            "Search longer (search study=NAME --resume budget.trials=…), or export the best as measured: --force."
        )
    if study.best is None:
        raise ConfigError(f"{study.name} has no trial that works and keeps the limits: there is nothing to export.")
    return study.best


def drawn(target: Mapping[str, Json]) -> bool:
    """Whether a language model's weights are random, so that nothing is known of its quality."""
    return target.get("task") == "language" and target.get("options", {}).get("weights") == "random"


def target_of(study: Study) -> Mapping[str, Json]:
    """The target's node of the configuration: as it was written down, else (older journals) composed again."""
    settings = study.settings
    if settings.target or "target" not in settings.choices:
        return settings.target
    node: Mapping[str, Json] = composed(settings.words, ()).tree["target"]
    return node


@contextlib.contextmanager
def _built(
    study: Study, trial: Trial, target: Mapping[str, Json], to: Sequence[str], out: Path
) -> Iterator[Mapping[str, bytes]]:
    """What the trial's build left; of a torch model the package that is made of it."""
    if target.get("kind") != "torch" or (to and MODEL not in to):
        yield Built(Path(trial.artifact.path) if trial.artifact and trial.artifact.path else None)
        return
    from optimizer.config.torch import packaged

    beside = out.absolute().parent
    try:
        beside.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{beside} can't be made: {error.strerror}. Name another folder with --out.") from None
    with packaged(target, study, trial, beside) as place:
        yield Built(place)


@final
class Built(Mapping[str, bytes]):
    """What a build left, by path: one program, or the files of a folder. A file is read when it is asked for."""

    def __init__(self, place: Path | None) -> None:
        self._files: dict[str, Path] = {}
        if place is not None and place.is_dir():
            self._files = {p.relative_to(place).as_posix(): p for p in sorted(place.rglob("*")) if p.is_file()}
        elif place is not None:
            self._files = {place.name: place}

    def __getitem__(self, path: str) -> bytes:
        """Raises ConfigError where it is gone."""
        try:
            return self._files[path].read_bytes()
        except OSError as error:
            raise ConfigError(
                f"What was built, {self._files[path]}, can't be read ({error.strerror}); "
                "search study=NAME --resume builds it again."
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
