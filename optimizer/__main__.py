"""argv in, exit code out. `--help` answers from a file: importing what the commands need would take longer."""

import io
import os
import sys

from optimizer.resources import HELP, HELP_MARK


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character is no reason to fail
    words = sys.argv[1:]
    asked = words[-1:] == ["--help"] or (not words and "_OPTIMIZER_COMPLETE" not in os.environ)
    text = _help(words[:-1]) if asked else None
    if text is not None:
        sys.stdout.write(text)
        raise SystemExit(0)
    from optimizer.cli import run

    raise SystemExit(run())


def _help(command: list[str]) -> str | None:
    """The help of a command ([]: of the program); None where the file has none: then the command tells by itself."""
    try:
        sections = HELP.read_text(encoding="utf-8").split(HELP_MARK)
    except OSError:
        return None
    texts = {name: text for name, _, text in (section.partition("\n") for section in sections)}
    return texts.get(" ".join(["optimizer", *command]))


if __name__ == "__main__":
    main()
