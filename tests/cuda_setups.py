"""A search of a CUDA target on the GPU of this machine, as the command line sets it up."""

from datetime import date
from pathlib import Path

from optimizer.config import load
from optimizer.config.objects import Setup


def setup_of(name: str, studies: Path, *words: str) -> Setup:
    return load(
        [f"target={name}", "device=cuda", "tracking=none", f"studies_dir={studies}", f"study={name}", *words],
        (),
        date(2026, 1, 1),
    )
