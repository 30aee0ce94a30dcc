"""A program of one's own as a user has it: a folder with a target's file, a space's file and the sources."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from optimizer.config import Setup, load

HEAD = """# @package _global_
# A program of one's own.
defaults:
  - command
  - override /space: [mine]
  - override /objective: latency
"""
KNOBS: Mapping[str, Any] = {
    "size": {"domain": "choice(1, 2, 3)", "option": "size", "default": 1},
    "mode": {"domain": "choice(a, b)", "setting": "mode", "default": "a"},
    "turn": {"domain": "choice(1, 2)", "env": "TURN", "default": 1},
}
RUN = ["sh", "-c", 'echo "$0 $1 $TURN"', "{mode}", "{options}"]


def write(folder: Path, target: Mapping[str, Any], knobs: Mapping[str, Any] = KNOBS) -> None:
    """The two files; the target's own keys are added to those that it can't do without."""
    for group, text in (
        ("target", HEAD + OmegaConf.to_yaml({"target": {"name": "mine", **target}})),
        ("space", "# Knobs of one's own.\n" + OmegaConf.to_yaml(dict(knobs))),
    ):
        (folder / group).mkdir(parents=True, exist_ok=True)
        (folder / group / "mine.yaml").write_text(text, encoding="utf-8")


def setup(folder: Path, target: Mapping[str, Any], *words: str, knobs: Mapping[str, Any] = KNOBS) -> Setup:
    write(folder, target, knobs)
    own = ["target=mine", f"studies_dir={folder / 'studies'}", "study=s", "tracking=none", *words]
    return load(own, [folder], date(2026, 11, 28))
