"""How does a target run a program by way of the launcher, and what came of it?"""

import json
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.kills import killed
from optimizer.process import MAX_LOG, Conversation, conversation
from optimizer.targets.command import launcher
from optimizer.trial import Reason, TrialError

MAX_OUTPUT = 8 << 20  # bytes that a run may print, both streams together
FIND_S = 2.0  # that a regular expression may take on what was printed
MAX_FOUND = 10_000  # matches of it
GRACE_S = 10.0  # that the launcher has to tell of a program which ran out of time


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that ended with status 0. `stdout` and `stderr` are the files with what it printed."""

    wall_s: float
    cpu_s: float
    peak_memory_bytes: float
    stdout: Path
    stderr: Path


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs that run one after another, in one process group with one set of limits.

    paths: where programs lie, by the word that names them; what it lacks is a path, or is looked for on the PATH.
    """

    talk: Conversation
    paths: Mapping[str, str]
    logs: Path  # the folder for what they print
    timeout_s: float

    def run(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], failing: Reason) -> Ran:
        """Raises TrialError with the end of what it printed: `failing` for a status that is not 0."""
        stdout, stderr = self.logs / "stdout", self.logs / "stderr"
        asked = {
            "command": [self.paths.get(command[0], command[0]), *command[1:]],
            "folder": str(folder),
            "environment": dict(environment),
            "timeout_s": self.timeout_s,
            "most_bytes": MAX_OUTPUT,
            "stdout": str(stdout),
            "stderr": str(stderr),
        }
        answer = self.talk.ask(json.dumps({"run": asked}))
        if answer.get("status") != 0:
            log = f"\n$ {shlex.join(command)}\n{ending(stdout, stderr)}" if "absent" not in answer else ""
            raise self._failure(answer, command[0], failing, log)
        return Ran(float(answer["wall_s"]), float(answer["cpu_s"]), float(answer["peak_memory_bytes"]), stdout, stderr)

    def _failure(self, answer: Mapping[str, Any], name: str, failing: Reason, log: str) -> TrialError:
        if "absent" in answer:
            return TrialError(failing, f"{name} can't be run: {answer['absent']}")
        if "late" in answer:
            return TrialError(Reason.TIMEOUT, f"{name} took more than {self.timeout_s:g} s (measure.timeout_s){log}")
        if "overflow" in answer:
            return TrialError(Reason.CRASH, f"{name} printed more than {MAX_OUTPUT >> 20} MiB{log}")
        status = int(answer["status"])
        if status == -signal.SIGKILL:
            why = f"{name} was killed by the system, most likely for its memory{log}"
            return TrialError(Reason.MEMORY, why, again=True)
        if status < 0:
            return TrialError(failing, f"{name} was ended by {signal.Signals(-status).name}{log}")
        again = failing is Reason.COMPILE and killed(status, log)  # a compiler that it had started
        return TrialError(failing, f"{name} ended with status {status}{log}", again=again)

    def found(self, pattern: str, file: Path) -> Sequence[Mapping[str, str]]:
        """All matches of a regular expression: {"value": …, "unit": …} each. Raises TrialError where it takes too
        long, as one that backtracks may."""
        asked = {"pattern": pattern, "file": str(file), "seconds": FIND_S, "most": MAX_FOUND}
        answer = self.talk.ask(json.dumps({"find": asked}))
        if "slow" in answer:
            raise TrialError(
                Reason.TIMEOUT,
                f"the regular expression {pattern!r} took more than {FIND_S:g} s on {file.stat().st_size} bytes: it "
                "backtracks. Nest no repetition in another, as in (a+)+.",
            )
        found: Sequence[Mapping[str, str]] = answer["found"]
        return found


@contextmanager
def programs(
    paths: Mapping[str, str],
    environment: Mapping[str, str],
    logs: Path,
    timeout_s: float,
    memory_bytes: int | None,
) -> Iterator[Programs]:
    """Starts the launcher; `logs` is a folder of its own. What it started is killed at the end."""
    command = (sys.executable, "-I", "-S", str(Path(launcher.__file__).resolve()))
    with conversation(command, environment, logs, timeout_s + GRACE_S, memory_bytes) as talk:
        yield Programs(talk, paths, logs, timeout_s)


def ending(*files: Path) -> str:
    """The last of what was printed, for a log."""
    parts = []
    for path in files:
        text = path.read_bytes() if path.exists() else b""
        most = MAX_LOG // len(files)
        parts.append(("…" if len(text) > most else "") + text[-most:].decode(errors="replace").strip())
    return "\n".join(p for p in parts if p)
