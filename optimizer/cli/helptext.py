"""The help of every command as one file, which __main__ reads: importing typer takes longer than reading it.

python -m optimizer.cli.helptext  writes it anew; a test compares it with what typer says.
"""

from pathlib import Path

from optimizer.resources import HELP, HELP_MARK

WIDTH = 100


def rendered() -> str:
    """A section for the program and one for each command, as typer writes them."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from optimizer.cli.app import app

    runner = CliRunner()
    sections = []
    for words in ([], *([name] for name in sorted(get_command(app).commands))):  # type: ignore[attr-defined]
        found = runner.invoke(app, [*words, "--help"], prog_name="python -m optimizer", terminal_width=WIDTH)
        sections.append(f"{HELP_MARK}{' '.join(['optimizer', *words])}\n{found.output.strip()}\n")
    return "".join(sections)


def write(path: Path = HELP) -> None:
    path.write_text(rendered(), encoding="utf-8")


if __name__ == "__main__":
    write()
