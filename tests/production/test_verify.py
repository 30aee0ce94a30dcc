"""verify: what keeps the promise, what breaks it, and what can't be told here."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import command, error
from exports import setup_at, ship, shipped_at, study_of
from simple import FakeClock

from optimizer.config import reopened as reopening
from optimizer.errors import ConfigError
from optimizer.export.exported import exported_in
from optimizer.process import place, request_of
from optimizer.production.verify import Finding, Verification, verified
from optimizer.recipe import Confirm
from optimizer.space import Point
from optimizer.targets.native import NativeTarget
from optimizer.targets.shipped import FromFiles
from optimizer.trial import Artifact

SMALL = ("target=gemm_cpu", "space=[gxx,gemm]", "measure=quick")
SIZES = ("target.options.m=96", "target.options.n=96", "target.options.k=96")
CONFIRM = Confirm(rounds=6, max_seconds=30.0)


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    """An export whose promise is what the function really gives."""
    return shipped_at(tmp_path, 1.0)


def verification(place: Path, folder: Path) -> Verification:
    return verified(exported_in(place), folder, FakeClock(), CONFIRM)


def test_a_promise_that_is_true_is_kept(synthetic: Path, tmp_path: Path) -> None:
    found = verification(synthetic, tmp_path / "builds")
    assert found.finding is Finding.KEPT
    assert found.verdict is not None
    assert found.verdict.ratio == pytest.approx(exported_in(synthetic).promise.verdict.ratio, rel=0.01)  # type: ignore[union-attr]
    assert len(found.gains) == 6


def test_a_ratio_that_is_gone_breaks_the_promise(tmp_path: Path) -> None:
    found = verification(shipped_at(tmp_path, 1.3), tmp_path / "builds")
    assert found.finding is Finding.BROKEN
    assert "promised were" in found.why[0]
    assert "less at most 5 %" in found.why[0]
    assert "at least" in found.why[0]


def test_what_the_search_had_seen_before_its_proof_bounds_the_promise(tmp_path: Path) -> None:
    """The rounds were of minutes in which a neighbour held the baseline up more than the winner."""
    path = shipped_at(tmp_path, 1.3) / "provenance.json"
    document = json.loads(path.read_text())
    assert document["promise"]["seen"] == pytest.approx(document["promise"]["ratio"]["ratio"])
    document["promise"]["seen"] /= 1.3
    path.write_text(json.dumps(document))
    assert verification(path.parent, tmp_path / "builds").finding is Finding.KEPT
    del document["promise"]["seen"]
    path.write_text(json.dumps(document))
    assert verification(path.parent, tmp_path / "older").finding is Finding.BROKEN, "an older export has none"


def test_within_the_tolerance_the_promise_is_kept(tmp_path: Path) -> None:
    """2% less than the low end of what was proved, with 5% allowed."""
    assert verification(shipped_at(tmp_path, 1.05), tmp_path / "builds").finding is Finding.KEPT


def test_without_a_proof_speed_is_told_and_not_judged(tmp_path: Path) -> None:
    place = shipped_at(tmp_path, 1.0)
    document = json.loads((place / "provenance.json").read_text())
    document["promise"]["ratio"] = None
    (place / "provenance.json").write_text(json.dumps(document))
    found = verification(place, tmp_path / "builds")
    assert found.finding is Finding.UNPROMISED
    assert found.verdict is not None


def test_an_edited_file_breaks_it_before_anything_runs(synthetic: Path, tmp_path: Path) -> None:
    (synthetic / "winner.json").write_text("{}")
    found = verification(synthetic, tmp_path / "builds")
    assert found.finding is Finding.BROKEN
    assert found.verdict is None
    assert "winner.json was edited" in found.why[0]


def test_another_environment_is_named_and_breaks_nothing(synthetic: Path, tmp_path: Path) -> None:
    path = synthetic / "provenance.json"
    document = json.loads(path.read_text())
    document["environment"] |= {"device": "another processor", "host": {"packages": {"numpy": "1.0"}}}
    path.write_text(json.dumps(document))
    found = verification(synthetic, tmp_path / "builds")
    assert found.finding is Finding.KEPT
    assert any("another processor" in note for note in found.notes)
    assert any("package numpy: '1.0'" in note for note in found.notes)


def test_programs_run_where_they_ran_for_the_promise(tmp_path: Path) -> None:
    try:
        found = verification(shipped_at(tmp_path, 1.0, "measure.nice=3", "measure.cpus=0"), tmp_path / "builds")
        asked = request_of({}, str(tmp_path), None, (1, 1), reserves=False, watch_s=1.0)
        assert (asked["nice"], asked["cpus"], found.finding) == (3, [0], Finding.KEPT)
    finally:
        place((), 0)


def test_processors_that_are_not_here_are_told_and_break_nothing(tmp_path: Path) -> None:
    found = verification(shipped_at(tmp_path, 1.0, "measure.cpus=4000"), tmp_path / "builds")
    assert found.finding is Finding.KEPT
    assert "measure.cpus names processors 4000" in found.notes[0]


def test_a_limit_that_is_broken_now_breaks_the_promise(tmp_path: Path) -> None:
    limit = "objective.limits={peak_memory_bytes: {max: 1}}"
    found = verification(shipped_at(tmp_path, 1.0, limit), tmp_path / "builds")
    assert found.finding is Finding.BROKEN
    assert found.why == ("it breaks the limit on peak_memory_bytes",)


def test_a_busy_machine_is_not_held_against_the_promise(
    synthetic: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("optimizer.production.verify.DISTURBED_PCT", -1.0)
    document = json.loads((synthetic / "provenance.json").read_text())
    document["promise"]["ratio"] |= {"low": 5.0, "ratio": 5.0, "high": 5.0}
    document["promise"]["seen"] = 5.0
    (synthetic / "provenance.json").write_text(json.dumps(document))
    found = verification(synthetic, tmp_path / "builds")
    assert found.finding is Finding.UNDECIDED
    assert any("busy machine" in note for note in found.notes)


def test_the_exit_codes_are_those_that_are_documented(synthetic: Path, tmp_path: Path) -> None:
    kept = json.loads(command("verify", str(synthetic), "--json", cwd=tmp_path, status=0).stdout)
    assert kept["finding"] in ("kept", "undecided")
    assert kept["files"]["json"] == {"how": "its point and flags are the winner's", "broken": [], "unchecked": ""}
    (synthetic / "winner.json").write_text("{}")
    broken = command("verify", str(synthetic), cwd=tmp_path, status=1)
    assert "winner.json was edited" in broken.stdout
    assert "no export" in error("verify", ".", cwd=tmp_path, status=2)
    page = (Path(__file__).parents[2] / "docs/production.md").read_text(encoding="utf-8")
    assert all(
        f"| {code} |" in page.partition("## `verify`")[2].partition("## `monitor`")[0] for code in (0, 1, 2, 130)
    )


# --- a real program


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    setup = setup_at(folder / "studies", *SMALL, *SIZES)
    ship(study_of(setup, {"march": "native", "MICRO_N": 32, "threads": 1}, 1.01), folder / "export")
    return folder / "export"


def test_a_program_is_compiled_with_the_exported_files(native: Path, tmp_path: Path) -> None:
    found = reopening.reopened(exported_in(native), tmp_path)
    target = found.made.target
    assert isinstance(target, FromFiles)
    artifact = target.build(found.point)
    words = artifact.command
    assert f"@{(native / 'flags.rsp').resolve()}" in words
    assert words[words.index("-include") + 1] == str((native / "config.h").resolve())
    assert not any(w.startswith("-D") or w.startswith("-march") for w in words)
    assert isinstance(target.target, NativeTarget)
    assert artifact.code_key == target.target.build(found.point).code_key, "the files say what the point says"
    assert artifact.code_key != target.build(found.baseline).code_key


def test_the_command_needs_nothing_but_the_export(native: Path, tmp_path: Path) -> None:
    """Moved away, no study near it."""
    shutil.copytree(native, tmp_path / "moved")
    done = command("verify", "moved", "--rounds", "6", "--seconds", "2", "--json", cwd=tmp_path, status=None)
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found["finding"] == "broken" else 0), done.stderr
    assert found["measured"]["rounds"] >= 6
    assert found["errors"]["max_rel_error"] < 1e-3
    assert found["promised"]["ratio"] == 1.01


def test_wrong_answers_break_the_promise(native: Path, tmp_path: Path) -> None:
    """A source that computes something else than when it was exported."""
    place = tmp_path / "wrong"
    shutil.copytree(native, place)
    exported = exported_in(place)
    source = tmp_path / "gemm.cpp"
    made = reopening.reopened(exported, tmp_path / "one")
    right = made.made.target
    assert isinstance(right, FromFiles)
    assert isinstance(right.target, NativeTarget)
    source.write_text(right.target.source.read_text().replace("c[i * c_row + j] = sums", "c[i * c_row + j] = -sums"))
    wrong = replace(right, target=replace(right.target, source=source))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "optimizer.production.verify.reopened",
            lambda *_: replace(made, made=replace(made.made, target=OneWrong(right.target, wrong, made.point))),
        )
        found = verification(place, tmp_path / "two")
    assert found.finding is Finding.BROKEN
    assert "wrong" in found.why[0]


class OneWrong:
    """The baseline as it is, the winner of another source."""

    shares_cpu = True

    def __init__(self, right: NativeTarget, wrong: FromFiles, point: Point) -> None:
        self.right, self.wrong, self.point = right, wrong, point
        self.fingerprint, self.open = right.fingerprint, right.open

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        return self.wrong.build(point) if point == self.point else self.right.build(point)


def test_a_missing_compiler_is_a_wrong_request(native: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "optimizer", "verify", str(native)],
        cwd=tmp_path, env={"PATH": str(tmp_path / "empty"), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "g++ is not installed" in done.stderr


@pytest.mark.parametrize(("name", "said"), [("nowhere", "no folder"), (".", "no export")])
def test_what_is_no_export_is_a_wrong_request(name: str, said: str, tmp_path: Path) -> None:
    assert said in error("verify", name, cwd=tmp_path)


def test_a_recording_can_not_be_run_again(synthetic: Path, tmp_path: Path) -> None:
    exported = exported_in(synthetic)
    with pytest.raises(ConfigError, match="recording"):
        reopening.reopened(replace(exported, target={"kind": "replay"}), tmp_path)
