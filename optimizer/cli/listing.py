"""What is there to search? Targets and spaces, a line each."""

import json
from collections.abc import Sequence
from pathlib import Path

from optimizer.config import files
from optimizer.config.spaces import CONSTRAINTS


def targets_command(folders: Sequence[Path], *, as_json: bool) -> None:
    made = files(folders)
    texts = {
        name: str(made.text(f"target/{name}").get("target", {}).get("text", "")) for name in made.options("target")
    }
    _print(texts, as_json=as_json)


def spaces_command(folders: Sequence[Path], *, as_json: bool) -> None:
    made = files(folders)
    texts = {}
    for name in made.options("space"):
        tree = made.text(f"space/{name}")
        knobs = [k for k in tree if k not in (CONSTRAINTS, "defaults")]
        if knobs:
            texts[name] = f"{len(knobs):>3} knobs: {_first_comment(made.path(f'space/{name}'))}"
    _print(texts, as_json=as_json)


def _first_comment(path: Path | None) -> str:
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    return next((line.lstrip("# ") for line in lines if line.startswith("# ") and "@package" not in line), "")


def _print(texts: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(texts))
        return
    width = max(map(len, texts), default=0)
    for name, text in texts.items():
        print(f"{name:<{width}}  {text}")
