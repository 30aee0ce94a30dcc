"""The build cache: whole entries or none, for any number of writers, within its limit, and nobody else's programs."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from optimizer.errors import ConfigError
from optimizer.targets.builds import kept_or_made
from optimizer.targets.cache import SUFFIX, BuildCache
from optimizer.trial import Artifact

MB = 1 << 20


def cache_at(folder: Path, max_bytes: int = 100 * MB, made_on: str = "here") -> BuildCache:
    return BuildCache.opened(folder, max_bytes, made_on)


def put(cache: BuildCache, key: str, content: bytes = b"code") -> None:
    program = cache.folder.parent / "program"
    program.write_bytes(content)
    program.chmod(0o755)
    cache.put(key, {"code_key": key}, [program])


def entry(cache: BuildCache) -> Path:
    [path] = cache.folder.rglob(f"*{SUFFIX}")
    return path


def artifact_made(content: bytes = b"code") -> "Maker":
    return Maker(content)


class Maker:
    """Stands for a compiler and counts its calls."""

    def __init__(self, content: bytes) -> None:
        self.content, self.calls = content, 0

    def __call__(self, scratch: Path, place: Path) -> Artifact:
        self.calls += 1
        (scratch / "program").write_bytes(self.content)
        facts = {"compile_time_s": 100.0 + self.calls}
        return Artifact(key=place.name, code_key="c", path=str(place / "program"), command=("g++",), facts=facts)


def test_what_is_put_comes_back_with_its_record_and_its_mode(tmp_path: Path) -> None:
    cache, into = cache_at(tmp_path / "cache"), tmp_path / "into"
    into.mkdir()
    assert cache.fetch("k", into) is None
    put(cache, "k", b"\0\nbinary\n")
    assert cache.fetch("k", into) == {"code_key": "k"}
    assert (into / "program").read_bytes() == b"\0\nbinary\n"
    assert os.access(into / "program", os.X_OK)
    assert cache.news() == []


def test_a_later_search_takes_the_build_over_and_tells_the_times_of_the_first(tmp_path: Path) -> None:
    cache, make = cache_at(tmp_path / "cache"), artifact_made()
    first = kept_or_made(tmp_path / "one", "k", make, fresh=False, cache=cache)
    second = kept_or_made(tmp_path / "two", "k", make, fresh=False, cache=cache)
    assert make.calls == 1
    assert first.facts == {"compile_time_s": 101.0}
    assert second.facts == {"compile_time_s": 101.0, "build_cached": 1.0}
    assert Path(second.path) == tmp_path / "two" / "k" / "program"
    assert Path(second.path).read_bytes() == b"code"
    cache.prune(0)
    assert Path(second.path).read_bytes() == b"code", "a search works on its own copy"


def test_a_fresh_build_is_built(tmp_path: Path) -> None:
    cache, make = cache_at(tmp_path / "cache"), artifact_made()
    kept_or_made(tmp_path / "one", "k", make, fresh=False, cache=cache)
    fresh = kept_or_made(tmp_path / "one", "k", make, fresh=True, cache=cache)
    assert fresh.facts == {"compile_time_s": 102.0}, "no mark: it was built for this call"
    assert make.calls == 2


def test_what_another_machine_made_is_not_taken(tmp_path: Path) -> None:
    put(cache_at(tmp_path / "cache", made_on="Xeon, avx512f"), "k")
    assert cache_at(tmp_path / "cache", made_on="EPYC, avx2").fetch("k", tmp_path) is None


@pytest.mark.parametrize("cut", [0, 1, 20, 90, -1])
def test_a_torn_entry_is_told_and_built_again(tmp_path: Path, cut: int) -> None:
    cache, make = cache_at(tmp_path / "cache"), artifact_made()
    kept_or_made(tmp_path / "one", "k", make, fresh=False, cache=cache)
    path = entry(cache)
    path.write_bytes(path.read_bytes()[:cut])
    found = kept_or_made(tmp_path / "two", "k", make, fresh=False, cache=cache)
    assert make.calls == 2
    assert "build_cached" not in found.facts
    [told] = cache.news()
    assert "damaged" in told and "built anew" in told and str(path) in told
    kept_or_made(tmp_path / "three", "k", make, fresh=False, cache=cache)
    assert make.calls == 2, "the entry was mended"


def test_a_single_wrong_bit_anywhere_is_seen(tmp_path: Path) -> None:
    cache = cache_at(tmp_path / "cache")
    put(cache, "k", b"some machine code")
    whole = entry(cache).read_bytes()
    path = entry(cache)
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert cache.fetch("k", tmp_path) is None, position
    path.write_bytes(whole)
    assert cache.fetch("k", tmp_path) is not None


def test_an_entry_under_another_name_is_refused(tmp_path: Path) -> None:
    cache = cache_at(tmp_path / "cache")
    put(cache, "a")
    one = entry(cache)
    put(cache, "b")
    [two] = [p for p in cache.folder.rglob(f"*{SUFFIX}") if p != one]
    two.write_bytes(one.read_bytes())
    assert cache.fetch("b", tmp_path) is None
    assert "another build" in cache.news()[0]


def test_what_was_not_used_for_the_longest_time_goes_first(tmp_path: Path) -> None:
    cache = cache_at(tmp_path / "cache", max_bytes=MB)
    for i in range(4):
        put(cache, f"k{i}", bytes(200_000))
        os.utime(max(cache.folder.rglob(f"*{SUFFIX}"), key=lambda p: p.stat().st_mtime_ns), (1000 + i, 1000 + i))
    assert cache.fetch("k0", tmp_path) is not None, "used just now"
    for i in range(4, 7):
        put(cache, f"k{i}", bytes(200_000))
    assert cache.contents().size_bytes <= MB
    assert cache.fetch("k0", tmp_path) is not None
    assert cache.fetch("k1", tmp_path) is None
    assert cache.fetch("k6", tmp_path) is not None


def test_files_of_killed_writers_go_with_the_next_pruning(tmp_path: Path) -> None:
    cache = cache_at(tmp_path / "cache")
    left, young = cache.folder / "x.1.2.tmp", cache.folder / "y.1.2.tmp"
    left.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(left, (time.time() - 7200,) * 2)
    cache.prune(MB)
    assert not left.exists() and young.exists()


def test_a_cache_that_anybody_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigError, match="chmod o-w"):
        cache_at(tmp_path / "open")


def test_a_folder_of_a_group_stays_the_groups(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2770)
    cache = cache_at(tmp_path / "shared")
    put(cache, "k")
    assert entry(cache).stat().st_mode & 0o777 == 0o660
    assert entry(cache).parent.stat().st_mode & 0o7777 == 0o2770
    own = cache_at(tmp_path / "own")
    put(own, "k")
    assert own.folder.stat().st_mode & 0o777 == 0o700
    assert entry(own).stat().st_mode & 0o777 == 0o600


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_once_and_stops_no_search(tmp_path: Path) -> None:
    cache = cache_at(tmp_path / "cache")
    (tmp_path / "program").write_bytes(bytes(5000))
    with no_file_beyond(100):
        for key in ("a", "b"):
            cache.put(key, {}, [tmp_path / "program"])
    [told] = cache.news()
    assert "can't be written to" in told and "goes on without it" in told
    assert list(cache.folder.rglob("*.tmp")) == [], "nothing half is left"
    assert cache.fetch("a", tmp_path) is None


WRITER = """
import random, sys
from pathlib import Path
from optimizer.targets.cache import BuildCache
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
cache, rng, own, hits = BuildCache.opened(folder, 200_000, "here"), random.Random(seed), folder.parent / f"w{seed}", 0
own.mkdir()
for turn in range(150):
    key = str(rng.randrange(12))
    content = key.encode() * 4000 * (1 + int(key) % 5)
    found = cache.fetch(key, own)
    if found is None:
        (own / "program").write_bytes(content)
        cache.put(key, {"key": key}, [own / "program"])
    else:
        hits += 1
        assert found == {"key": key} and (own / "program").read_bytes() == content
assert hits > 10
assert not cache.news(), cache.news()
"""


def test_any_number_of_searches_write_read_and_evict_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    BuildCache.opened(folder, MB, "here")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(seed)]) for seed in range(5)]
    assert [writer.wait(60) for writer in writers] == [0] * 5
    assert list(folder.rglob("*.tmp")) == []
