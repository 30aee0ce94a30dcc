"""doctor --noise: an A/A interval of this machine, kept for the reports of later searches."""

import json
from pathlib import Path

import pytest
from commands import command, error, lines

from optimizer.config.native import found_compilers

SMALL = ("target=gemm_cpu", "target.options.m=32", "target.options.n=32", "target.options.k=32")
QUICK = ("measure=quick", "measure.confirm.max_seconds=3")


@pytest.mark.extra
@pytest.mark.skipif("g++" not in found_compilers(), reason="needs g++")
def test_what_it_measures_is_in_the_record_and_the_report_of_the_next_search(tmp_path: Path) -> None:
    own = f"noise_file={tmp_path / 'noise.json'}"
    cache = f"build_cache.folder={tmp_path / 'builds'}"
    found = json.loads(command("doctor", "--noise", "--json", *SMALL, *QUICK, own, cache, cwd=tmp_path).stdout)
    assert found["low"] <= found["ratio"] <= found["high"]
    assert found["rounds"] == len(found["gains"]) >= 6
    assert found["floor_pct"] == pytest.approx(100 * (max(found["high"], 1 / found["low"]) - 1))
    assert list(tmp_path.iterdir()) != [], "and nothing but the caches is left"
    assert not (tmp_path / "studies").exists()
    words = (*SMALL, *QUICK, own, cache, "study=x", "tracking=none", "budget.trials=2", "measure.cpus=0")
    command("search", *words, cwd=tmp_path)
    host = lines(tmp_path / "studies" / "x" / "journal.jsonl")[0]["environment"]["host"]
    assert host["noise"]["pct"] == pytest.approx(found["floor_pct"])
    assert host["isolation"]["network"]
    command("report", "x", cwd=tmp_path)
    text = (tmp_path / "studies" / "x" / "report.md").read_text(encoding="utf-8")
    assert "gemm_cpu against itself" in text and "| isolation | network " in text


def test_what_can_not_be_is_refused(tmp_path: Path) -> None:
    assert "only --noise takes settings" in error("doctor", "target=gemm_cpu", cwd=tmp_path)
    assert "0-3,6" not in error("search", "target=synthetic", "measure.cpus=x", "tracking=none", cwd=tmp_path)
    assert "may use" in error("search", "target=synthetic", "measure.cpus=4000", "tracking=none", cwd=tmp_path)
