"""The program as people start it: a process, its words, what it says and how it ends."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

PROGRAM = (sys.executable, "-m", "optimizer")
QUICK = ("target=synthetic", "measure=quick", "budget.trials=12")
CHECKOUT = Path(__file__).parents[1]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "120", **(extra or {})}


def command(
    *words: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    status: int | None = 0,
    program: Sequence[str] = PROGRAM,
) -> subprocess.CompletedProcess[str]:
    """Runs it to its end; `status` is the exit code that is expected, None for any."""
    done = subprocess.run(
        [*program, *words], cwd=cwd, env=environment(env), capture_output=True, text=True, timeout=180, check=False
    )
    assert status is None or done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def error(*words: str, cwd: Path, status: int = 2) -> str:
    """What it says on stderr where it refuses; never a traceback, and nothing on stdout."""
    done = command(*words, cwd=cwd, status=status)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return " ".join(done.stderr.split())


def search_json(*words: str, cwd: Path, status: int = 0) -> dict[str, Any]:
    found = json.loads(command("search", *words, "--json", cwd=cwd, status=status).stdout)
    assert isinstance(found, dict)
    return found


def started(*words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *words],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_interrupts,  # noqa: PLW1509 - there are no threads to deadlock with
    )


def _hear_interrupts() -> None:
    """What is started in the background of a script ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lines(journal: Path) -> list[dict[str, Any]]:
    """The journal's whole lines."""
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]


def script(path: Path) -> ModuleType:
    """A script of experiments/, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
