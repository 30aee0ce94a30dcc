"""A build that does not end holds no search beyond its time, and nothing of it stays."""

import sys
from pathlib import Path

import psutil
from commands import search_json
from own_program import write

from optimizer.journal import read

SLOW = "import sys, time; time.sleep(3600 if int(sys.argv[1]) > 4 else 0)"


def test_a_search_ends_in_time_though_a_build_does_not(tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    target = {
        "build": [sys.executable, "-c", SLOW, "{knob.size}", mark],
        "run": ["true"],
        "metrics": {"latency_s": {"measure": "wall"}},
    }
    write(tmp_path, target, {"size": {"domain": "range(1, 9)", "option": "size", "default": 1}})
    found = search_json(
        f"--config-dir={tmp_path}", "target=mine", "study=s", "measure=quick", "measure.timeout_s=3000",
        "known_good=[{size:2},{size:3},{size:4}]", "tracking=none", "budget.seconds=4", cwd=tmp_path,
    )  # fmt: skip
    study = read(tmp_path / "studies" / "s" / "journal.jsonl")
    assert found["trials"] == 4
    assert study.ending is not None
    assert study.ending.verdict is not None
    assert not study.ending.interrupted
    assert [p.pid for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])] == []
