"""Every value of every flag in conf/space is one that the compiler takes."""

import subprocess
from datetime import date
from pathlib import Path

import pytest
from kernels.programs import COMPILERS, KERNELS

from optimizer.config import load
from optimizer.space import Choice, Knob, Space, Value

SPACES = {"g++": "gxx", "clang++": "clangxx"}


def flags_of(compiler: str, tmp_path: Path) -> Space:
    words = ["target=gemm_cpu", f"space=[{SPACES[compiler]},gemm]", f"studies_dir={tmp_path}"]
    return load(words, [], date(2026, 1, 1)).recipe.space


def finds(compiler: str, words: tuple[str, ...], folder: Path) -> str:
    """What the compiler says of a file compiled with these words; empty where it takes them without a word."""
    files = [f"-I{KERNELS}", "-c", str(KERNELS / "mlp" / "reference.cpp"), "-o", str(folder / "out.o")]
    command = [compiler, "-std=c++17", "-fopenmp", "-O3", *words, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr if done.stderr or done.returncode == 0 else f"status {done.returncode}"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_flag_is_taken(compiler: str, tmp_path: Path) -> None:
    knobs = [k for k in flags_of(compiler, tmp_path).knobs if k.effect.kind == "flag"]
    assert len(knobs) >= 15
    refused = {
        (knob.name, value): said
        for knob in knobs
        for value in values_of(knob)
        if (words := knob.effect.words(value)) and (said := finds(compiler, tuple(words), tmp_path))
    }
    assert not refused


def values_of(knob: Knob) -> tuple[Value, ...]:
    assert isinstance(knob.domain, Choice)
    return knob.domain.values


def test_a_flag_that_no_compiler_has_is_refused(tmp_path: Path) -> None:
    assert finds(COMPILERS[0], ("-fno-such-flag",), tmp_path)
