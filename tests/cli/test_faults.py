"""What befalls a machine while a search runs: clocks that jump, another search, disks that fill up."""

import json
import os
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from commands import CHECKOUT, PROGRAM, command, environment, lines
from disks import small_disk

from optimizer.config.native import found_compilers
from optimizer.journal import Study, read
from optimizer.trial import Failed

pytestmark = [pytest.mark.extra, pytest.mark.skipif("g++" not in found_compilers(), reason="needs g++")]

CHAOS = CHECKOUT / "experiments" / "chaos"
PLAN = ("measure=quick", "measure.confirm.max_seconds=1", "measure.confirm.rounds=6", "tracking=none")
WORDS = (f"--config-dir={CHAOS / 'conf'}", "target=chaos", f"target.source={CHAOS / 'chaos.cpp'}", *PLAN)

JUMPING = """
import itertools, time
_now, _turn = time.time, itertools.count()
time.time = lambda: _now() + (-1) ** next(_turn) * 400 * 86400.0
"""

WRITES_WHEN = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
static double now() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + 1e-9 * t.tv_nsec; }
int main() {
  const int log = open(getenv("WHEN"), O_WRONLY | O_APPEND | O_CREAT, 0600);
  setvbuf(stdout, nullptr, _IOLBF, 0);
  puts("{\"ready\":{\"load_s\":0.001}}");
  for (char line[64]; fgets(line, sizeof line, stdin);) {
    int count = 0;
    if (sscanf(line, "run %d", &count) != 1) {
      puts("{\"check\":{\"errors\":{\"max_rel_error\":0},\"tolerances\":{\"max_rel_error\":1}}}");
      continue;
    }
    const double start = now();
    usleep(3000);
    dprintf(log, "%.6f %.6f %d\n", start, now(), getppid());
    printf("{\"samples\":{\"latency_s\":[");
    for (int i = 0; i < count; ++i) printf("%s%g", i ? "," : "", 1e-3 * (1 + UNROLL + TILE + LAYOUT));
    puts("]}}");
  }
}
"""


def study(folder: Path, name: str) -> Study:
    return read(folder / "studies" / name / "journal.jsonl")


def test_a_wall_clock_that_jumps_ends_no_budget_and_no_time_limit(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(JUMPING, encoding="utf-8")
    clock = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{CHECKOUT}"}
    words = ("study=x", "budget.trials=8", "budget.seconds=150", f"build_cache.folder={tmp_path}/builds")
    command("search", *WORDS, *words, cwd=tmp_path, env=clock)
    command("search", WORDS[0], "study=x", "--resume", "budget.trials=12", cwd=tmp_path, env=clock)
    found = study(tmp_path, "x")
    assert len(found.trials) == 12
    assert any(a.started_at_s > b.started_at_s for a, b in pairwise(found.trials)), "it did jump"
    elapsed_s = [t.elapsed_s for t in found.trials]
    assert elapsed_s == sorted(elapsed_s) and elapsed_s[-1] < 150
    assert all(0 <= s < 150 for t in found.trials for s in t.seconds.values())
    quiet = command("search", *WORDS, *words[1:], "study=quiet", cwd=tmp_path)
    assert [t.point for t in study(tmp_path, "quiet").trials] == [t.point for t in found.trials[:8]], quiet.stderr


def measured_at(log: Path) -> Iterator[tuple[float, float, int]]:
    for line in log.read_text(encoding="ascii").splitlines():
        start, end, keeper = line.split()
        yield float(start), float(end), int(keeper)


def test_two_searches_on_one_device_and_one_cache_take_turns(tmp_path: Path) -> None:
    """Both end, neither measures while the other does, and the cache is whole."""
    (tmp_path / "when.cpp").write_text(WRITES_WHEN, encoding="utf-8")
    words = (WORDS[0], "target=chaos", f"target.source={tmp_path}/when.cpp", *PLAN)
    shared = ("strategy=random", "budget.trials=10", f"build_cache.folder={tmp_path}/builds")
    both = [
        subprocess.Popen(
            [*PROGRAM, "search", *words, *shared, f"study={name}"],
            cwd=tmp_path, env=environment({"WHEN": str(tmp_path / "when")}), stderr=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )
        for name in ("one", "other")
    ]  # fmt: skip
    said = [search.communicate(timeout=180) for search in both]
    assert [search.returncode for search in both] == [0, 0], said
    assert not any("cache" in stderr for _, stderr in said)
    for name in ("one", "other"):
        assert [t.number for t in study(tmp_path, name).trials] == list(range(10))
    turns = sorted(measured_at(tmp_path / "when"))
    assert len({keeper for _, _, keeper in turns}) == 2
    assert all(before[1] <= after[0] for before, after in pairwise(turns)), "two programs were measured at once"
    assert {t.point for t in study(tmp_path, "one").trials} == {t.point for t in study(tmp_path, "other").trials}
    again = command("search", *words, *shared, "study=third", "--json", cwd=tmp_path, env={"WHEN": str(tmp_path / "w")})
    assert "cache" not in again.stderr and json.loads(again.stdout)["trials"] == 10
    assert all(t.artifact and t.artifact.facts.get("build_cached") for t in study(tmp_path, "third").trials)


def test_a_full_disk_under_the_build_cache_is_told_once_and_costs_the_cache(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 64 << 10) as mounted:
        folder = disk / "builds" if mounted else tmp_path / "locked"
        folder.mkdir(mode=0o700 if mounted else 0o500)  # where nothing may be mounted, one that can't be written to
        words = ("study=x", "strategy=random", "budget.trials=10", f"build_cache.folder={folder}", "--json")
        done = command("search", *WORDS, *words, cwd=tmp_path)
    assert done.stderr.count("can't be written to") == 1 and "goes on without it" in done.stderr
    assert json.loads(done.stdout)["trials"] == 10
    failed = [t.outcome.log for t in study(tmp_path, "x").trials if isinstance(t.outcome, Failed)]
    assert not any("space" in log for log in failed)


def test_a_disk_that_is_full_when_a_point_is_built_ends_the_search_and_not_the_point(tmp_path: Path) -> None:
    """Else every later point would be written down as one that does not compile."""
    disk = tmp_path / "disk"
    with small_disk(disk, 300 << 10) as mounted:
        if not mounted:
            pytest.skip("needs the right to mount a small file system")
        cache = f"build_cache.folder={tmp_path}/builds"
        words = ("study=x", f"studies_dir={disk}", "strategy=random", "budget.trials=40", cache)
        done = command("search", *WORDS, *words, cwd=tmp_path, status=1)
        assert "No space left" in done.stderr and "Traceback" not in done.stderr
        trials = [t for t in lines(disk / "x" / "journal.jsonl") if t.get("kind") == "trial"]
        assert 0 < len(trials) < 40
        logs = [t["failed"]["log"] for t in trials if "failed" in t]
        assert not any("No space left" in log for log in logs)
