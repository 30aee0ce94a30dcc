"""C++ programs as targets: what is built, what is cached, and every way in which a program can misbehave."""

import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from simple import constraints, recipe_of, searched, strategy_of

from optimizer.config.native import found_compilers
from optimizer.errors import ConfigError
from optimizer.expression import parse
from optimizer.feasible import Feasible
from optimizer.measure import StillMeter
from optimizer.objective import Goal, Objective
from optimizer.resources import kernels_dir
from optimizer.space import Choice, Effect, Int, Knob, Point, Space
from optimizer.strategies.model import ModelProposer
from optimizer.targets.builds import knob_words
from optimizer.targets.cache import BuildCache
from optimizer.targets.native import Limits, NativeTarget, code_key
from optimizer.targets.units import Compiler
from optimizer.trial import Artifact, Reason, TrialError

HERE = found_compilers()
GXX = pytest.mark.skipif("g++" not in HERE, reason="needs g++")
pytestmark = GXX

SPACE = Space(
    (
        Knob("opt_level", Choice((1, 2, 3), ordered=True), Effect("flag", template=("-O{value}",)), 3),
        Knob("fast", Choice((False, True)), Effect("flag", table=((True, ("-ffast-math", "-fno-math-errno")),)), False),
        Knob("bad", Choice((False, True)), Effect("flag", table=((True, ("-fno-such-flag",)),)), False),
        Knob("WHAT", Int(0, 20), Effect("macro", name="WHAT", template=("{value}",)), 0),
        Knob("mode", Choice(("a", "b")), Effect("macro", name="MODE", table=(("b", ("7",)),)), "a", parse("WHAT == 1")),
        Knob("wait", Choice(("none", "x")), Effect("env", name="WAIT", table=(("x", ("x",)),)), "none"),
        Knob("size", Choice((1, 2, 3, 4), ordered=True), Effect("option", name="size", template=("{value}",)), 1),
    ),
    constraints(some="WHAT >= 0"),
)

PROGRAM = r"""
#include "harness.h"
#include <cstdlib>
#include <csignal>
#include <cstdio>
#include <limits>
#include <new>
#include <string>
#include <unistd.h>
#ifndef WHAT
#define WHAT 0
#endif
struct Probe : harness::Kernel {
  long size;
  explicit Probe(const harness::Options& options) : size(options.integer("size", 1, 1, 3)) {
    if (WHAT == 2) std::abort();
    if (WHAT == 3) sleep(600);
    if (WHAT == 4) throw std::bad_alloc();
    if (WHAT == 5) { std::puts("hello there"); std::fflush(stdout); }
    if (WHAT == 6) std::exit(9);
  }
  harness::Facts facts() const override { return {{"flop", 1000}, {"size", static_cast<double>(size)}}; }
  harness::Check verify() override {
    if (WHAT == 7) return {{{"max_rel_error", 0.5}}, {{"max_rel_error", 1e-3}}, {}};
    if (WHAT == 8) return {{{"max_rel_error", std::numeric_limits<double>::quiet_NaN()}}, {{"max_rel_error", 1}}, {}};
    if (WHAT == 9) return {{}, {}, {}};
    if (WHAT == 10) return {{{"max_rel_error", 0}}, {}, {{"perplexity", std::numeric_limits<double>::infinity()}}};
    if (WHAT == 11) std::raise(SIGSEGV);
    return {{{"max_rel_error", 1e-5}}, {{"max_rel_error", 1e-3}}, {{"perplexity", 3.5}}};
  }
  void run(harness::Reading& reading) override {
    if (WHAT == 12) std::raise(SIGFPE);
    if (WHAT == 13) sleep(600);
    if (WHAT == 14) { for (;;) if (!std::malloc(1 << 20)) throw std::bad_alloc(); }
    if (WHAT == 15) throw std::runtime_error("told you so");
    if (WHAT == 16) reading.metrics["odd"] = std::numeric_limits<double>::quiet_NaN();
    if (const char* wait = std::getenv("WAIT")) reading.metrics["waited"] = wait[0];
    reading.inferences = 2;
    reading.batches = 3;
    usleep(3000);
  }
};
std::unique_ptr<harness::Kernel> harness::make(const Options& options) { return std::make_unique<Probe>(options); }
"""


