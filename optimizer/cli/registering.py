"""How does an export become the champion of MLflow's model registry? Loaded once more from its folder, then logged."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from optimizer.cli.studies import sent, store_reached
from optimizer.config.reopened import reopened
from optimizer.errors import ConfigError
from optimizer.export.exported import Exported, exported_in
from optimizer.export.model import MODEL
from optimizer.export.registry import Registered, register
from optimizer.journal import Study
from optimizer.space import digest
from optimizer.targets.torch.told import described
from optimizer.trial import TrialError

NAME = "tracking.model"
"""The setting that names the registered model; unset, it is the target's name."""


def must_be_fit(study: Study, kinds: Sequence[str], settings: Mapping[str, str]) -> None:
    """Raises ConfigError for what must not become a champion, before anything is written."""
    if MODEL not in kinds:
        raise ConfigError("--register registers a torch model: export it with --to model, or without --to.")
    if study.winner is None or study.winner.number == 0:
        raise ConfigError(f"--register: {study.name} has no winner that was proved better, so it has no champion.")
    if not re.fullmatch(r"[\w -]+", name := _name(study, settings)):
        raise ConfigError(f"{NAME}={name} can't name a model in MLflow: write letters, digits, - and _.")


def registered(folder: Path, journal: Path, study: Study, settings: Mapping[str, str]) -> Registered:
    """Raises ConfigError where the export does not answer as it did."""
    exported = exported_in(folder)
    if exported.promise.verdict is None:
        raise ConfigError(f"{folder} was never proved better than the baseline, so it is no champion.")
    _answers(exported)
    status = sent(journal, study, settings)
    name = _name(study, settings)
    with store_reached(status.uri):
        return register(folder, described(folder), digest(exported.document), name, status.uri, str(status.run_id))


def _name(study: Study, settings: Mapping[str, str]) -> str:
    return settings.get(NAME) or study.recipe.target.name


def _answers(exported: Exported) -> None:
    with tempfile.TemporaryDirectory(prefix="optimizer-register-") as scratch:
        found = reopened(exported, Path(scratch))
        try:
            with found.made.target.open(found.made.target.build(found.point)) as runner:
                runner.verify()
        except TrialError as error:
            raise ConfigError(f"{exported.folder} does not load or answers wrongly: {error.log}") from None
