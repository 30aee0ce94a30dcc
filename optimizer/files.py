"""How is a file written so that nobody ever sees half of it? Aside, then renamed."""

import os
from pathlib import Path

from optimizer.errors import ConfigError


def write_whole(path: Path, content: bytes, remedy: str = "") -> None:
    """Raises ConfigError, which ends in the remedy, where it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}. {remedy}".rstrip()) from None
