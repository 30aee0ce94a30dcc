"""Exported files are read by the programs that they are for: g++, nvcc, CMake, a shell, xargs, this program's Hydra."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from exports import setup_at, ship, study_of
from simple import LATENCY, measured, recipe_of

from optimizer.config import load
from optimizer.export.env import variables
from optimizer.export.serving import OPTIONS
from optimizer.export.shipment import Shipment
from optimizer.export.table import chosen, exported
from optimizer.journal import Study
from optimizer.recipe import Environment, Part
from optimizer.space import Choice, Effect, Knob, Point, Space

FIXTURE = json.loads((Path(__file__).parents[1] / "data/serving/options.json").read_text())
SOURCE = """
#include <cstdio>
#define S(x) #x
#define T(x) S(x)
int main() {
#ifdef _OPENMP
  std::printf("%d %s %d", TILE, T(NAME), __OPTIMIZE__);
#endif
}
"""


def knob(name: str, effect: Effect, *values: Any) -> Knob:
    return Knob(name, Choice(values), effect, values[0])


def study_with(knobs: tuple[Knob, ...], flags: list[str] | None = None) -> Study:
    """Of two trials: the knobs' first values, then their last."""
    space = Space(knobs)
    points = [Point({k.name: k.domain.at(i * (k.domain.size - 1)) for k in knobs}) for i in (0, 1)]  # type: ignore[union-attr,operator]
    options = {"flags": flags} if flags is not None else {}
    recipe = replace(recipe_of(space, goal=LATENCY, start=[points[0]]), target=Part("fake", options))
    trials = tuple(measured(i, p, latency_s=2.0 - i) for i, p in enumerate(points))
    return Study("s", recipe, Environment("here"), trials)


COMPILED = study_with(
    (
        knob("opt", Effect("flag", template=("-O{value}",)), 0, 2),
        knob("text", Effect("flag", template=("-DNAME={value}",)), "plain", "a b;c$d"),
        knob("TILE", Effect("macro", "TILE"), 8, 16),
        knob("threads", Effect("option", "threads"), 1, 3),
        knob("bind", Effect("env", "OMP_PROC_BIND", ("{value}",)), "close", "spread"),
    ),
    ["-std=c++17", "-fopenmp"],
)
SERVED = study_with(
    (
        knob("num_ctx", Effect("setting", "num_ctx"), 2048, 4096),
        knob("n_ubatch", Effect("setting", "n_ubatch"), 512, 256),
        knob("num_batch", Effect("setting", "num_batch"), 512, 1024),
        knob("flash_attention", Effect("setting", "flash_attention"), False, True),
        knob("kv_cache_type", Effect("setting", "kv_cache_type"), "f16", "q8_0"),
        knob("quantize", Effect("setting", "quantize"), "none", "q4_0"),
        knob("num_parallel", Effect("setting", "num_parallel"), 1, 4),
    )
)


def shipment(study: Study, **target: Any) -> Shipment:
    return Shipment(study, study.trials[1], target)


def written(folder: Path, ship_: Shipment, *to: str) -> dict[str, bytes]:
    files = exported(chosen(to, ship_), ship_)
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return files


