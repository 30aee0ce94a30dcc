"""How does a .cu become a cubin? By NVRTC in a process that stays, or by nvcc, a process each time: one seam for both.

Words are spelt as both compilers take them (--maxrregcount=64, --ptxas-options=-O2); what only one of them knows a
space offers under a condition.
"""

import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from optimizer.errors import ConfigError
from optimizer.kills import tells_of_a_kill
from optimizer.process import run_tool
from optimizer.targets.cuda.sass import wheel_program
from optimizer.targets.cuda.workers import Workers
from optimizer.trial import Reason, TrialError

PIP = "pip install 'inference-optimizer[cuda]'"
REMEDY = f"{PIP} brings it"
ADVICE = {"nvrtc": f"NVRTC ({PIP})", "nvcc": f"nvcc ({PIP}, or a CUDA toolkit) and gcc"}
"""How each compiler is got, to end "install …"."""
VERBOSE = "--ptxas-options=--verbose"  # registers, spills and shared memory, in the log
NVRTC_COMMAND = (sys.executable, "-P", "-m", "optimizer.targets.cuda.nvrtc")
START_S = 120.0  # for a compiler to say its version, on a busy machine
MEMORY_BYTES = 16 << 30  # address space of a compiler

FRONTEND = ("CUDA C++ Frontend", "NVVM Optimizer", "gcc", "cicc")  # from CUDA C++ to PTX
PTXAS = ("PTX Translation", "ptxas")  # from PTX to machine code
PHASE = re.compile(
    r"^[^,\n]*,\s*(?P<phase>[^,\n]+?)\s*,(?:[^\n]*,)?\s*(?P<ms>\d+(?:\.\d+)?)\s*,\s*ms\s*$", re.MULTILINE
)
"""A row of the table that --time makes: NVRTC has file, phase, time, unit; nvcc has more columns between."""


@dataclass(frozen=True)
class Built:
    """command: for people, and to repeat the build by hand; facts: compile_time_s, compile_cpu_time_s,
    compile_frontend_s, compile_ptxas_s."""

    cubin: bytes = field(repr=False)
    command: tuple[str, ...]
    log: str
    facts: dict[str, float]


class Toolchain(Protocol):
    @property
    def name(self) -> str:
        """As the knob `compiler` names it: nvrtc, nvcc."""
        ...

    @property
    def version(self) -> str: ...

    @property
    def archs(self) -> tuple[str, ...]:
        """What it compiles for: sm_75, …, from the oldest."""
        ...

    def compile(
        self, source: Path, include: Path, words: Sequence[str], arch: str, folder: Path, timeout_s: float
    ) -> Built:
        """Compiles a source, whose headers lie beside it or in `include`; `folder` is for temporary files.

        Raises TrialError: COMPILE where it is refused or the compiler crashes, TIMEOUT, MEMORY.
        """
        ...


