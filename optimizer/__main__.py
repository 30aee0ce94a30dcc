"""argv in, exit code out. `--help` answers from a file: importing what the commands need would take longer."""

import sys

from optimizer.resources import HELP, HELP_MARK


def main() -> None:
    words = sys.argv[1:]
    text = _help(words[:-1]) if words[-1:] == ["--help"] else _help([]) if not words else None
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
