"""Two searches with the same words: the second builds nothing, and tells what it was spared."""

import json
from pathlib import Path

import pytest
from commands import command

from optimizer.config.native import found_compilers
from optimizer.journal import Study, read

WORDS = (
    "search", "target=gemm_cpu", "strategy=random", "measure=quick", "tracking=none", "budget.trials=3",
    "target.options.m=32", "target.options.n=32", "target.options.k=32", "measure.confirm.max_seconds=1", "--json",
)  # fmt: skip


def searched(folder: Path, study: str) -> Study:
    command(*WORDS, f"study={study}", f"build_cache.folder={folder}/builds", cwd=folder)
    return read(folder / "studies" / study / "journal.jsonl")


@pytest.mark.skipif("g++" not in found_compilers(), reason="needs g++")
def test_a_second_search_builds_nothing_and_asks_for_the_same(tmp_path: Path) -> None:
    first, second = searched(tmp_path, "first"), searched(tmp_path, "second")
    assert [t.point for t in first.trials] == [t.point for t in second.trials]
    for before, after in zip(first.trials, second.trials, strict=True):
        assert before.artifact and after.artifact
        assert "build_cached" not in before.artifact.facts
        assert after.artifact.facts == {**before.artifact.facts, "build_cached": 1.0}
        assert after.artifact.path.startswith(str(tmp_path / "studies" / "second"))
    text = command("report", "second", cwd=tmp_path).stdout
    report = (tmp_path / "studies" / "second" / "report.md").read_text(encoding="utf-8")
    assert "built before: taken from the build cache | 3 |" in report, text


@pytest.mark.skipif("g++" not in found_compilers(), reason="needs g++")
def test_a_damaged_entry_is_told_and_the_search_goes_on(tmp_path: Path) -> None:
    searched(tmp_path, "first")
    for entry in (tmp_path / "builds").rglob("*.build"):
        entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    done = command(*WORDS, "study=again", f"build_cache.folder={tmp_path}/builds", cwd=tmp_path)
    assert "damaged" in done.stderr
    assert json.loads(done.stdout)["measured"] == 3
