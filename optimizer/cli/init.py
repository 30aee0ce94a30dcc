"""The init command: what is asked of the user, and what is written for them."""

import os
import sys
from pathlib import Path

from optimizer.cli.starter import KINDS, Wish, files
from optimizer.errors import ConfigError
from optimizer.files import write_whole


def command(
    folder: Path,
    *,
    kind: str | None,
    name: str,
    build: str | None,
    run: str | None,
    metric: str | None,
    measure: str,
    unit: str,
    force: bool,
) -> None:
    if kind is None:
        if not sys.stdin.isatty():
            raise ConfigError(f"Say what it is: --kind {', --kind '.join(KINDS)}. On a terminal, init asks.")
        kind, build, run, metric = _asked(build, run, metric)
    sources = Path(os.path.relpath(Path.cwd(), folder)).as_posix()
    wish = Wish(kind, name, str(folder), sources, build or "", run or "", metric or "latency_s", measure, unit)
    made = files(wish)
    if not force and (there := [path for path in made if (folder / path).exists()]):
        raise ConfigError(f"{folder / there[0]} is there already: choose another --name, or overwrite it with --force.")
    for path, text in made.items():
        write_whole(folder / path, text.encode(), "Name a folder that you may write to.")
    for path in made:
        print(folder / path)
    print(f"next: python -m optimizer search --config-dir {folder} target={name} --dry-run")


def _asked(build: str | None, run: str | None, metric: str | None) -> tuple[str, str, str, str]:
    """The answers to the three questions, where a flag has not given them."""
    from typer import prompt

    kinds = "\n".join(f"  {name:<8} {text}" for name, text in KINDS.items())
    kind = str(prompt(f"What is it?\n{kinds}\nkind", default="command"))
    questions = {
        "command": "What builds it, as you type it in its folder (empty: a sample)",
        "kernel": "Its source file (empty: a sample)",
        "torch": "The function that returns it, FILE.py:FUNCTION (empty: a sample)",
    }
    if build is None:
        build = str(prompt(questions.get(kind, questions["command"]), default="", show_default=False))
    if run is None:
        run = str(prompt("What runs it", default="", show_default=False)) if kind == "command" and build else ""
    return kind, build, run, metric or str(prompt("What is to be best", default="latency_s"))
