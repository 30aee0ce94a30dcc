"""Both sides of an export come back from its folder alone."""

import json
from pathlib import Path

import pytest
from exports import setup_at, ship, study_of

from optimizer.config.language import is_language_model
from optimizer.config.reopened import reopened
from optimizer.errors import ConfigError
from optimizer.export.exported import exported_in


@pytest.fixture
def export(tmp_path: Path) -> Path:
    setup = setup_at(tmp_path / "studies", "target=synthetic", "target.failing=0")
    knob = next(k for k in setup.recipe.space.knobs if k.domain.size)
    value = knob.domain.at(knob.domain.size - 1)  # type: ignore[union-attr,operator]
    ship(study_of(setup, {knob.name: value}), tmp_path / "export")
    return tmp_path / "export"


def test_a_target_is_made_again_from_the_export(export: Path, tmp_path: Path) -> None:
    found = reopened(exported_in(export), tmp_path)
    for point in (found.baseline, found.point):
        with found.made.target.open(found.made.target.build(point)) as runner:
            runner.verify()
            assert runner.run(2)["latency_s"]
    assert found.point != found.baseline


def test_an_edited_and_a_missing_file_are_told(export: Path) -> None:
    assert exported_in(export).edited() == []
    (export / "winner.json").write_text("{}")
    (export / "experiment/winner.yaml").unlink()
    assert exported_in(export).edited() == [
        "experiment/winner.yaml is missing",
        "winner.json was edited: its sha256 is not that of provenance.json",
    ]


def test_what_is_no_export_is_told(tmp_path: Path, export: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        exported_in(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no export"):
        exported_in(tmp_path)
    (export / "provenance.json").write_text('{"version"')
    with pytest.raises(ConfigError, match="can't be read"):
        exported_in(export)
    (export / "provenance.json").write_text('{"version": 1}')
    with pytest.raises(ConfigError, match="version 1"):
        exported_in(export)


def test_a_file_outside_the_folder_is_refused(export: Path) -> None:
    path = export / "provenance.json"
    document = json.loads(path.read_text())
    document["files"]["../other"] = "0"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="outside"):
        exported_in(export)


def test_a_way_that_this_version_does_not_know_is_told(export: Path, tmp_path: Path) -> None:
    path = export / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reopens": "magic"}))
    with pytest.raises(ConfigError, match="'magic'"):
        reopened(exported_in(export), tmp_path)


def test_a_target_without_a_model_is_no_language_model() -> None:
    """An empty name is not the folder that one stands in."""
    assert not is_language_model("")