@dataclass(frozen=True)
class Nvcc:
    """nvcc as a process for each build. It needs a host compiler, if only for its preprocessor."""

    path: str
    version: str
    archs: tuple[str, ...]
    name: str = "nvcc"

    @classmethod
    def found(cls, path: str | None = None) -> "Nvcc":
        """nvcc of the PATH, else of the wheel nvidia-cuda-nvcc. Raises ConfigError where there is none that works."""
        path = path or shutil.which("nvcc") or wheel_program("nvcc")
        if path is None:
            raise ConfigError(f"There is no nvcc, neither on the PATH nor as a package: {REMEDY}.")
        if shutil.which("gcc") is None:
            raise ConfigError("nvcc needs gcc, which is not on the PATH: install it, or choose the compiler nvrtc.")
        told = run_tool((path, "--version"), START_S, Path(tempfile.gettempdir()))
        listed = run_tool((path, "--list-gpu-code"), START_S, Path(tempfile.gettempdir()))
        version, archs = re.search(r"V(\d[\d.]*)", told.output), re.findall(r"^sm_\d+$", listed.output, re.MULTILINE)
        if told.status != 0 or version is None or not archs:
            raise ConfigError(f"{path} does not work as nvcc ({REMEDY}):\n{told.output}{listed.output}")
        return cls(path, version[1], tuple(sorted(archs, key=lambda arch: int(arch[3:]))))

    def compile(
        self, source: Path, include: Path, words: Sequence[str], arch: str, folder: Path, timeout_s: float
    ) -> Built:
        cubin, times = folder / "nvcc.cubin", folder / "nvcc.csv"
        options = _options(source, include, words, arch)
        shown = (self.path, "--cubin", *options, str(source))
        command = (*shown, f"--time={times}", f"--output-file={cubin}")
        times.unlink(missing_ok=True)  # nvcc adds to it
        done = run_tool(command, timeout_s, folder)
        if done.status is None:
            raise TrialError(Reason.TIMEOUT, _told(shown, f"nvcc took more than {timeout_s:g} s\n{done.output}"))
        if done.status != 0 or not cubin.exists():
            raise TrialError(Reason.COMPILE, _told(shown, done.output), again=done.killed)
        facts = {"compile_time_s": done.wall_s, "compile_cpu_time_s": done.cpu_s}
        return Built(cubin.read_bytes(), shown, done.output, facts | phases(times.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Nvrtc:
    """NVRTC in processes that stay: a crash or a hang costs one trial, and threads build in parallel."""

    command: tuple[str, ...] = NVRTC_COMMAND
    memory_bytes: int = MEMORY_BYTES
    name: str = "nvrtc"

    @classmethod
    def found(cls, command: tuple[str, ...] = NVRTC_COMMAND) -> "Nvrtc":
        """Raises ConfigError where the package or the library is missing."""
        found = cls(command)
        if not _installed("cuda.bindings"):
            raise ConfigError(f"NVRTC is used through cuda-core, which is not installed: {REMEDY}.")
        try:
            found._ready  # noqa: B018  # starts the first process: it stays
        except TrialError as error:
            raise ConfigError(f"NVRTC does not start ({REMEDY}): {error.log}") from None
        return found

    @property
    def version(self) -> str:
        return self._ready[0]

    @property
    def archs(self) -> tuple[str, ...]:
        return self._ready[1]

    def compile(
        self, source: Path, include: Path, words: Sequence[str], arch: str, folder: Path, timeout_s: float
    ) -> Built:
        output = folder / "nvrtc.cubin"
        options = _options(source, include, words, arch)
        shown = ("nvrtc", *options, str(source))
        asked = {
            "source": str(source),
            "options": [*options, "--time=-", "--no-cache"],
            "output": str(output),
            "timeout_s": 2 * timeout_s,  # for the case that nobody waits any more
        }
        try:
            with self._workers.one(timeout_s) as worker:
                told = worker.talk.ask(json.dumps(asked))
        except TrialError as error:
            reason = Reason.COMPILE if error.reason is Reason.CRASH else error.reason
            raise error.told(_told(shown, f"NVRTC: {error.log}"), reason) from None
        log = str(told.get("log", ""))
        if told.get("built") is not True:
            raise TrialError(Reason.COMPILE, _told(shown, log), again=tells_of_a_kill(log))
        facts = {"compile_time_s": float(told["wall_s"]), "compile_cpu_time_s": float(told["cpu_s"])}
        return Built(output.read_bytes(), shown, log, facts | phases(log))

    def close(self) -> None:
        """Ends the processes that wait for work."""
        self._workers.close()

    @cached_property
    def _workers(self) -> Workers:
        root = str(Path(__file__).parents[3])  # where this package lies, for a Python that is started elsewhere
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        return Workers(self.command, {"PYTHONPATH": path}, self.memory_bytes)

    @cached_property
    def _ready(self) -> tuple[str, tuple[str, ...]]:
        with self._workers.one(START_S) as worker:
            ready = worker.ready
        return str(ready["version"]), tuple(str(arch) for arch in ready["archs"])


def found_toolchains() -> Mapping[str, Toolchain]:
    """The CUDA compilers of this machine by name, NVRTC first."""
    here: dict[str, Toolchain] = {}
    for found in (Nvrtc.found, Nvcc.found):
        with suppress(ConfigError):
            toolchain = found()
            here[toolchain.name] = toolchain
    return here


def phase_rows(table: str) -> list[tuple[str, float]]:
    """Each phase and its seconds, of a table that --time made."""
    return [(m["phase"], float(m["ms"]) / 1e3) for m in PHASE.finditer(table)]


def phases(table: str) -> dict[str, float]:
    """compile_frontend_s and compile_ptxas_s of a table that --time made."""
    rows = phase_rows(table)
    return {
        name: sum(seconds for phase, seconds in rows if phase.startswith(known))
        for name, known in (("compile_frontend_s", FRONTEND), ("compile_ptxas_s", PTXAS))
        if any(phase.startswith(known) for phase, _ in rows)
    }


def _options(source: Path, include: Path, words: Sequence[str], arch: str) -> tuple[str, ...]:
    return (f"--gpu-architecture={arch}", VERBOSE, *words, f"-I{source.parent}", f"-I{include}")


def _told(command: Sequence[str], log: str) -> str:
    return f"$ {' '.join(command)}\n{log}"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is part of
        return False
