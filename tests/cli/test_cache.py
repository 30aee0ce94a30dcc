"""The cache command, as typed."""

import json
from pathlib import Path

import pytest
from commands import command, error

from optimizer.targets.cache import BuildCache


def filled(folder: Path, builds: int = 3) -> str:
    cache = BuildCache.opened(folder / "builds", 1 << 30, "here")
    (folder / "program").write_bytes(bytes(1000))
    for number in range(builds):
        cache.put(str(number), {}, [folder / "program"])
    return f"build_cache.folder={cache.folder}"


def test_it_is_shown_pruned_and_cleared(tmp_path: Path) -> None:
    word = filled(tmp_path)
    assert ": 3 builds, 3" in command("cache", "show", word, cwd=tmp_path).stdout
    pruned = command("cache", "prune", word, "build_cache.max_bytes=2000", "--json", cwd=tmp_path).stdout
    found = json.loads(pruned)
    assert found["removed"] == 2 and found["entries"] == 1
    assert found["bytes"] <= 2000
    assert "1 builds removed" in command("cache", "clear", word, cwd=tmp_path).stdout
    assert json.loads(command("cache", "show", word, "--json", cwd=tmp_path).stdout)["entries"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prun"], "Did you mean 'prune'?"),
        (["show", "folder=x"], "'folder=x' is not a setting of this command"),
        (["show", "build_cache.fodler=x"], "build_cache.folder"),
        (["show", "build_cache.max_bytes=none"], "a number above 0"),
        (["show", "build_cache.folder=null"], "there is no build cache"),
        (["show", "build_cache.folder=/proc/builds"], "can't be opened"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, words: list[str], said: str) -> None:
    assert said in error("cache", *words, cwd=tmp_path)
