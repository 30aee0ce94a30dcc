"""What does the folder of an export hold, and is it still what was exported?"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import MALFORMED, ConfigError, lacking
from optimizer.export.provenance import FROM_POINT, PROVENANCE, VERSION
from optimizer.files import names_folder, stays_within
from optimizer.journal import verdict_from
from optimizer.recipe import Environment, Recipe, environment_from, recipe_from
from optimizer.space import Json, Point
from optimizer.stats import Verdict


@dataclass(frozen=True)
class Promise:
    """What an export is held to. `verdict` None: it was never proved better than the baseline. `seen`: the ratio that
    the search's own readings told; None where it is not known."""

    verdict: Verdict | None
    tolerance_pct: float
    quality: Mapping[str, float]
    seen: float | None = None

    @property
    def floor(self) -> float | None:
        """The ratio that a new measurement must not lie wholly below: the low end of the proved interval, or what was
        seen before it where that is less, less the tolerance. Rounds know how a machine was in their minutes; the
        readings of the search are of other ones."""
        if self.verdict is None:
            return None
        return min(self.verdict.low, self.seen or self.verdict.low) * (1 - self.tolerance_pct / 100)


@dataclass(frozen=True)
class Exported:
    """An export as it was read. `target`: the target's node of the configuration."""

    folder: Path
    study: str
    recipe: Recipe
    environment: Environment
    target: Mapping[str, Json]
    point: Point
    baseline: Point
    promise: Promise
    reopens: str  # a line of optimizer/config/reopened.py
    code_key: str
    files: Mapping[str, str]  # path → sha256
    document: Json

    def path(self, name: str) -> Path | None:
        """Where an exported file lies; None where the export has none of that name."""
        return self.folder / name if name in self.files else None

    def edited(self) -> list[str]:
        """What is no longer as it was exported: 'flags.rsp was edited', 'config.h is missing'."""
        found = []
        for name, sha256 in self.files.items():
            try:
                same = hashlib.sha256((self.folder / name).read_bytes()).hexdigest() == sha256
            except OSError as error:
                found.append(f"{name} is missing" if isinstance(error, FileNotFoundError) else f"{name}: {error}")
                continue
            if not same:
                found.append(f"{name} was edited: its sha256 is not that of {PROVENANCE}")
        return found


def exported_in(folder: Path) -> Exported:
    """Raises ConfigError where there is no export that this version can read."""
    path = folder if folder.name == PROVENANCE else folder / PROVENANCE
    if not path.parent.is_dir():
        raise ConfigError(f"There is no folder {path.parent}. `optimizer export STUDY` writes exports/STUDY.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path.parent} is no export: it has no {PROVENANCE}.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read: {error}. Export the study again.") from None
    try:
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']}; this program reads {VERSION}")
        return _read(path.parent, document)
    except (*MALFORMED, ConfigError) as error:
        raise ConfigError(
            f"{path} can't be read ({lacking(error)}). Export the study again with this version."
        ) from None


def _read(folder: Path, document: Json) -> Exported:
    told, files = document["promise"], {str(n): str(h) for n, h in document["files"].items()}
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts or not stays_within(folder, folder / name):
            raise ValueError(f"the file {name} lies outside the export")
    if not names_folder(document["study"]):
        raise ValueError(f"{document['study']!r} can't be the name of a study")
    seen = None if told.get("seen") is None else float(told["seen"])
    quality = {str(n): float(v) for n, v in told["quality"].items()}
    return Exported(
        folder=folder,
        study=str(document["study"]),
        recipe=recipe_from(document["recipe"]),
        environment=environment_from(document["environment"]),
        target=document["target"],
        point=Point(document["point"]),
        baseline=Point(document["baseline_point"]),
        promise=Promise(verdict_from(told["ratio"]), float(told["tolerance_pct"]), quality, seen),
        reopens=str(document.get("reopens", FROM_POINT)),
        code_key=str(document["code_key"]),
        files=files,
        document=document,
    )
