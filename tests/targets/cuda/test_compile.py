"""Both CUDA compilers behind one seam: what they build and tell, and that no failure costs more than its trial."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from targets.cuda.compilers import BOTH, GEMM, NVCC, NVRTC, SHORT, TIMEOUT_S, built, toolchain

from optimizer.config import files
from optimizer.config.spaces import space_of
from optimizer.errors import ConfigError
from optimizer.space import Choice, Point, Space
from optimizer.targets.builds import knob_words
from optimizer.targets.cuda.compile import Built, Nvcc, Nvrtc, found_toolchains, phases
from optimizer.targets.cuda.facts import code_key
from optimizer.targets.cuda.nvrtc import CLEAN, answer_apart
from optimizer.trial import Reason, TrialError

ARCHS = ("sm_80", "sm_90")
TINY = 'extern "C" __global__ void k(float* a) { a[threadIdx.x] = 1.0f; }'


def flags() -> Space:
    made = files().composed(["target=gemm_cuda", "device=none", "space=[cuda_flags]"])
    return space_of(made.tree["space"], {})


@pytest.mark.parametrize("name", BOTH)
def test_a_build_tells_its_times_and_its_command(name: str, tmp_path: Path) -> None:
    made = built(name, tmp_path, GEMM, "-DMIN_BLOCKS=2")
    assert made.cubin.startswith(b"\x7fELF")
    assert {"-DMIN_BLOCKS=2", "--gpu-architecture=sm_80"} <= set(made.command)
    assert "Compiling entry function 'gemm' for 'sm_80'" in made.log
    facts = made.facts
    assert 0 < facts["compile_ptxas_s"] < facts["compile_time_s"]
    assert 0 < facts["compile_frontend_s"] < facts["compile_time_s"]
    assert facts["compile_frontend_s"] + facts["compile_ptxas_s"] < facts["compile_time_s"] * 1.1
    assert facts["compile_cpu_time_s"] > 0


@pytest.mark.parametrize("name", BOTH)
def test_a_second_build_in_the_same_folder_tells_its_own_times(name: str, tmp_path: Path) -> None:
    for _ in range(3):
        facts = built(name, tmp_path, TINY).facts
    assert facts["compile_frontend_s"] + facts["compile_ptxas_s"] < facts["compile_time_s"] * 1.1


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("text", "words", "arch", "said"),
    [
        (TINY, (), "sm_20", "arch"),
        (TINY, ("--no-such-flag",), "sm_80", "--no-such-flag"),
        (TINY, ("--ptxas-options=--no-such-flag",), "sm_80", "no-such-flag"),
        ('extern "C" __global__ void k() { nonsense; }', (), "sm_80", "sample.cu(1)"),
        ('#include "nowhere.h"', (), "sm_80", "nowhere.h"),
        ("", (), "sm_80", ""),
    ],
    ids=["arch", "flag", "ptxas flag", "error", "header", "empty"],
)
def test_what_is_refused_costs_one_trial(
    name: str, text: str, words: tuple[str, ...], arch: str, said: str, tmp_path: Path
) -> None:
    if not text:  # a source without kernels is no error of the compiler: it is found later, by name
        assert built(name, tmp_path, text, *words, arch=arch).cubin
        return
    with pytest.raises(TrialError) as caught:
        built(name, tmp_path, text, *words, arch=arch)
    assert caught.value.reason is Reason.COMPILE
    assert said in caught.value.log
    assert f"--gpu-architecture={arch}" in caught.value.log.splitlines()[0]
    assert built(name, tmp_path, TINY).cubin  # and the next trial is built


@pytest.mark.parametrize("name", BOTH)
def test_headers_beside_the_source_and_in_the_folder_of_headers_are_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "far.cuh").write_text("#define FAR 2.0f", encoding="utf-8")
    (tmp_path / "near.cuh").write_text("#define NEAR 1.0f", encoding="utf-8")
    text = '#include "near.cuh"\n#include "far.cuh"\nextern "C" __global__ void k(float* a) { a[0] = NEAR + FAR; }'
    (tmp_path / "sample.cu").write_text(text, encoding="utf-8")
    made = toolchain(name).compile(tmp_path / "sample.cu", tmp_path / "include", (), "sm_80", tmp_path, TIMEOUT_S)
    assert made.cubin


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("arch", ARCHS)
def test_every_value_of_every_flag_compiles(name: str, arch: str, tmp_path: Path) -> None:
    space = flags()
    knobs = [k for k in space.knobs if k.effect.kind in ("flag", "macro")]
    assert len(knobs) >= 15
    assert all(k.help for k in space.knobs)
    refused = {}
    for knob in knobs:
        only = {"minimal": "nvrtc", "cicc_opt_level": "nvcc"}.get(knob.name, name)
        assert (knob.when is not None and "compiler" in knob.when.text) == (knob.name in ("minimal", "cicc_opt_level"))
        if only != name:
            continue
        assert isinstance(knob.domain, Choice)
        for value in knob.domain.values:
            if words := knob_words(space, Point({knob.name: value})):
                try:
                    built(name, tmp_path, SHORT, *words, arch=arch)
                except TrialError as error:
                    refused[knob.name, value] = error.log
    assert not refused


@pytest.mark.parametrize("name", BOTH)
def test_flags_of_any_point_go_together(name: str, tmp_path: Path) -> None:
    space, rng = flags(), random.Random(3)
    for _ in range(12):
        point = space.active({k.name: k.domain.sample(rng) for k in space.knobs} | {"compiler": name})
        assert built(name, tmp_path, GEMM, *knob_words(space, point)).cubin


@pytest.mark.extra
@NVRTC
def test_the_registers_of_a_point_are_obeyed_in_spite_of_launch_bounds(tmp_path: Path) -> None:
    words = knob_words(flags(), Point({"maxrregcount": 32}))
    assert "Used 32 registers" in built("nvrtc", tmp_path, GEMM, *words).log


@pytest.mark.extra
@NVRTC
def test_what_was_compiled_before_leaves_no_trace(tmp_path: Path) -> None:
    """NVRTC 13.0 keeps --restrict and --Ofast-compile=mid for the programs that follow in the same process."""
    nvrtc, space = Nvrtc(), flags()
    source = tmp_path / "sample.cu"
    source.write_text(GEMM, encoding="utf-8")

    def key(*words: str) -> str:
        return code_key(nvrtc.compile(source, tmp_path, words, "sm_80", tmp_path, TIMEOUT_S).cubin)

    first = key()
    followed = {}
    for knob in space.knobs:
        assert isinstance(knob.domain, Choice)
        for value in knob.domain.values:
            words = knob_words(space, Point({knob.name: value}))
            if words and not words[0].startswith("-Xcicc"):
                key(*words)
                followed[words] = key()
    nvrtc.close()
    assert len(followed) > 30
    assert {words for words, found in followed.items() if found != first} == set()


def test_words_that_leave_a_trace_are_not_called_clean() -> None:
    for word in ("--restrict", "--Ofast-compile=mid", "--no-such-flag"):
        assert not word.startswith(CLEAN)


@pytest.mark.extra
@NVRTC
def test_threads_build_in_processes_of_their_own_and_share_them_later(tmp_path: Path) -> None:
    nvrtc = Nvrtc()
    folders = [tmp_path / str(i) for i in range(6)]
    together = threading.Barrier(2)

    def build(folder: Path) -> Built:
        folder.mkdir()
        (folder / "sample.cu").write_text(GEMM, encoding="utf-8")
        together.wait(TIMEOUT_S)
        return nvrtc.compile(folder / "sample.cu", folder, (), "sm_80", folder, TIMEOUT_S)

    with ThreadPoolExecutor(2) as pool:
        keys = {code_key(b.cubin) for b in pool.map(build, folders)}
    assert len(keys) == 1
    nvrtc.close()


FAKE = """
import json, os, sys, time
print(json.dumps({"ready": {"version": "1.0", "archs": ["sm_80"]}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    text = open(request["source"]).read()
    if "crash" in text: os.abort()
    if "leave" in text: sys.exit(7)
    if "killed" in text: os.kill(os.getpid(), 9)
    if "fork" in text:
        print(json.dumps({"built": False, "log": "the compiler ended with SIGKILL"}), flush=True)
        continue
    if "hang" in text: time.sleep(600)
    if "nonsense" in text: print("hello", flush=True); continue
    open(request["output"], "wb").write(str(os.getpid()).encode())
    print(json.dumps({"built": True, "log": "", "wall_s": 0.1, "cpu_s": 0.1}), flush=True)
"""


def compiled_by(fake: Nvrtc, text: str, folder: Path, timeout_s: float = 20.0) -> str:
    (folder / "x.cu").write_text(text, encoding="utf-8")
    return fake.compile(folder / "x.cu", folder, (), "sm_80", folder, timeout_s).cubin.decode()


def faked(folder: Path, program: str = FAKE) -> Nvrtc:
    (folder / "fake.py").write_text(program, encoding="utf-8")
    return Nvrtc((sys.executable, str(folder / "fake.py")))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("crash", Reason.COMPILE), ("leave", Reason.COMPILE), ("nonsense", Reason.COMPILE), ("hang", Reason.TIMEOUT)],
)
def test_a_compiler_that_goes_wrong_costs_one_trial(text: str, reason: Reason, tmp_path: Path) -> None:
    fake = faked(tmp_path)
    timeout_s = 2.0 if text == "hang" else 20.0
    before = compiled_by(fake, "good", tmp_path, timeout_s)
    assert compiled_by(fake, "good", tmp_path, timeout_s) == before  # the same process
    with pytest.raises(TrialError) as caught:
        compiled_by(fake, text, tmp_path, timeout_s)
    assert caught.value.reason is reason
    assert "--gpu-architecture=sm_80" in caught.value.log
    assert compiled_by(fake, "good", tmp_path, timeout_s) != before  # another process
    fake.close()


@pytest.mark.parametrize(("text", "again"), [("killed", True), ("fork", True), ("crash", False), ("leave", False)])
def test_a_compiler_that_somebody_kills_is_no_verdict_on_the_point(text: str, again: bool, tmp_path: Path) -> None:
    fake = faked(tmp_path)
    with pytest.raises(TrialError) as caught:
        compiled_by(fake, text, tmp_path)
    assert caught.value.again is again
    fake.close()


def test_a_process_that_was_killed_meanwhile_costs_no_trial(tmp_path: Path) -> None:
    fake = faked(tmp_path)
    before = compiled_by(fake, "good", tmp_path)
    victim = psutil.Process(int(before))
    victim.kill()
    victim.wait(TIMEOUT_S)
    time.sleep(0.2)  # its keeper, who has reaped it, says so next
    assert compiled_by(fake, "good", tmp_path) != before
    fake.close()


def test_a_crash_of_a_fork_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.cu").write_text(TINY, encoding="utf-8")

    class Crashing:
        def nvrtcCreateProgram(self, *_: object) -> object:  # noqa: N802
            os.kill(os.getpid(), signal.SIGKILL)
            return None

    told = answer_apart(Crashing(), {"source": str(tmp_path / "x.cu"), "options": [], "output": "", "timeout_s": 5})
    assert told["built"] is False
    assert "SIGKILL" in told["log"]


@pytest.mark.extra
@NVRTC
def test_the_process_ends_with_its_stdin(tmp_path: Path) -> None:
    done = subprocess.run(Nvrtc().command, input="", capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"ready"' in done.stdout


@pytest.mark.extra
@NVRTC
@NVCC
def test_found_compilers_know_their_architectures() -> None:
    found = found_toolchains()
    assert list(found) == ["nvrtc", "nvcc"]
    for compiler in found.values():
        assert {"sm_75", "sm_80", "sm_90", "sm_120"} <= set(compiler.archs)
        assert compiler.version.split(".")[0].isdigit()


def test_what_is_missing_is_told_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("optimizer.targets.cuda.compile.wheel_program", lambda name: None)
    monkeypatch.setattr("optimizer.targets.cuda.compile._installed", lambda module: False)
    for found in (Nvcc.found, Nvrtc.found):
        with pytest.raises(ConfigError, match=r"pip install 'inference-optimizer\[cuda\]'"):
            found()
    assert found_toolchains() == {}


def test_a_broken_nvcc_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "nvcc"
    broken.write_text("#!/bin/sh\necho no such thing\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    with pytest.raises(ConfigError, match="no such thing"):
        Nvcc.found(str(broken))


def test_a_broken_nvrtc_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = faked(tmp_path, 'print(\'{"error": {"reason": "rejected", "message": "libnvrtc is not there"}}\')')
    monkeypatch.setattr("optimizer.targets.cuda.compile._installed", lambda module: True)
    with pytest.raises(ConfigError, match="libnvrtc is not there"):
        Nvrtc.found(fake.command)


def test_phases_of_both_tables() -> None:
    nvrtc = "File name, phase name, metric, unit\nx.cu, CUDA C++ Frontend, 9, ms\nx.cu, NVVM Optimizer, 62, ms\n" + (
        "x.cu, PTX Translation, 79, ms\n"
    )
    assert phases(nvrtc) == {"compile_frontend_s": pytest.approx(0.071), "compile_ptxas_s": pytest.approx(0.079)}
    nvcc = (
        "source file name , phase name , phase input files , phase output file , arch , tool, metric , unit\n"
        "x.cu , gcc (preprocessing 1) , x.cu  , /tmp/a.ii , compute_90 , nvcc , 51.1350 , ms\n"
        "x.cu , cicc , /tmp/a.ii  , /tmp/a.ptx , compute_90 , nvcc , 193.2700 , ms\n"
        "x.cu , ptxas , /tmp/a.ptx  , x.cubin , sm_90 , nvcc , 78.5950 , ms\n"
        " , nvcc (driver) ,  , x.cubin ,  , nvcc , 0.2250 , ms\n"
    )
    assert phases(nvcc) == {"compile_frontend_s": pytest.approx(0.244405), "compile_ptxas_s": pytest.approx(0.078595)}
    assert phases("nothing of the kind") == {}
