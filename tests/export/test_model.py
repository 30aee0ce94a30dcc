"""A torch model's winner on its whole way: searched, exported, opened in fresh processes, champion of the registry."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from commands import command, error, search_json

from optimizer.config.reopened import reopened
from optimizer.export.exported import exported_in

WORDS = (
    "target=digits", "measure=quick", "measure.max_seconds=0.1", "measure.min_samples=3", "measure.confirm.rounds=6",
    "measure.confirm.max_seconds=1", "measure.max_foreign_load_pct=10000", "study=s", "strategy=grid",
    "space=[torch_backend,torch_layout]", "space.backend=choice(eager,torchscript)", "space.threads=1",
    "budget.trials=6",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a search of six trials has ended and its best was exported, which need not be proved better: this machine
    may be busy."""
    place = tmp_path_factory.mktemp("digits")
    found = search_json(*WORDS, f"target.cache={place / 'cache'}", cwd=place)
    assert found["measured"] == 6
    said = command("export", "s", "--to", "model", "--force", cwd=place).stdout
    assert "load.py" in said
    return place


def test_the_export_answers_as_the_winner_did_without_what_was_built(place: Path, tmp_path: Path) -> None:
    export = tmp_path / "elsewhere"
    shutil.copytree(place / "exports/s", export)
    exported = exported_in(export)
    assert exported.edited() == []
    found = reopened(exported, tmp_path / "scratch")
    target = found.made.target
    with target.open(target.build(found.point)) as mine, target.open(target.build(found.baseline)) as theirs:
        check = mine.verify()
        assert theirs.verify().errors == {"max_rel_error": 0.0}
        assert mine.run(2)["latency_s"] and theirs.run(2)["latency_s"]
    assert check.errors["export_rel_error"] < 1e-6
    assert {name: check.quality[name] for name in exported.promise.quality} == exported.promise.quality


def test_a_folder_that_was_changed_is_told(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "exports/s", tmp_path / "export")
    told = json.loads((tmp_path / "export/model.json").read_text())
    (tmp_path / "export/model.json").write_text(json.dumps(told | {"threads": 64}))
    assert exported_in(tmp_path / "export").edited() == [
        "model.json was edited: its sha256 is not that of provenance.json"
    ]


def test_the_same_trial_is_exported_as_the_same_bytes(place: Path) -> None:
    def files() -> Mapping[str, bytes]:
        return {str(p): p.read_bytes() for p in (place / "exports/s").rglob("*") if p.is_file()}

    first = files()
    command("export", "s", "--to", "model", "--force", cwd=place)
    assert files() == first


def test_weights_that_were_changed_since_are_told(place: Path, tmp_path: Path) -> None:
    journal = (place / "studies/s/journal.jsonl").read_text()
    header, *rest = journal.splitlines(keepends=True)
    document = json.loads(header)
    document["recipe"]["target"]["options"]["content"] = "other"
    (tmp_path / "journal.jsonl").write_text(json.dumps(document) + "\n" + "".join(rest))
    said = error("export", str(tmp_path / "journal.jsonl"), "--to", "model", "--force", cwd=place)
    assert "no longer the one that was searched" in said
    assert "content: 'other' →" in said


def test_a_study_of_programs_has_no_model(tmp_path: Path) -> None:
    search_json("target=synthetic", "measure=quick", "budget.trials=6", "study=s", "tracking=none", cwd=tmp_path)
    said = error("export", "s", "--to", "model", "--force", cwd=tmp_path)
    assert "--to model does not fit: the target is no torch model" in said
