"""Builds of llama.cpp: once for each set of flags, compiler and version, whole or not at all. pip builds a small
package of the same name here, whose libraries are a file that says how it was built."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from optimizer.targets.llamacpp.wheels import Wheels
from optimizer.targets.units import Compiler
from optimizer.trial import Reason, TrialError

BACKEND = """
import os, pathlib, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    args = os.environ["CMAKE_ARGS"]
    if "TYPO" in args:
        print("CMake Warning:\\n  Manually-specified variables were not used by the project:\\n\\n    GGML_TYPO\\n\\n", flush=True)
    if "BROKEN" in args:
        raise SystemExit("the compiler says no")
    name = "llama_cpp_python-0.0.1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("llama_cpp/lib/libllama.so", "|".join([args, os.environ["CC"], os.environ.get("CFLAGS", "-")]))
        wheel.writestr("llama_cpp/llama.py", "")
        wheel.writestr("llama_cpp_python-0.0.1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: llama-cpp-python\\nVersion: 0.0.1\\n")
        wheel.writestr("llama_cpp_python-0.0.1.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("llama_cpp_python-0.0.1.dist-info/RECORD", "")
    return name
"""  # noqa: E501


@pytest.fixture
def wheels(tmp_path: Path) -> Wheels:
    source = tmp_path / "source"
    source.mkdir()
    (source / "backend.py").write_text(BACKEND, encoding="utf-8")
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (source / "pyproject.toml").write_text(system, encoding="utf-8")
    return Wheels(str(source), Compiler("g++", "/usr/bin/g++", "12.2"), "a processor", tmp_path / "wheels")


def test_a_wheel_is_built_once_with_its_flags(wheels: Wheels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-march=native")  # the shell's own would build another wheel under the same name
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=ON")
    flags = ("-DGGML_NATIVE=OFF", "-DCMAKE_CXX_FLAGS=-O3 -g")
    wheel = wheels.built(flags)
    said = (wheel.libraries / "libllama.so").read_text(encoding="utf-8")
    assert said == "-DGGML_NATIVE=OFF '-DCMAKE_CXX_FLAGS=-O3 -g'|/usr/bin/gcc|-"
    assert wheel.wall_s > 0
    (Path(wheels.requirement) / "backend.py").unlink()
    assert wheels.built(flags) == wheel, "what was built before is not built again"
    assert not list(wheels.folder.glob("building-*"))
    assert not list(wheels.folder.glob(".*.part"))


def test_all_that_decides_a_build_is_in_its_key(wheels: Wheels) -> None:
    flags = ("-DGGML_LTO=ON",)
    others = [
        replace(wheels, requirement="llama-cpp-python==9"),
        replace(wheels, compiler=Compiler("g++", "/usr/bin/g++", "13.1")),
        replace(wheels, compiler=Compiler("clang++", "/usr/bin/g++", "12.2")),
        replace(wheels, processor="another"),
    ]
    assert len({wheels.key(flags), wheels.key(()), *(other.key(flags) for other in others)}) == 6


@pytest.mark.parametrize(
    ("flag", "reason", "says"),
    [
        ("-DGGML_TYPO=ON", Reason.REJECTED, "no setting GGML_TYPO; CMake ignores it"),
        ("-DBROKEN=ON", Reason.COMPILE, "the compiler says no"),
    ],
    ids=["unknown", "broken"],
)
def test_a_build_that_failed_leaves_nothing(wheels: Wheels, flag: str, reason: Reason, says: str) -> None:
    with pytest.raises(TrialError, match=says) as caught:
        wheels.built((flag,))
    assert caught.value.reason is reason
    assert [p.name for p in wheels.folder.iterdir() if p.is_dir()] == []
    assert wheels.built(("-DGGML_LTO=ON",)).libraries.is_dir(), "the next build goes on"


def test_a_record_says_how_it_was_built(wheels: Wheels) -> None:
    wheel = wheels.built(("-DGGML_LTO=ON",))
    record = json.loads((wheels.folder / wheel.key / "record.json").read_text(encoding="utf-8"))
    assert (record["cmake_args"], record["compiler"]) == (["-DGGML_LTO=ON"], "12.2")