def probe(tmp_path: Path, **changes: object) -> NativeTarget:
    source = tmp_path / "probe" / "probe.cpp"
    source.parent.mkdir(exist_ok=True)
    if not source.exists():
        source.write_text(PROGRAM)
    target = NativeTarget(
        source=source,
        support=(kernels_dir() / "harness.cpp",),
        include=kernels_dir(),
        options={},
        space=SPACE,
        compilers={"g++": HERE["g++"]},
        folder=tmp_path / "build",
        limits=Limits(20.0, 2 << 30),
    )
    made = replace(target, **changes)  # type: ignore[arg-type]
    made.prepare()
    return made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the harness is compiled once."""
    folder = tmp_path_factory.mktemp("native")
    probe(folder)
    return folder


def point(**values: object) -> Point:
    return SPACE.active({k.name: k.default for k in SPACE.knobs} | values)  # type: ignore[arg-type]


def test_a_point_becomes_a_command_line(shared: Path) -> None:
    target = probe(shared)
    words = knob_words(target.space, point(opt_level=2, fast=True, WHAT=1, mode="b"))
    assert words == ("-O2", "-ffast-math", "-fno-math-errno", "-DWHAT=1", "-DMODE=7")
    assert knob_words(target.space, point()) == ("-O3", "-DWHAT=0")
    assert target.arguments(point(size=2)) == ("--size=2",)
    assert target.environment(point(wait="x")) == {"WAIT": "x"}
    assert target.environment(point()) == {}
    command = target.command(point())
    assert command[0] == HERE["g++"].path
    assert command.index("-O3") < command.index("-DWHAT=0") < command.index(str(target.source))


def test_a_build_tells_its_time_size_and_words(shared: Path) -> None:
    artifact = probe(shared).build(point())
    assert artifact.facts.keys() == {"compile_time_s", "compile_cpu_time_s", "binary_bytes"}
    assert artifact.facts["compile_time_s"] > 0.01
    assert Path(artifact.path).stat().st_size == artifact.facts["binary_bytes"]
    assert Path(artifact.path).stat().st_mode & stat.S_IXUSR
    assert artifact.command[-1] == "program"


def test_a_build_is_made_once(shared: Path) -> None:
    target = probe(shared)
    first = target.build(point(WHAT=17))
    before = Path(first.path).stat().st_mtime_ns
    again = target.build(point(WHAT=17))
    assert "build_cached" not in first.facts
    assert again == replace(first, facts={**first.facts, "build_cached": 1.0})
    assert Path(first.path).stat().st_mtime_ns == before
    fresh = target.build(point(WHAT=17), fresh=True)
    assert fresh.key == first.key
    assert fresh.facts["compile_time_s"] != first.facts["compile_time_s"]


def test_run_time_knobs_share_the_program_and_not_the_identity(shared: Path) -> None:
    target = probe(shared)
    one, two, waiting = target.build(point()), target.build(point(size=2)), target.build(point(wait="x"))
    assert two.facts["compile_time_s"] == one.facts["compile_time_s"]
    assert one.path == two.path == waiting.path
    assert len({one.identity, two.identity, waiting.identity}) == 3


def test_the_same_machine_code_is_recognised(shared: Path) -> None:
    target = probe(shared)
    plain, other = target.build(point(WHAT=18)), target.build(point(WHAT=19))
    assert plain.key != other.key
    assert plain.code_key == other.code_key, "a macro that nothing reads changes no code"
    assert target.build(point(opt_level=1)).code_key != target.build(point(opt_level=3)).code_key


def test_a_damaged_cache_entry_is_built_again(shared: Path) -> None:
    target = probe(shared)
    first = target.build(point(WHAT=20))
    for damage in ("", "{", '{"key": "x"}', "[]"):
        record = Path(first.path).with_name("artifact.json")
        record.write_text(damage)
        assert target.build(point(WHAT=20)).code_key == first.code_key


def test_a_changed_source_is_another_recipe_and_another_build(tmp_path: Path) -> None:
    target = probe(tmp_path)
    before = target.fingerprint()
    first = target.build(point())
    target.source.write_text(PROGRAM + "\nint added() { return 7; }\n")
    changed = replace(target)
    assert changed.fingerprint() != before
    assert changed.build(point()).key != first.key
    assert target.fingerprint() == before, "one search never mixes two versions"


def test_a_program_is_verified_and_measured(shared: Path) -> None:
    target = probe(shared)
    with target.open(target.build(point(size=3))) as runner:
        assert runner.facts["size"] == 3
        assert runner.facts["load_s"] >= 0
        check = runner.verify()
        samples = runner.run(4)
    assert check.errors == {"max_rel_error": 1e-5}
    assert check.quality == {"perplexity": 3.5}
    assert {n: len(v) for n, v in samples.items()} == {
        "latency_s": 4, "throughput_ips": 4, "cpu_time_s": 4, "achieved_flop_per_s": 4, "peak_memory_bytes": 1,
    }  # fmt: skip
    assert min(samples["latency_s"]) >= 0.001
    assert samples["throughput_ips"][0] == pytest.approx(2 / samples["latency_s"][0])
    assert samples["peak_memory_bytes"][0] > 100_000


def test_variables_reach_the_program(shared: Path) -> None:
    target = probe(shared)
    with target.open(target.build(point(wait="x"))) as runner:
        assert runner.run(1)["waited"] == (ord("x"),)


def failure(target: NativeTarget, where: Point) -> tuple[Reason, str]:
    with pytest.raises(TrialError) as caught, target.open(target.build(where)) as runner:
        runner.verify()
        runner.run(1)
    return caught.value.reason, caught.value.log


@pytest.mark.parametrize(
    ("what", "reason", "said"),
    [
        (2, Reason.CRASH, "SIGABRT"),
        (4, Reason.MEMORY, "out of memory"),
        (5, Reason.CRASH, "not JSON: 'hello there'"),
        (6, Reason.CRASH, "status 9"),
        (7, Reason.WRONG, "max_rel_error is 0.5; at most 0.001 is right"),
        (8, Reason.WRONG, "not a finite number"),
        (9, Reason.WRONG, "compared nothing"),
        (10, Reason.WRONG, "perplexity is not a finite number"),
        (11, Reason.CRASH, "SIGSEGV"),
        (12, Reason.CRASH, "SIGFPE"),
        (14, Reason.MEMORY, "out of memory"),
        (15, Reason.CRASH, "told you so"),
        (16, Reason.CRASH, "readings of odd are not"),
    ],
)
def test_each_misbehaviour_has_its_reason(shared: Path, what: int, reason: Reason, said: str) -> None:
    found, log = failure(probe(shared), point(WHAT=what))
    assert found is reason
    assert said in log


@pytest.mark.parametrize("what", [3, 13])
def test_a_program_that_hangs_is_a_timeout(shared: Path, what: int) -> None:
    found, _ = failure(probe(shared, limits=Limits(1.0, 2 << 30)), point(WHAT=what))
    assert found is Reason.TIMEOUT


def test_an_option_out_of_range_is_rejected_with_its_bounds(shared: Path) -> None:
    found, log = failure(probe(shared), point(size=4))
    assert found is Reason.REJECTED
    assert "--size=4 is not a whole number from 1 to 3" in log


def test_a_flag_that_the_compiler_rejects_fails_that_point_with_its_words(shared: Path) -> None:
    with pytest.raises(TrialError) as caught:
        probe(shared).build(point(bad=True))
    assert caught.value.reason is Reason.COMPILE
    assert "-fno-such-flag" in caught.value.log
    assert caught.value.log.startswith("$ ")


def test_a_compiler_that_takes_for_ever_is_a_timeout(tmp_path: Path) -> None:
    target = probe(tmp_path)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 600\n")
    slow.chmod(0o755)
    stuck = replace(target, compilers={"g++": Compiler("g++", str(slow), "slow")}, limits=Limits(0.5, 1 << 30))
    with pytest.raises(TrialError) as caught:
        stuck.build(point())
    assert caught.value.reason is Reason.TIMEOUT


def test_a_compiler_that_leaves_no_program(tmp_path: Path) -> None:
    target = probe(tmp_path)
    idle = tmp_path / "idle"
    idle.write_text("#!/bin/sh\nexit 0\n")
    idle.chmod(0o755)
    with pytest.raises(TrialError, match="left no program"):
        replace(target, compilers={"g++": Compiler("g++", str(idle), "idle")}).build(point())


def test_a_compiler_that_is_no_compiler_stops_before_the_first_trial(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'no such thing' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ConfigError, match=r"(?s)can't compile harness.cpp.*optimizer doctor.*no such thing"):
        probe(tmp_path, compilers={"g++": Compiler("g++", str(broken), "broken")})


def test_a_program_that_is_gone_is_a_crash_of_that_trial(shared: Path) -> None:
    with pytest.raises(TrialError, match="can't be run"), probe(shared).open(Artifact("k", "c", "/nowhere/program")):
        pass


def test_the_path_of_the_installation_is_not_in_the_recipe(tmp_path: Path) -> None:
    files = tmp_path / "model.bin"
    files.write_bytes(b"weights")
    document = str(probe(tmp_path, files={"model": files}).fingerprint())
    assert str(tmp_path) not in document
    assert str(kernels_dir()) not in document


def test_a_missing_source_is_told(tmp_path: Path) -> None:
    target = replace(probe(tmp_path), source=tmp_path / "probe" / "nothing.cpp")
    with pytest.raises(ConfigError, match=r"nothing\.cpp can't be read"):
        target.fingerprint()


def test_code_keys_ignore_build_ids(tmp_path: Path) -> None:
    source = tmp_path / "x.cpp"
    source.write_text("int main() { return 3; }\n")
    import subprocess

    def built(name: str, *words: str) -> str:
        subprocess.run([HERE["g++"].path, *words, str(source), "-o", str(tmp_path / name)], check=True)
        return code_key(tmp_path / name)

    assert built("a", "-Wl,--build-id=0x1234") == built("b", "-Wl,--build-id=0x5678")
    assert built("c", "-O0") != built("d", "-O3", "-DNDEBUG", "-fno-pie", "-no-pie")


def test_a_search_for_short_compile_times_goes_the_same_way_with_a_warm_cache(tmp_path: Path) -> None:
    """A build taken over tells the time of the first, so what a strategy learns does not depend on the cache."""
    recipe = recipe_of(SPACE, goal=Goal((Objective("compile_time_s"),)), strategy="auto")
    told = []
    for folder in ("cold", "warm"):
        cache = BuildCache.opened(tmp_path / "cache", 1 << 30, "here")
        target = probe(tmp_path, folder=tmp_path / folder, cache=cache)
        strategy = strategy_of(recipe, ModelProposer(Feasible(SPACE), 1, recipe.seed))
        trials, _ = searched(recipe, target, 5, strategy=strategy, meter=StillMeter())
        told.append([(t.point, t.artifact and t.artifact.facts["compile_time_s"]) for t in trials if t.artifact])
        cached = [t for t in trials if t.artifact and "build_cached" in t.artifact.facts]
        assert len(cached) >= (len(told[0]) if folder == "warm" else 0)
    assert told[0] == told[1]


def test_no_scratch_is_left_behind(shared: Path) -> None:
    target = probe(shared)
    with target.open(target.build(point())) as runner:
        runner.run(1)
    leftovers = [p for p in (shared / "build").iterdir() if p.name.startswith("building-")]
    assert leftovers == []
    assert shutil.which("g++")
