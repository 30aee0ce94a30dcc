"""What does an export's model.json say, read without importing torch?"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimizer.errors import ConfigError
from optimizer.space import Json

MODEL, EXAMPLES, ANSWERS, WEIGHTS = "model.json", "examples.safetensors", "answers.safetensors", "weights.safetensors"
SOURCE, SHAPES = "source", "shapes:"
"""A task's option SOURCE/NAME names a file in the export; SHAPES before it: of a model of those shapes."""
FORMAT = 1


def described(place: Path) -> Mapping[str, Any]:
    """Raises ConfigError where the folder holds no exported model that this version reads."""
    try:
        told = json.loads((place / MODEL).read_text(encoding="utf-8"))
        form = told["format"]
    except OSError as error:
        raise ConfigError(f"{place} holds no exported model: {MODEL} can't be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{place / MODEL} is damaged or foreign: export the model again.") from None
    if form != FORMAT:
        raise ConfigError(
            f"{place / MODEL} has the format {form}; this program reads {FORMAT}: export the model again."
        )
    found: Mapping[str, Any] = told
    return found


def resolved(options: Mapping[str, Json], place: Path) -> Mapping[str, Json]:
    """A task's options with the paths that they have where the export lies."""
    return {name: _resolved(value, place.resolve()) for name, value in options.items()}


def _resolved(value: Json, place: Path) -> Json:
    if not isinstance(value, str):
        return value
    prefix = SHAPES if value.startswith(SHAPES) else ""
    name = value.removeprefix(prefix)
    return f"{prefix}{place / name}" if name.startswith(f"{SOURCE}/") or name == SOURCE else value
