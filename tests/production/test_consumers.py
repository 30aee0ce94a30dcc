"""What do programs read in exported files? The winner; something else is told, and so is a program that is not here."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from exports import setup_at, ship, study_of
from simple import LATENCY, measured, recipe_of

from optimizer.export.exported import exported_in
from optimizer.export.shipment import Shipment
from optimizer.export.table import EXPORTERS, chosen, exported
from optimizer.journal import Study
from optimizer.production.consumers import READERS, Read, read_all
from optimizer.recipe import Environment, Part
from optimizer.space import Choice, Effect, Knob, Point, Space

SMALL = ("target=gemm_cpu", "space=[gxx,gemm]", "measure=quick")
PARAMETERS = "num_ctx 4096\nnum_batch 1024"


def test_every_kind_of_export_is_read() -> None:
    assert READERS.keys() == EXPORTERS.keys()


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    study = study_of(setup_at(folder / "studies", *SMALL), {"march": "native", "MICRO_N": 32, "threads": 1})
    ship(study, folder / "export", ["flags", "header", "cmake", "env", "hydra", "json"])
    return folder / "export"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model behind Ollama; the study is made by hand."""
    options = {"num_ctx": (2048, 4096), "num_batch": (512, 1024)}
    space = Space(tuple(Knob(n, Choice(v), Effect("option", n), v[0]) for n, v in options.items()))
    points = [Point({n: v[i] for n, v in options.items()}) for i in (0, 1)]
    recipe = replace(recipe_of(space, goal=LATENCY, start=[points[0]]), target=Part("fake", {}))
    trials = tuple(measured(i, p, latency_s=2.0 - i) for i, p in enumerate(points))
    shipment = Shipment(Study("s", recipe, Environment("here"), trials), trials[1], {"kind": "ollama", "model": "tiny"})
    folder = tmp_path_factory.mktemp("served")
    for path, content in exported(chosen(["modelfile", "llama-server", "vllm"], shipment), shipment).items():
        (folder / path).write_bytes(content)
    return folder


def read(place: Path, folder: Path) -> dict[str, Read]:
    return dict(read_all(exported_in(place), folder / "read"))


@pytest.mark.extra
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_a_true_export_is_read_as_the_winner(native: Path, tmp_path: Path) -> None:
    found = read(native, tmp_path)
    assert list(found) == ["flags", "header", "cmake", "env", "hydra", "json"]
    assert all(r.how and not r.broken and not r.unchecked for r in found.values()), found
    assert "compiled" in found["cmake"].how
    assert "compiled with it" in found["flags"].how


@pytest.mark.parametrize(
    ("kind", "file", "old", "new"),
    [
        ("flags", "flags.rsp", "-march=native", "-march=x86-64"),
        ("header", "config.h", "MICRO_N 32", "MICRO_N 8"),
        ("env", "winner.env", "OMP_NUM_THREADS=1", "OMP_NUM_THREADS=2"),
        ("env", "winner.env", "OMP_NUM_THREADS=1", "OMP NUM THREADS=1"),
        ("hydra", "experiment/winner.yaml", '"MICRO_N": 32', '"MICRO_N": 8'),
        ("json", "winner.json", '"MICRO_N": 32', '"MICRO_N": 8'),
    ],
)
def test_what_reads_otherwise_is_told_though_its_hash_fits(
    kind: str, file: str, old: str, new: str, native: Path, tmp_path: Path
) -> None:
    place = forged(native, tmp_path, file, old, new)
    assert exported_in(place).edited() == []
    found = read_all(replace(exported_in(place), document=only(place, kind)), tmp_path / "read")
    assert file in found[kind].broken[0]


@pytest.mark.extra
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.parametrize(
    ("old", "new", "said"), [("@${", "-O1;-I${", "does not pass"), ("add_library(", "x(", "can't")]
)
def test_a_cmake_file_that_does_not_work_is_told(old: str, new: str, said: str, native: Path, tmp_path: Path) -> None:
    place = forged(native, tmp_path, "winner.cmake", old, new)
    (line,) = read_all(replace(exported_in(place), document=only(place, "cmake")), tmp_path / "read")["cmake"].broken
    assert said in line


def test_without_the_program_it_says_what_is_not_checked(
    native: Path, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.production.consumers.shutil.which", lambda name: None)
    compiled = replace(exported_in(native), document=only(native, "cmake"))
    found = {**read(served, tmp_path), **read_all(compiled, tmp_path)}
    assert list(found) == ["modelfile", "llama-server", "vllm", "cmake"]
    assert all("not installed" in r.unchecked and not r.broken for r in found.values()), found
    assert "the ratio is that of target=ollama" in found["vllm"].unchecked


def test_servers_are_asked_for_their_options(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(
        tmp_path, monkeypatch, llama="-c, --ctx-size N\n-b, --batch-size N", vllm="  --max-model-len N", show=PARAMETERS
    )
    found = read(served, tmp_path)
    assert all(not r.broken for r in found.values()), found
    assert "here has these options" in found["llama-server"].how
    assert "here has these options" in found["vllm"].how
    assert "Ollama reads them so" in found["modelfile"].how
    assert not found["modelfile"].unchecked
    said = (tmp_path / "ollama.said").read_text().splitlines()
    assert [line.split()[0] for line in said] == ["create", "show", "rm"]
    assert len({line.split()[1] for line in said}) == 1, "the model that is removed is the one that was made"


def test_a_server_of_another_version_breaks_the_promise(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, llama="--ctx-size N", vllm="--model-length N", show="num_ctx 2048")
    found = read(served, tmp_path)
    assert found["llama-server"].broken == ("llama-server here has no --batch-size",)
    assert found["vllm"].broken == ("vllm here has no max-model-len",)
    assert "'num_batch': None" in found["modelfile"].broken[0]


def test_a_server_that_can_not_be_asked_is_unchecked(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, llama="", vllm="", show="", status=3)
    found = read(served, tmp_path)
    assert all("failed" in r.unchecked and not r.broken for r in found.values()), found


def programs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, llama: str, vllm: str, show: str, status: int = 0
) -> None:
    """Stand-ins that answer as the three programs document it, before all else on the PATH."""
    place = folder / "bin"
    place.mkdir()
    said = folder / "ollama.said"
    for name, text in (("llama-server", llama), ("vllm", vllm), ("ollama", show)):
        log = f'echo "$@" >> {said}\n[ "$1" = show ] || exit {status}\n' if name == "ollama" else ""
        (place / name).write_text(f"#!/bin/sh\n{log}cat <<'EOF'\n{text}\nEOF\nexit {status}\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")


def forged(export: Path, folder: Path, file: str, old: str, new: str) -> Path:
    """A copy in which a file was changed and its hash with it."""
    place = folder / "forged"
    shutil.copytree(export, place)
    text = (place / file).read_text()
    assert old in text
    (place / file).write_text(text.replace(old, new))
    document = json.loads((place / "provenance.json").read_text())
    document["files"][file] = hashlib.sha256((place / file).read_bytes()).hexdigest()
    (place / "provenance.json").write_text(json.dumps(document))
    return place


def only(export: Path, kind: str) -> dict[str, object]:
    return {**json.loads((export / "provenance.json").read_text()), "formats": [kind]}
