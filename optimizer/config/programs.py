"""Where is a program that a command line names, and which version is it?"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from optimizer.config.native import found_compilers, version_of
from optimizer.errors import ConfigError
from optimizer.targets.builds import file_hash
from optimizer.targets.cuda.sass import wheel_program

ADVICE = {
    "cmake": "Debian: apt install cmake",
    "make": "Debian: apt install make",
    "ninja": "Debian: apt install ninja-build",
    "meson": "Debian: apt install meson",
    "g++": "Debian: apt install g++",
    "gcc": "Debian: apt install gcc",
    "clang": "Debian: apt install clang",
    "clang++": "Debian: apt install clang libomp-dev",
    "cargo": "https://rustup.rs, or Debian: apt install cargo",
    "rustc": "https://rustup.rs, or Debian: apt install rustc",
    "go": "Debian: apt install golang",
    "nvcc": "pip install 'inference-optimizer[cuda]', or NVIDIA's CUDA toolkit",
}
TELL_VERSIONS = {*ADVICE, "python", "python3", "cc", "c++", "ld", "gfortran", "ccache"} - {"go"}
"""Programs that are known to answer --version; any other might do its work instead."""
BEHIND = {"cargo": "rustc"}  # what another calls


def found_program(word: str, folders: Sequence[Path]) -> str:
    """The path of a program, by name or by a path that is meant from one of the folders. Raises ConfigError."""
    if "/" in word:
        places = [folder / word for folder in folders]
        for place in places:
            if place.is_file():
                if not os.access(place, os.X_OK):
                    raise ConfigError(f"{place} can't be executed: chmod +x {place}, or name what runs it first.")
                return str(place.resolve() if not place.is_symlink() else place.absolute())
        raise ConfigError(f"There is no program {places[0]}.")
    if (path := shutil.which(word) or _elsewhere(word)) is not None:
        return path
    advice = f" Install it ({ADVICE[word]})." if word in ADVICE else " Install it, or write its path."
    raise ConfigError(f"There is no program '{word}' on the PATH.{advice}")


def _elsewhere(word: str) -> str | None:
    """nvcc, which pip puts beside Python's packages."""
    return wheel_program(word) if word == "nvcc" else None


def version_or_hash(paths: Sequence[Path], *, builds: bool) -> Mapping[str, str]:
    """Programs by name: a version where a tool tells one, else the hash of the file. `builds`: with the compilers of
    this machine, which make, cmake and scripts call."""
    found: dict[str, str] = {}
    for path in paths:
        found[path.name] = version_of(str(path)) if path.name in TELL_VERSIONS else file_hash(path)
        if (behind := BEHIND.get(path.name)) and (there := shutil.which(behind)):
            found[behind] = version_of(there)
    compilers = {c.name: c.version for c in found_compilers().values()} if builds else {}
    return {**compilers, **found}
