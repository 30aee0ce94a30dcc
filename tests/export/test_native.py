"""A native study's export is the same, byte for byte, whoever writes it and wherever it is written."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from commands import command
from exports import setup_at, study_of

from optimizer.files import write_whole
from optimizer.journal import journal_bytes

WORDS = ("target=gemm_cpu", "space=[gxx,gemm]", "target.options.m=96", "target.options.n=96", "target.options.k=96")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_two_exports_of_one_study_are_byte_for_byte_the_same(tmp_path: Path) -> None:
    """Written by processes that order sets differently, the second from a program that was built anew."""
    setup = setup_at(tmp_path / "studies", *WORDS)
    setup.made.prepare()
    study = study_of(setup, {"MICRO_N": 32, "threads": 1})
    first, winner = study.trials
    built = setup.made.target.build(winner.point)
    journal = tmp_path / "studies/s/journal.jsonl"
    write_whole(journal, journal_bytes(replace(study, trials=(first, replace(winner, artifact=built)))))
    for out, seed in (("once", "1"), ("again", "2")):
        command("export", str(journal), "--out", out, cwd=tmp_path, env={"PYTHONHASHSEED": seed})
        shutil.rmtree(Path(built.path).parent)
        setup.made.target.build(winner.point)
    once, again = (written(tmp_path / name) for name in ("once", "again"))
    assert {"program", "flags.rsp", "config.h", "provenance.json"} <= set(once)
    assert once == again


def written(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
