"""Names, values, links and archives can't lead out of the folder that they belong to; each is really tried."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import own_program
import pytest
from exports import DAY, shipped_at
from simple import LATENCY, TINY, measured, recipe_of

from optimizer.cli.registering import must_be_fit
from optimizer.config import load
from optimizer.errors import ConfigError
from optimizer.executors.parcels import hash_of, unpacked
from optimizer.export.exported import exported_in
from optimizer.files import names_folder, stays_within
from optimizer.journal import Journal, Settings, Study, read
from optimizer.protocols import Ending
from optimizer.readers.ingest import name_of
from optimizer.recipe import Environment
from optimizer.resources import conf_dir
from optimizer.space import Point
from optimizer.stats import Judgement, Verdict
from optimizer.trial import Artifact, Reason, TrialError

UP = ["..", ".", "", "../x", "/x", "a/../../x", "a\\b", "a\0b"]


def tried(folder: Path, *words: str) -> str:
    """What is said to a search with the files of folder/own; nothing is written."""
    with pytest.raises(ConfigError) as error:
        load([*words, "tracking=none", f"studies_dir={folder / 'studies'}"], [folder / "own"], DAY)
    assert not (folder / "studies").exists()
    return str(error.value)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """own/target/mine.yaml, a copy of the synthetic target, and the same outside of own."""
    (tmp_path / "own/target").mkdir(parents=True)
    for path in (tmp_path / "own/target/mine.yaml", tmp_path / "evil.yaml"):
        shutil.copy(conf_dir() / "target/synthetic.yaml", path)
    return tmp_path


@pytest.mark.parametrize("name", UP)
def test_such_a_name_is_none(name: str) -> None:
    assert not names_folder(name)


@pytest.mark.parametrize("word", ["target=../../evil", "target=../target/mine", "strategy=../../evil"])
def test_a_word_names_no_file_outside_the_configuration(word: str, own: Path) -> None:
    assert "leaves the folder of configurations" in tried(own, "target=synthetic", word)


def test_a_file_of_ones_own_brings_none_in_from_outside(own: Path) -> None:
    (own / "own/target/evil.yaml").write_text("# @package _global_\ndefaults:\n  - ../../evil\n")
    tried(own, "target=evil")


def test_a_target_s_name_is_no_path(own: Path) -> None:
    mine = own / "own/target/mine.yaml"
    mine.write_text(mine.read_text().replace("name: synthetic", "name: ../../x"))
    assert "target.name" in tried(own, "target=mine")


@pytest.mark.parametrize("name", ["../../x", "/x", "..", 7])
def test_a_journal_names_no_other_folder(name: object, tmp_path: Path) -> None:
    """`export` and `monitor` write into a folder of that name."""
    path = tmp_path / "studies/s/journal.jsonl"
    Journal.create(path, "s", recipe_of(TINY), Environment("here"), Settings())
    header = json.loads(path.read_text())
    path.write_text(json.dumps(header | {"study": name}) + "\n")
    with pytest.raises(ConfigError, match="can't be the name of a study"):
        read(path)


def test_a_journal_that_is_a_link_to_another_kind_of_file_leaves_it_as_it_is(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    journal = tmp_path / "studies/s/journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.symlink_to(precious)
    with pytest.raises(ConfigError):
        Journal.create(journal, "s", recipe_of(TINY), Environment("here"), Settings())
    with pytest.raises(ConfigError):
        read(journal)
    assert precious.read_text() == "keep me"


@pytest.mark.parametrize("name", ["..", "...", "..\\x", "-", " ", "a\nb", "é/..", "$(ls)"])
def test_an_ingested_file_s_study_is_a_folder(name: str) -> None:
    assert names_folder(name_of(Path("/data") / name))


# --- values of knobs

TURN = {"turn": {"domain": "choice(1, 2)", "env": "TURN", "default": 1}}

PLACES = {"program": "{out}/{mode}", "build_folder": "{out}/in-{mode}"}


@pytest.mark.parametrize("key", PLACES)
def test_a_knob_s_value_leads_no_build_up(key: str, tmp_path: Path) -> None:
    up = {"mode": {"domain": "choice(a, '../../../../up')", "setting": "mode", "default": "a"}}
    target = {"build": [["cp", "/dev/null", "{out}/a"]], "run": ["true", "{mode}"], key: PLACES[key]}
    made = own_program.setup(tmp_path, target | {"metrics": {"latency_s": {"regex": "(x)"}}}, knobs=up).made
    assert made.target.build(Point({"mode": "a"})).key
    before = set(tmp_path.rglob("up"))
    with pytest.raises(TrialError, match="leaves its folder") as raised:
        made.target.build(Point({"mode": "../../../../up"}))
    assert raised.value.reason is Reason.REJECTED
    assert set(tmp_path.rglob("up")) == before


def test_a_product_that_is_a_folder_ends_the_trial_and_not_the_search(tmp_path: Path) -> None:
    target = {"build": [["mkdir", "{out}/a"]], "run": ["true"], "program": "{out}/a"}
    made = own_program.setup(tmp_path, target | {"metrics": {"latency_s": {"regex": "(x)"}}}, knobs=TURN).made
    with pytest.raises(TrialError, match="names a file"):
        made.target.build(Point({"turn": 1}))


# --- exports


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return shipped_at(tmp_path / "made", 1.0)


def changed(export: Path, **values: object) -> None:
    path = export / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x"])
def test_an_export_lists_no_file_outside(name: str, export: Path) -> None:
    changed(export, files={name: "0"})
    with pytest.raises(ConfigError, match="outside the export"):
        exported_in(export)


@pytest.mark.parametrize("where", ["file", "folder"])
def test_an_export_has_no_link_that_leads_outside(where: str, export: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("private")
    link, name = {"file": ("key", "key"), "folder": ("in", "in/key")}[where]
    (export / link).symlink_to(tmp_path / "secret" / ("key" if where == "file" else ""))
    changed(export, files={name: "0"})
    with pytest.raises(ConfigError, match="outside the export"):
        exported_in(export)


def test_a_link_within_an_export_is_let_be(export: Path) -> None:
    """As where a cluster mounts files."""
    (export / "..data").mkdir()
    (export / "winner.json").rename(export / "..data/winner.json")
    (export / "winner.json").symlink_to("..data/winner.json")
    assert exported_in(export).edited() == []


def test_an_export_s_study_is_no_path(export: Path) -> None:
    changed(export, study="../../x")
    with pytest.raises(ConfigError, match="can't be the name of a study"):
        exported_in(export)


def test_writing_follows_no_link_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path)
    assert stays_within(tmp_path / "in", tmp_path / "in/new/file")
    assert not stays_within(tmp_path / "in", tmp_path / "in/link/file")


@pytest.mark.parametrize("name", ["../x", "a/b", "a:b", "x' OR name LIKE '%", "%2e%2e", "a.b"])
def test_a_registered_model_s_name_is_no_path_and_no_query(name: str) -> None:
    trials = (measured(0, Point({"a": 1}), latency_s=2.0), measured(1, Point({"a": 2}), latency_s=1.0))
    verdict = Verdict("latency_s", 2.0, 1.9, 2.1, Judgement.BETTER, 1, 10)
    study = Study("s", recipe_of(TINY, goal=LATENCY), Environment("here"), trials, ending=Ending(verdict))
    with pytest.raises(ConfigError, match="can't name a model"):
        must_be_fit(study, ["model"], {"tracking.model": name})
    must_be_fit(study, ["model"], {"tracking.model": "mine-1"})


# --- archives that travel


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


@pytest.mark.parametrize(
    "found",
    [
        member("../escaped"),
        member("a/../../escaped"),
        member("link", tarfile.SYMTYPE, "../../escaped"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard", tarfile.LNKTYPE, "../escaped"),
        member("null", tarfile.CHRTYPE),
        member("disk", tarfile.BLKTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda m: f"{m.name}-{m.linkname}",
)
def test_an_archive_puts_nothing_outside_and_makes_no_device(found: tarfile.TarInfo, tmp_path: Path) -> None:
    content = archive(found)
    with pytest.raises(TrialError, match="can't be sent") as raised:
        unpacked(content, hash_of(content), Artifact("key", "code"), tmp_path / "here/key")
    assert raised.value.reason is Reason.REJECTED
    assert [p.name for p in tmp_path.rglob("*")] == ["here"]


def test_an_absolute_path_in_an_archive_is_one_within(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    content = archive(member(str(outside)))
    unpacked(content, hash_of(content), Artifact("key", "code"), tmp_path / "here/key")
    assert not outside.exists()


def test_an_archive_s_link_is_no_way_out_for_the_next_file(tmp_path: Path) -> None:
    content = archive(member("way", tarfile.SYMTYPE, "."), member("way/../../escaped"))
    with pytest.raises(TrialError):
        unpacked(content, hash_of(content), Artifact("key", "code"), tmp_path / "here/key")
    assert [p.name for p in tmp_path.rglob("*")] == ["here"]


def archive(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for one in members:
            made.addfile(one)
    return buffer.getvalue()
