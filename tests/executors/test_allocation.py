"""A job of submitit's on this machine, whose tasks are a real Ray cluster: the search in it is that of the local
executor, what it prints comes back, and nothing of it stays."""

import json
from pathlib import Path

import psutil
import pytest
from commands import command, error

from optimizer.config import composed
from optimizer.config.allocation import allocation_of, quoted, without_executor, words_inside
from optimizer.errors import ConfigError
from optimizer.journal import read

pytest.importorskip("submitit", reason="needs submitit: pip install 'inference-optimizer[slurm]'")
pytest.importorskip("ray", reason="needs ray: pip install 'inference-optimizer[ray]'")
pytestmark = pytest.mark.extra

SEARCH = ("target=synthetic", "strategy=genetic", "measure=quick", "tracking=none", "budget.trials=12")
SLURM = ("executor=slurm", "executor.cluster=local", "executor.cpus=1")


def candidates(folder: Path, study: str) -> list[object]:
    return [t.candidate for t in read(folder / "studies" / study / "journal.jsonl").trials]


def test_a_search_in_an_allocation_is_the_local_one_and_leaves_nothing(tmp_path: Path) -> None:
    here = command("search", *SEARCH, "study=here", "--json", cwd=tmp_path)
    there = command("search", *SEARCH, *SLURM, "study=there", "--json", cwd=tmp_path)
    assert candidates(tmp_path, "there") == candidates(tmp_path, "here")
    printed, alone = json.loads(there.stdout), json.loads(here.stdout)
    assert printed["recipe_key"] == alone["recipe_key"] and printed["trials"] == 12
    assert "2 machines for the study there" in there.stderr
    left = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])]
    assert left == []
    words = read(tmp_path / "studies" / "there" / "journal.jsonl").settings.words
    assert without_executor(words, ["executor=local"]) == [*SEARCH, "study=there"], "it can be resumed without Ray"


def test_a_search_that_fails_in_an_allocation_fails_here(tmp_path: Path) -> None:
    done = command(
        "search", *SEARCH, *SLURM, "executor.machines=1", "executor.device=none-such", "study=x", cwd=tmp_path, status=2
    )
    assert done.stdout == ""
    assert "none-such is on no machine" in (next((tmp_path / "studies/x/allocation").glob("*_0_log.err"))).read_text()


def test_without_a_batch_system_that_is_said(tmp_path: Path) -> None:
    assert "executor.cluster=slurm" in error("search", *SEARCH, "executor=slurm", cwd=tmp_path)
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("executor.cluster=slrum", "Did you mean .slurm"),
        ("executor.machines=0", "at least 1"),
        ("executor.gpus=-1", "at least 0"),
        ("executor.more.account=[a]", "executor.more.account"),
        ("executor.cluster=debug", "executor.machines=1"),
    ],
)
def test_wrong_settings_are_told_before_a_job_is_sent(word: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        allocation_of(composed([*SEARCH, "executor=slurm", word], ()))


def test_the_search_inside_gets_its_own_words_and_what_ray_needs() -> None:
    name = "H100, driver '1'"
    made = composed([*SEARCH, "executor=slurm", "executor.machines=4", f"executor.device={quoted(name)}"], ())
    inside = words_inside(made)
    assert inside[:6] == ["executor=ray", *SEARCH]
    assert composed(inside, ()).tree["executor"]["device"] == name
    assert composed(inside, ()).tree["executor"]["retries"] == 2


@pytest.mark.parametrize("text", ["a b", "a, b: {c} (d) [e]", "it's", "back\\slash", "=x", "null"])
def test_any_name_of_a_device_is_a_word(text: str) -> None:
    made = composed(["target=synthetic", "executor=ray", f"executor.device={quoted(text)}"], ())
    assert made.tree["executor"]["device"] == text


def test_a_plan_needs_no_machines(tmp_path: Path) -> None:
    said = command("search", *SEARCH, "executor=slurm", "--dry-run", cwd=tmp_path).stdout
    assert "budget" in said and not (tmp_path / "studies").exists()
