"""How is llama.cpp had as it is built with some CMake flags? As a wheel of llama-cpp-python, built once and kept.

A build takes minutes, so it is kept by all that decides how it turns out: its CMAKE_ARGS, the version, the compiler and
the processor's model. Builds wait for each other: one uses all cores and some GiB.
"""

import json
import re
import shlex
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from optimizer.files import made_once
from optimizer.process import run_tool
from optimizer.space import digest
from optimizer.targets.units import Compiler
from optimizer.trial import Reason, TrialError

PACKAGE = "llama-cpp-python"
LIBRARIES = "llama_cpp/lib/"  # of a wheel
BUILD_S = 3600.0
SHOWN_CHARS = 8000  # of the end of a failed build's log
C_COMPILERS = {"g++": "gcc", "clang++": "clang"}
AMBIENT = ("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "SKBUILD_CMAKE_ARGS", "SKBUILD_CMAKE_DEFINE")
"""Variables of the shell that would build another wheel under the same name."""
_STAMP = re.compile(r"^\S*\d\dT\d\d:\S* ?", re.MULTILINE)  # before each line of pip's log
_UNUSED = re.compile(r"variables were not used by the project:\s+((?:[A-Z0-9_]+\s+)+)")


@dataclass(frozen=True, slots=True)
class Wheel:
    """An installation: where its libraries lie, a hash of what it was built from, and how long that took."""

    libraries: Path
    key: str
    wall_s: float


@dataclass(frozen=True)
class Wheels:
    """requirement: what pip is asked for, with its version; processor: whose instructions -march=native means;
    folder: where wheels are kept."""

    requirement: str
    compiler: Compiler
    processor: str
    folder: Path

    def key(self, flags: Sequence[str]) -> str:
        return digest([self.requirement, self.compiler.name, self.compiler.version, self.processor, list(flags)])

    def built(self, flags: Sequence[str]) -> Wheel:
        """With these words of CMAKE_ARGS, now or before. Raises TrialError(COMPILE, REJECTED or TIMEOUT)."""
        key = self.key(flags)
        place = self.folder / key
        if not place.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "one-at-a-time.lock"):
                made_once(place, lambda part: self._build(flags, part))
        record = json.loads((place / "record.json").read_text(encoding="utf-8"))
        return Wheel(place / LIBRARIES, key, float(record["wall_s"]))

    def command(self, flags: Sequence[str], folder: Path) -> list[str]:
        """Builds a wheel into a folder; what it says in all detail goes into build.log there."""
        cxx = self.compiler.path
        cc = Path(cxx).with_name(C_COMPILERS.get(self.compiler.name, "cc"))
        pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "-v"]
        words = [*pip, "--no-binary", PACKAGE, "--log", str(folder / "build.log"), "--wheel-dir", str(folder)]
        unset = [word for name in AMBIENT for word in ("-u", name)]
        return ["env", *unset, f"CMAKE_ARGS={shlex.join(flags)}", f"CC={cc}", f"CXX={cxx}", *words, self.requirement]

    def _build(self, flags: Sequence[str], part: Path) -> None:
        """The wheel, its log, its libraries and a record, in a folder."""
        part.mkdir()
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="building-") as scratch:
            done = run_tool(self.command(flags, part), BUILD_S, Path(scratch))
        log = (part / "build.log").read_text(errors="replace") if (part / "build.log").is_file() else ""
        if (unused := _UNUSED.search(_STAMP.sub("", log))) is not None:
            names = ", ".join(unused[1].split())
            raise TrialError(Reason.REJECTED, f"llama.cpp's build has no setting {names}; CMake ignores it.")
        if done.status != 0:
            why = Reason.TIMEOUT if done.status is None else Reason.COMPILE
            said = f"{done.output}\n{log[-SHOWN_CHARS:]}"
            text = f"llama.cpp can't be built with CMAKE_ARGS='{shlex.join(flags)}'\n{said}"
            raise TrialError(why, text, again=replace(done, output=said).killed)
        (wheel,) = part.glob("*.whl")
        with zipfile.ZipFile(wheel) as whole:
            whole.extractall(part, [name for name in whole.namelist() if name.startswith(LIBRARIES)])
        record = {"wall_s": done.wall_s, "cmake_args": list(flags), "compiler": self.compiler.version}
        (part / "record.json").write_text(json.dumps(record), encoding="utf-8")
