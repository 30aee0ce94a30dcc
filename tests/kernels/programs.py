"""How the kernel tests build a program and talk to it, without the search around it."""

import json
import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

KERNELS = Path(__file__).parents[2] / "kernels"
COMPILERS = [name for name in ("g++", "clang++") if shutil.which(name)]


@cache
def support(source: str, compiler: str = "g++") -> Path:
    """A source file that no knob touches (the harness, a reference), compiled once with fixed flags."""
    out = Path(mkdtemp(prefix="support-")) / (Path(source).stem + ".o")
    subprocess.run(
        [compiler, "-O2", "-std=c++17", "-fopenmp", f"-I{KERNELS}", "-c", str(KERNELS / source), "-o", str(out)],
        check=True,
    )
    return out


def build(
    source: str | Path,
    folder: Path,
    macros: Mapping[str, object] | None = None,
    flags: Sequence[str] = ("-O3",),
    support_sources: Sequence[str] = ("harness.cpp",),
    compiler: str = "g++",
) -> Path:
    """Compile kernels/SOURCE (or an absolute path) with -D for each macro; returns the program's path."""
    words = [f"-D{name}={_word(value)}" for name, value in (macros or {}).items()]
    program = folder / f"program{abs(hash((str(source), tuple(words), tuple(flags), compiler)))}"
    objects = [str(support(s, compiler)) for s in support_sources]
    subprocess.run(
        [compiler, "-std=c++17", "-fopenmp", "-Wall", "-Wextra", "-Werror", *flags, *words, f"-I{KERNELS}",
         str(KERNELS / source), *objects, "-o", str(program)],
        check=True,
    )  # fmt: skip
    return program


def _word(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


class Program:
    """A running program; use as a context manager. `ask` sends one line and returns the JSON answer."""

    def __init__(self, path: Path, options: Mapping[str, object] | None = None) -> None:
        words = [f"--{name}={value}" for name, value in (options or {}).items()]
        self._process = subprocess.Popen([str(path), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Program":
        self.first = self.read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def read(self) -> dict[str, dict[str, object]]:
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline())
        assert isinstance(answer, dict)
        return answer

    def ask(self, line: str) -> dict[str, dict[str, object]]:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.read()

    def check(self) -> dict[str, dict[str, float]]:
        """The answer to `verify`: errors, tolerances, quality."""
        answer = self.ask("verify")
        assert "check" in answer, answer
        return answer["check"]  # type: ignore[return-value]

    def samples(self, count: int = 3) -> dict[str, list[float]]:
        answer = self.ask(f"run {count}")
        assert "samples" in answer, answer
        return answer["samples"]  # type: ignore[return-value]


def passes(check: Mapping[str, Mapping[str, float | None]]) -> bool:
    """Whether every error is a number within its tolerance (a null error is a wrong answer)."""
    errors, tolerances = check["errors"], check["tolerances"]
    return bool(errors) and all(
        error is not None and math.isfinite(error) and error <= (tolerances[name] or 0.0)
        for name, error in errors.items()
    )
