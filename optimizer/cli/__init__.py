"""The command line. Exit codes: 0 done, 1 failed on the way, 2 a wrong request, 130 interrupted."""

import os
import signal
import sys
from types import FrameType

from optimizer.errors import ConfigError

FAILED, WRONG, INTERRUPTED = 1, 2, 130


def run() -> int:
    """Runs the command that sys.argv names and returns its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)  # a cluster's SIGTERM is a Ctrl-C: end in order
    from optimizer.cli.app import app

    try:
        try:
            app(prog_name="optimizer", standalone_mode=True)
        finally:
            sys.stdout.flush()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer has caught it
            return _nobody_reads()
        return end.code if isinstance(end.code, int) else FAILED
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    except BrokenPipeError:
        return _nobody_reads()
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        print(
            f"error: {error.strerror or error}{place}. What was recorded until now is kept; "
            "continue with: python -m optimizer search study=NAME --resume",
            file=sys.stderr,
        )
        return FAILED
    return 0


def _nobody_reads() -> int:
    """`report NAME | head -1` has what it wants: no failure."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - what is still buffered goes nowhere
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
