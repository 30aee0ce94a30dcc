"""Kills at random moments, in short: experiments/chaos runs 200."""

import shutil
from pathlib import Path

import pytest


@pytest.mark.extra
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_search_that_is_killed_again_and_again_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    from chaos_run import run

    result = run(tmp_path, kills=12, seed=1, strategy="auto")
    assert sum(result["kills"].values()) >= 12
    assert set(result["kills"]) == {"search", "program", "compiler", "keeper", "tracker", "server"}
    assert result["runs in MLflow"] == result["trials"]
