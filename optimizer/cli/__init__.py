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
        app(prog_name="optimizer", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: head has what it wants
        return 0
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        print(
            f"error: {error.strerror or error}{place}. What was recorded until now is kept; "
            "continue with: python -m optimizer search study=NAME --resume",
            file=sys.stderr,
        )
        return FAILED
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
