"""What is shipped: files that a compiler really reads, and that tell where they come from."""

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from simple import LATENCY, knob, measured, recipe_of

from optimizer.export.files import flag_words, macros, rendered, response_file
from optimizer.journal import Settings, Study
from optimizer.protocols import Ending
from optimizer.recipe import Environment, Part
from optimizer.space import Choice, Effect, Knob, Point, Space
from optimizer.stats import Judgement, Verdict

SPACE = Space(
    (
        Knob("opt", Choice((2, 3), ordered=True), Effect("flag", template=("-O{value}",)), 2),
        Knob("define", Choice(("plain", 'a "b" c\\d')), Effect("flag", template=("-DTEXT={value}",)), "plain"),
        Knob("TILE", Choice((8, 16), ordered=True), Effect("macro", "TILE"), 8),
        knob("batch", Choice((1, 2), ordered=True)),
    )
)
BASE = Point({"opt": 2, "define": "plain", "TILE": 8, "batch": 1})
BEST = Point({"opt": 3, "define": 'a "b" c\\d', "TILE": 16, "batch": 2})


@pytest.fixture
def study() -> Study:
    recipe = recipe_of(SPACE, goal=LATENCY, start=[BASE])
    recipe = replace(recipe, target=Part("fake", {"flags": ["-std=c++17"]}))
    trials = (measured(0, BASE, latency_s=2.0), measured(1, BEST, latency_s=1.0))
    verdict = Verdict("latency_s", 2.0, 1.9, 2.1, Judgement.BETTER, 1, 10)
    settings = Settings(("target=fake",), {"target": "gemm_cpu", "objective": "latency", "strategy": "tpe"}, ("gemm",))
    return Study("s", recipe, Environment("here"), trials=trials, ending=Ending(verdict), settings=settings)


def test_the_compiler_reads_the_response_file_as_it_was_searched(study: Study, tmp_path: Path) -> None:
    """Spaces, quotes and backslashes in a value reach the program as they were."""
    (tmp_path / "flags.rsp").write_bytes(response_file(study, study.trials[1]))
    (tmp_path / "x.cpp").write_text(
        "#define S(x) #x\n#define T(x) S(x)\nconst char* text = T(TEXT); int v = __OPTIMIZE__;\n"
    )
    command = ["g++", "@flags.rsp", "-E", "-P", "x.cpp"]
    shipped = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    words = flag_words(SPACE, study.trials[1], ["-std=c++17"])
    searched = subprocess.run(
        ["g++", *words, "-E", "-P", "x.cpp"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert shipped == searched.stdout
    assert "int v = 1" in shipped


def test_the_header_gives_a_kernel_the_macros(study: Study, tmp_path: Path) -> None:
    files = rendered(study, study.trials[1], None, {})
    (tmp_path / "config.h").write_bytes(files["config.h"])
    (tmp_path / "x.cpp").write_text("static_assert(TILE == 16);\n")
    subprocess.run(["g++", "-std=c++17", "-include", "config.h", "-c", "x.cpp"], cwd=tmp_path, check=True)
    assert macros(SPACE, study.trials[1]) == {"TILE": "16"}


def test_the_provenance_holds_what_proves_it(study: Study) -> None:
    program = b"\x7fELF"
    document = json.loads(rendered(study, study.trials[1], program, {})["provenance.json"])
    assert document["recipe_key"] == study.recipe.key
    assert document["point"] == dict(BEST)
    assert document["confirmed"] is True
    assert document["metrics"]["latency_s"] == 1.0
    assert document["baseline_metrics"]["latency_s"] == 2.0
    assert document["verdict"]["judgement"] == "better"
    assert document["environment"]["device"] == "here"
    assert document["program_sha256"] == hashlib.sha256(program).hexdigest()


def test_a_trial_that_was_not_proved_says_so(study: Study) -> None:
    document = json.loads(rendered(study, study.trials[0], None, {})["provenance.json"])
    assert document["confirmed"] is False
    assert document["program_sha256"] is None


def test_the_override_file_is_a_configuration(study: Study) -> None:
    text = rendered(study, study.trials[1], None, {"seed": 3})["experiment/winner.yaml"].decode()
    import yaml

    tree = yaml.safe_load(text)
    assert {"override /target": "gemm_cpu"} in tree["defaults"]
    assert {"override /space": ["gemm"]} in tree["defaults"]
    assert tree["known_good"] == [dict(BEST)]
    assert tree["budget"]["trials"] == 2
    assert tree["seed"] == 3


def test_files_are_the_same_each_time(study: Study) -> None:
    assert rendered(study, study.trials[1], b"x", {}) == rendered(study, study.trials[1], b"x", {})


def test_only_what_there_is_is_shipped(study: Study) -> None:
    bare = replace(study.recipe, space=Space((knob("batch", Choice((1, 2), ordered=True)),)), target=Part("x"))
    files = rendered(Study("s", bare, Environment("here"), trials=study.trials), study.trials[1], None, {})
    assert set(files) == {"experiment/winner.yaml", "provenance.json"}
