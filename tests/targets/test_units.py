"""Programs of several translation units: compiled beside each other, each kept by its content, then linked."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from optimizer.config.native import found_compilers
from optimizer.resources import kernels_dir
from optimizer.space import Choice, Effect, Knob, Point, Space
from optimizer.targets.cache import BuildCache
from optimizer.targets.native import Limits, NativeTarget
from optimizer.targets.units import Launcher
from optimizer.trial import Reason, TrialError

HERE = found_compilers()
pytestmark = pytest.mark.skipif("g++" not in HERE, reason="needs g++")

SPACE = Space(
    (
        Knob("opt_level", Choice((0, 1, 2)), Effect("flag", template=("-O{value}",)), 2),
        Knob("lto", Choice((False, True)), Effect("flag", table=((True, ("-flto=auto",)),)), False),
    ),
    (),
)
POINT = Point({"opt_level": 1, "lto": False})
MAIN = """
#include <cstdio>
#include "parts.h"
int main() { std::printf("%d\\n", half(84)); }
"""
HALF = '#include "parts.h"\nint half(int x) { return x / 2; }\n'


@pytest.fixture
def target(tmp_path: Path) -> NativeTarget:
    (tmp_path / "parts.h").write_text("int half(int x);\n")
    (tmp_path / "main.cpp").write_text(MAIN)
    (tmp_path / "half.cpp").write_text(HALF)
    return NativeTarget(
        source=tmp_path / "main.cpp",
        more=(tmp_path / "half.cpp",),
        support=(),
        include=kernels_dir(),
        options={},
        space=SPACE,
        compilers={"g++": HERE["g++"]},
        folder=tmp_path / "build",
        limits=Limits(30.0, 2 << 30),
        cache=BuildCache.opened(tmp_path / "cache", 1 << 30, "here"),
    )


def again(target: NativeTarget, name: str) -> NativeTarget:
    """Another search of the same target."""
    return replace(target, folder=target.folder.with_name(name))


def test_it_is_the_program_that_one_command_makes(target: NativeTarget, tmp_path: Path) -> None:
    import subprocess

    for point in (POINT, Point({"opt_level": 2, "lto": True})):
        artifact = target.build(point)
        assert subprocess.run([artifact.path], capture_output=True, check=True).stdout == b"42\n"
        subprocess.run(artifact.command, cwd=tmp_path, check=True)
        assert target.build(point, fresh=True).code_key == artifact.code_key
        one = replace(target, more=(), source=tmp_path / "all.cpp", folder=tmp_path / "one")
        one.source.write_text('#include "main.cpp"\n#include "half.cpp"\n')
        assert one.build(point).facts.keys() == artifact.facts.keys()


def test_only_a_changed_unit_is_compiled_again(target: NativeTarget, tmp_path: Path) -> None:
    first = target.build(POINT)
    assert "units_cached" not in first.facts
    (tmp_path / "half.cpp").write_text(HALF.replace("x / 2", "x / 3"))
    changed = again(target, "later").build(POINT)
    assert changed.code_key != first.code_key
    assert changed.facts["units_cached"] == 1
    assert "build_cached" not in changed.facts
    (tmp_path / "parts.h").write_text("int half(int x);  // both read it\n")
    assert "units_cached" not in again(target, "last").build(POINT).facts


def test_a_warm_cache_gives_the_same_program_and_the_first_times(target: NativeTarget) -> None:
    first, second = target.build(POINT), again(target, "later").build(POINT)
    assert second.code_key == first.code_key
    assert second.facts == {**first.facts, "build_cached": 1.0}


def test_a_source_that_does_not_say_what_it_reads_is_built_by_every_search(target: NativeTarget) -> None:
    target.source.write_text('#define WHICH "parts.h"\n#include WHICH\n' + MAIN)
    target.build(POINT)
    assert "build_cached" not in again(target, "later").build(POINT).facts


def test_a_unit_that_does_not_compile_fails_the_point_with_its_words(target: NativeTarget) -> None:
    target.more[0].write_text("int half(int x) { return y; }\n")
    with pytest.raises(TrialError, match=r"half\.cpp.*'y' was not declared|was not declared") as caught:
        target.build(POINT)
    assert caught.value.reason is Reason.COMPILE


@pytest.mark.extra
@pytest.mark.skipif(shutil.which("ccache") is None, reason="needs ccache (Debian: apt install ccache)")
def test_a_hit_of_ccache_tells_no_time(target: NativeTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CCACHE_DIR", str(tmp_path / "ccache"))
    launched = replace(target, cache=None, launcher=Launcher("ccache", str(shutil.which("ccache"))))
    first = launched.build(POINT)
    assert first.facts["compile_time_s"] > 0
    second = again(launched, "later").build(POINT)
    assert second.code_key == first.code_key
    assert "compile_time_s" not in second.facts
    assert "compile_time_s" in again(launched, "timed").build(POINT, fresh=True).facts
    assert "compile_time_s" in replace(again(launched, "goal"), times_count=True).build(POINT).facts


@pytest.mark.parametrize("victim", ["ld", "collect2", "as"])
def test_a_linker_or_an_assembler_that_somebody_kills_is_no_verdict_on_the_point(
    victim: str, target: NativeTarget, tmp_path: Path
) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / victim).write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "tools" / victim).chmod(0o755)
    (tmp_path / "g++").write_text(f'#!/bin/sh\nexec {HERE["g++"].path} -B {tmp_path}/tools/ "$@"\n')
    (tmp_path / "g++").chmod(0o755)
    killed = replace(target, compilers={"g++": replace(HERE["g++"], path=str(tmp_path / "g++"))})
    with pytest.raises(TrialError) as caught:
        killed.build(POINT)
    assert (caught.value.reason, caught.value.again) == (Reason.COMPILE, True)