def said(command: list[str], cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_gxx_reads_flags_and_header_together(tmp_path: Path) -> None:
    written(tmp_path, shipment(COMPILED), "flags", "header")
    (tmp_path / "x.cpp").write_text(SOURCE)
    said(["g++", "@flags.rsp", "-include", "config.h", "x.cpp", "-o", "x"], tmp_path)
    assert said(["./x"], tmp_path) == "16 a b;c$d 1"


@pytest.mark.extra
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH")
def test_nvcc_reads_the_flags_as_a_file_of_options(tmp_path: Path) -> None:
    flags = (
        knob("fast", Effect("flag", table=((True, ("--use_fast_math",)),)), False, True),
        knob("regs", Effect("flag", template=("--maxrregcount={value}",)), 32, 64),
        knob("text", Effect("flag", template=("-DTEXT={value}",)), "1", "3+4"),
        knob("TILE", Effect("macro", "TILE"), 8, 16),
    )
    written(tmp_path, shipment(study_with(flags, []), kind="cuda"), "flags", "header")
    (tmp_path / "x.cu").write_text(
        "static_assert(TILE == 16 && TEXT == 7);\n__global__ void f(float* x) { *x = sinf(*x); }"
    )
    command = ["nvcc", "--options-file", "flags.rsp", "-include", "config.h", "-arch=sm_80"]
    said([*command, "-ptx", "x.cu", "-o", "x.ptx"], tmp_path)
    assert "sin.approx" in (tmp_path / "x.ptx").read_text(), "fast mathematics arrived"
    dry = subprocess.run(
        [*command, "--dryrun", "-cubin", "x.cu"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "maxrregcount 64" in dry.stderr.replace("=", " ")


@pytest.mark.extra
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.parametrize("preset", [True, False], ids=["preset", "release"])
def test_a_cmake_project_is_compiled_as_the_winner(preset: bool, tmp_path: Path) -> None:
    written(tmp_path, shipment(COMPILED), "cmake")
    (tmp_path / "x.cpp").write_text(SOURCE)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(x CXX)\ninclude(winner.cmake)\nadd_executable(x x.cpp)\n"
        "target_link_libraries(x PRIVATE optimizer::winner)\n"
    )
    build = "build-winner" if preset else "b"
    how = ["--preset", "winner"] if preset else ["-B", build, "-DCMAKE_BUILD_TYPE=Debug"]
    said(["cmake", *how], tmp_path)
    said(["cmake", "--build", build], tmp_path)
    assert said([f"{build}/x"], tmp_path) == "16 a b;c$d 1"


def test_a_shell_sources_the_variables(tmp_path: Path) -> None:
    written(tmp_path, shipment(COMPILED), "env")
    told = said(["sh", "-c", "set -a; . ./winner.env; env"], tmp_path).splitlines()
    assert {"OMP_NUM_THREADS=3", "OMP_PROC_BIND=spread"} <= set(told)


def test_a_value_that_shells_and_docker_quote_differently_is_left_out() -> None:
    odd = study_with((knob("v", Effect("env", "WORDS", ("{value}",)), "a", "$(rm -rf x) 'q'"),))
    assert variables(shipment(odd)) == {}


def test_hydra_composes_the_experiment_to_the_winner(tmp_path: Path) -> None:
    setup = setup_at(tmp_path / "studies", "target=synthetic", "seed=4")
    study = study_of(setup, {"batch": 8})
    ship(study, tmp_path / "export", ["hydra"])
    from exports import DAY

    found = load(["experiment=winner", "tracking=none", f"studies_dir={tmp_path}"], [tmp_path / "export"], DAY)
    assert found.recipe.start == (study.trials[0].point, study.trials[1].point)
    assert found.budget.trials == 2


# --- servers of language models: held to what they document


def test_every_option_of_the_table_is_documented() -> None:
    for server in ("modelfile", "llama_server", "vllm"):
        named = {served.name for option in OPTIONS if (served := getattr(option, server))}
        assert named <= set(FIXTURE[server]["options"]), server


def test_ollama_is_told_what_a_modelfile_can_say(tmp_path: Path) -> None:
    files = written(tmp_path, shipment(SERVED, kind="ollama", model="gemma3:270m"), "modelfile", "env")
    lines = [x for x in files["Modelfile"].decode().splitlines() if not x.startswith("#")]
    assert lines == ["FROM gemma3:270m", "PARAMETER num_ctx 4096", "PARAMETER num_batch 1024"]
    for line in lines[1:]:
        assert line.split()[1] in FIXTURE["modelfile"]["options"]
    env = said(["sh", "-c", "set -a; . ./winner.env; env"], tmp_path)
    assert "OLLAMA_KV_CACHE_TYPE=q8_0" in env
    assert "OLLAMA_FLASH_ATTENTION=1" in env
    assert "n_ubatch" in files["Modelfile"].decode(), "what it has no option for is named"


def test_llama_server_gets_its_arguments_through_xargs(tmp_path: Path) -> None:
    written(tmp_path, shipment(SERVED, kind="llamacpp", model="my models/a 'b'.gguf"), "llama-server")
    words = said(["xargs", "-a", "llama-server.args", "printf", "%s\\n"], tmp_path).splitlines()
    assert words[:2] == ["--model", "my models/a 'b'.gguf"]
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    assert pairs["--ctx-size"] == "4096"
    assert pairs["--flash-attn"] == "on"
    assert pairs["--cache-type-k"] == pairs["--cache-type-v"] == "q8_0"
    assert set(pairs) <= set(FIXTURE["llama_server"]["options"])
    for name, values in FIXTURE["llama_server"]["values"].items():
        assert pairs.get(name, values[0]) in values


def test_vllm_reads_a_configuration_of_documented_arguments(tmp_path: Path) -> None:
    files = written(tmp_path, shipment(SERVED, kind="llamacpp", model="google/gemma-3-270m"), "vllm")
    told = yaml.safe_load(files["vllm.yaml"])
    assert told == {"model": "google/gemma-3-270m", "max-model-len": 4096, "max-num-seqs": 4}
    assert set(told) <= set(FIXTURE["vllm"]["options"])


@pytest.mark.parametrize("name", ["modelfile", "llama-server", "vllm"])
def test_a_program_is_behind_no_server(name: str) -> None:
    from optimizer.errors import ConfigError

    with pytest.raises(ConfigError, match="not of a language model"):
        chosen([name], shipment(COMPILED, kind="native"))
