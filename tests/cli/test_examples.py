"""The worked examples of docs/examples, searched for real with a few trials, and an interrupt in a program's run."""

import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import command, lines, search_json, started
from own_program import write

from optimizer.config.programs import found_program
from optimizer.errors import ConfigError
from optimizer.journal import read
from optimizer.trial import Measured, Trial, metrics_of, samples_of

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PLAIN = ("tracking=none", "measure=quick", "measure.confirm.max_seconds=1", "budget.trials=3", "study=s")


def needs(*programs: str) -> pytest.MarkDecorator:
    def absent(name: str) -> bool:
        try:
            found_program(name, [])
        except ConfigError:
            return True
        return False

    missing = [p for p in programs if absent(p)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def searched(example: str, target: str, folder: Path, *words: str) -> Sequence[Trial]:
    """The trials of a short search."""
    copy = folder / "example with a space"
    shutil.copytree(EXAMPLES / example, copy)
    found = search_json("--config-dir", str(copy), f"target={target}", *PLAIN, *words, cwd=folder)
    assert found["trials"] == 3
    assert sorted(p.name for p in (copy / "source").iterdir()) == sorted(
        p.name for p in (EXAMPLES / example / "source").iterdir()
    )  # nothing is built in the sources
    return read(folder / "studies" / "s" / "journal.jsonl").trials


@pytest.mark.extra
@needs("cmake", "g++", "make")
def test_the_cmake_project_is_searched_and_its_export_says_how_it_is_built(tmp_path: Path) -> None:
    trials = searched("cmake", "softmax", tmp_path)
    assert all(isinstance(t.outcome, Measured) for t in trials)
    assert len(samples_of(trials[0])["latency_s"]) >= 10
    command("export", "s", "--force", "--out", "shipped", cwd=tmp_path)
    provenance = (tmp_path / "shipped" / "provenance.json").read_text()
    assert "-DCMAKE_CXX_FLAGS_RELEASE=" in provenance
    assert "{out}/softmax" in provenance


@pytest.mark.extra
@needs("nvcc", "g++")
def test_the_cuda_file_is_compiled_and_what_nvcc_tells_is_read(tmp_path: Path) -> None:
    trials = searched("cuda", "reduce_compiled", tmp_path)
    facts = metrics_of(trials[0])
    assert facts["registers"] > 8
    assert facts["spill_bytes"] == 0
    assert facts["shared_bytes"] == 256 * 4
    assert 1000 < facts["binary_bytes"] < 100_000


@pytest.mark.extra
@needs("cargo", "rustc")
def test_the_rust_program_is_searched_without_the_network(tmp_path: Path) -> None:
    trials = searched("rust", "histogram", tmp_path, "space.lto=choice('off')")
    assert all(isinstance(t.outcome, Measured) for t in trials)


def test_an_interrupt_in_a_run_ends_the_program_and_keeps_what_was_recorded(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    script = f'echo $$ > {marks}/$$; test "$0" = a || sleep 600'
    target = {"run": ["sh", "-c", script, "{mode}"]}
    write(tmp_path / "own", target, {"mode": {"domain": "choice(a, b)", "setting": "mode", "default": "a"}})
    process = started("search", "--config-dir", "own", "target=mine", "tracking=none", "study=s", cwd=tmp_path)

    def hanging() -> list[int]:
        begun = len(lines(tmp_path / "studies/s/journal.jsonl")) > 1  # the header, then trial 0
        pids = [int(p.name) for p in marks.iterdir()] if begun else []
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    deadline = time.monotonic() + 60
    while not (caught := hanging()) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert caught
    for pid in caught:
        assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "(sh)" in Path(f"/proc/{pid}/stat").read_text()
