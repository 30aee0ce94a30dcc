"""What is shipped: files that a compiler really reads, and that tell where they come from."""

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simple import LATENCY, knob, measured, recipe_of

from optimizer.errors import ConfigError
from optimizer.export.shipment import Shipment
from optimizer.export.table import EXPORTERS, chosen, exported
from optimizer.export.words import flag_words, macros
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


def shipped(study: Study, number: int = 1, to: Sequence[str] = (), **more: Any) -> dict[str, bytes]:
    shipment = Shipment(study, study.trials[number], **more)
    return exported(chosen(to, shipment), shipment)


def test_the_compiler_reads_the_response_file_as_it_was_searched(study: Study, tmp_path: Path) -> None:
    """Spaces, quotes and backslashes in a value reach the program as they were."""
    (tmp_path / "flags.rsp").write_bytes(shipped(study)["flags.rsp"])
    (tmp_path / "x.cpp").write_text(
        "#define S(x) #x\n#define T(x) S(x)\nconst char* text = T(TEXT); int v = __OPTIMIZE__;\n"
    )
    command = ["g++", "@flags.rsp", "-E", "-P", "x.cpp"]
    exported_flags = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    words = flag_words(SPACE, BEST, ["-std=c++17"])
    searched = subprocess.run(
        ["g++", *words, "-E", "-P", "x.cpp"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert exported_flags == searched.stdout
    assert "int v = 1" in exported_flags


def test_the_header_gives_a_kernel_the_macros(study: Study, tmp_path: Path) -> None:
    files = shipped(study)
    (tmp_path / "config.h").write_bytes(files["config.h"])
    (tmp_path / "x.cpp").write_text("static_assert(TILE == 16);\n")
    subprocess.run(["g++", "-std=c++17", "-include", "config.h", "-c", "x.cpp"], cwd=tmp_path, check=True)
    assert macros(SPACE, BEST) == {"TILE": "16"}


def test_the_provenance_holds_what_proves_it(study: Study) -> None:
    program = b"\x7fELF"
    document = json.loads(shipped(study, built={"program": program})["provenance.json"])
    assert document["recipe_key"] == study.recipe.key
    assert document["point"] == dict(BEST)
    assert document["confirmed"] is True
    assert document["metrics"]["latency_s"] == 1.0
    assert document["baseline_metrics"]["latency_s"] == 2.0
    assert document["verdict"]["judgement"] == "better"
    assert document["environment"]["device"] == "here"
    assert document["files"]["program"] == hashlib.sha256(program).hexdigest()


def test_a_trial_that_was_not_proved_says_so(study: Study) -> None:
    document = json.loads(shipped(study, 0)["provenance.json"])
    assert document["confirmed"] is False
    assert document["promise"]["ratio"] is None


def test_the_override_file_is_a_configuration(study: Study) -> None:
    text = shipped(study, settings={"seed": 3})["experiment/winner.yaml"].decode()
    import yaml

    tree = yaml.safe_load(text)
    assert {"override /target": "gemm_cpu"} in tree["defaults"]
    assert {"override /space": ["gemm"]} in tree["defaults"]
    assert tree["known_good"] == [dict(BEST)]
    assert tree["budget"]["trials"] == 2
    assert tree["seed"] == 3


def test_files_are_the_same_each_time(study: Study) -> None:
    once, again = (shipped(study, built={"program": b"x"}) for _ in range(2))
    assert once == again


def test_only_what_there_is_is_shipped(study: Study) -> None:
    bare = replace(study.recipe, space=Space((knob("batch", Choice((1, 2), ordered=True)),)), target=Part("x"))
    files = shipped(Study("s", bare, Environment("here"), trials=study.trials))
    assert set(files) == {"winner.json", "provenance.json"}


def test_one_kind_alone_brings_its_provenance(study: Study) -> None:
    files = shipped(study, to=["header"])
    assert set(files) == {"config.h", "provenance.json"}
    document = json.loads(files["provenance.json"])
    assert document["files"] == {"config.h": hashlib.sha256(files["config.h"]).hexdigest()}
    assert document["formats"] == ["header"]


def test_a_kind_that_does_not_fit_is_refused_with_what_fits(study: Study) -> None:
    with pytest.raises(ConfigError, match=r"program does not fit: .*flags, header, cmake, hydra, json"):
        shipped(study, to=["program"])


def test_a_kind_that_there_is_not_is_told_with_the_nearest(study: Study) -> None:
    with pytest.raises(ConfigError, match="'header'"):
        shipped(study, to=["headr"])


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_kind_says_what_it_writes(name: str) -> None:
    assert ": " in EXPORTERS[name].text
