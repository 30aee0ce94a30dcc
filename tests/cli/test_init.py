"""What init writes works at once, for each kind, from what a user says or is asked; it never overwrites."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from commands import command, error, search_json

PLAIN = ("tracking=none", "measure=quick", "measure.confirm.max_seconds=1", "budget.trials=3")
GXX = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
MAIN = '#include <cstdio>\nint main() { std::puts("{\\"speed\\": 12.5}"); }\n'


def searched(folder: Path, *words: str, config: str = "own", name: str = "mine") -> Mapping[str, Any]:
    return search_json("--config-dir", config, f"target={name}", *PLAIN, *words, cwd=folder)


def target(folder: Path, name: str = "mine") -> Mapping[str, Any]:
    """The target's node as the program reads it."""
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(OmegaConf.load(folder / "target" / f"{name}.yaml"), resolve=False)
    assert isinstance(tree, dict)
    return {str(k): v for k, v in tree["target"].items()}


@GXX
def test_a_sample_of_a_program_is_searched_at_once(tmp_path: Path) -> None:
    said = command("init", "own", "--kind", "command", cwd=tmp_path).stdout
    assert "search --config-dir own target=mine" in said
    found = searched(tmp_path)
    assert found["trials"] == 3
    texts = json.loads(command("targets", "--config-dir", "own", "--json", cwd=tmp_path).stdout)
    assert texts["mine"] == "a program to begin with"


@GXX
def test_a_program_of_ones_own_is_built_as_it_is_typed(tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(MAIN)
    (tmp_path / "Makefile").write_text("prog: main.cpp\n\t$(CXX) $(CXXFLAGS) main.cpp -o prog\n")
    words = ["--kind", "command", "--build", "make prog", "--run", "./prog", "--metric", "throughput_ips"]
    command("init", "own", *words, "--measure", "json:speed", cwd=tmp_path)
    assert target(tmp_path / "own")["build"] == ["make", "prog", "CFLAGS={flags}", "CXXFLAGS={flags}"]
    assert searched(tmp_path)["trials"] == 3
    assert not (tmp_path / "prog").exists()  # each build has a copy of the sources


@GXX
def test_a_sample_of_a_kernel_is_searched_at_once(tmp_path: Path) -> None:
    command("init", "own", "--kind", "kernel", "--name", "dot", cwd=tmp_path)
    assert searched(tmp_path, name="dot")["trials"] == 3


def test_a_sample_of_a_model_is_searched_at_once(tmp_path: Path) -> None:
    command("init", "own", "--kind", "torch", "--name", "net", cwd=tmp_path)
    assert searched(tmp_path, "target.cache=cache", name="net")["trials"] == 3


def test_a_program_that_is_only_run_has_knobs_of_its_run(tmp_path: Path) -> None:
    command("init", ".", "--kind", "command", "--run", "sleep 0.01", cwd=tmp_path)
    assert "OMP_NUM_THREADS" in (tmp_path / "space" / "mine.yaml").read_text()
    assert searched(tmp_path, config=".")["trials"] == 3


def test_files_of_ones_own_are_named_from_the_folder(tmp_path: Path) -> None:
    command("init", "tuning/deep", "--kind", "kernel", "--build", "src/k.cpp", cwd=tmp_path)
    assert target(tmp_path / "tuning/deep")["source"] == "../../src/k.cpp"
    command("init", "models", "--kind", "torch", "--build", "pack.age:make", cwd=tmp_path)
    assert target(tmp_path / "models")["options"]["model"] == "pack.age:make"


@pytest.mark.parametrize(
    ("build", "first"),
    [
        ("g++ a.cpp -o {out}/a", ["g++", "{flags}", "a.cpp", "-o", "{out}/a"]),
        ("cmake -S . -B {out} && cmake --build {out}", ["cmake", "-S", ".", "-B", "{out}", "-DCMAKE_C_FLAGS={flags}"]),
        ("ninja", ["ninja"]),
        ("g++ '{flags}' -g a.cpp", ["g++", "{flags}", "-g", "a.cpp"]),
    ],
)
def test_flags_go_where_the_command_takes_them(build: str, first: list[str], tmp_path: Path) -> None:
    command("init", "--kind", "command", "--build", build, "--run", "./a", cwd=tmp_path)
    found = target(tmp_path)
    step = found["build"][0] if isinstance(found["build"][0], list) else found["build"]
    assert step[: len(first)] == first
    flags = {"CFLAGS": "{flags}", "CXXFLAGS": "{flags}"}
    assert found["build_environment"] == (flags if build == "ninja" else {})


def test_it_never_overwrites_without_being_told_to(tmp_path: Path) -> None:
    command("init", "--kind", "kernel", cwd=tmp_path)
    (tmp_path / "kernel.cpp").write_text("mine")
    said = error("init", "--kind", "kernel", cwd=tmp_path)
    assert "is there already" in said
    assert "--force" in said
    assert "kernel.cpp is there already" in error("init", "--kind", "kernel", "--name", "other", cwd=tmp_path)
    assert (tmp_path / "kernel.cpp").read_text() == "mine"
    command("init", "--kind", "kernel", "--force", cwd=tmp_path)
    assert "harness.h" in (tmp_path / "kernel.cpp").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Say what it is: --kind command"),
        (["--kind", "comand"], "Did you mean 'command'?"),
        (["--kind", "command", "--build", "make"], "--run is missing"),
        (["--kind", "command", "--run", "a | b"], "only a shell knows"),
        (["--kind", "command", "--run", "a 'b"], "No closing quotation"),
        (["--kind", "command", "--run", "a", "--metric", "tokens_per_s"], "say where the program prints it"),
        (["--kind", "command", "--run", "a", "--measure", "xml:x"], "write wall, json:PATH or regex:PATTERN"),
        (["--kind", "torch", "--build", "net.py"], "FILE.py:FUNCTION"),
        (["--kind", "kernel", "--name", "a-b"], "write letters, digits and _"),
    ],
)
def test_what_it_can_not_write_down_is_told(words: list[str], said: str, tmp_path: Path) -> None:
    assert said in error("init", *words, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_three_questions_are_asked_on_a_terminal(tmp_path: Path) -> None:
    import os
    import pty
    import subprocess

    from commands import PROGRAM, environment

    main, other = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "init"], cwd=tmp_path, env=environment(), stdin=other, stdout=other, stderr=other
    )
    os.write(main, b"command\ngcc a.c -o {out}/a\n{out}/a\nlatency_s\n")
    assert process.wait(timeout=60) == 0
    os.close(other)
    os.close(main)
    assert target(tmp_path)["build"] == ["gcc", "{flags}", "a.c", "-o", "{out}/a"]
