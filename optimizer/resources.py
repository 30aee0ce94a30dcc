"""Where do conf/ and kernels/ lie? Inside the package in a wheel; beside it in a checkout and an editable install."""

from pathlib import Path

from optimizer.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent
HELP = PACKAGE / "help.txt"  # the help of every command, written by cli/helptext.py
HELP_MARK = "#### "  # a line of it that opens a command's help: "#### optimizer search"


def conf_dir() -> Path:
    return _found("conf", "config.yaml")


def kernels_dir() -> Path:
    return _found("kernels", "harness.h")


def _found(name: str, witness: str) -> Path:
    for place in (PACKAGE / name, PACKAGE.parent / name):
        if (place / witness).is_file():
            return place
    raise ConfigError(
        f"The folder {name}/ is missing beside {PACKAGE}: the installation is damaged. Install the package anew."
    )
