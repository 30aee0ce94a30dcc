"""report, export, track and ui: on studies that exist, and on ones that don't."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from commands import PROGRAM, QUICK, command, environment, error, search_json
from simple import TINY, failed, recipe_of

from optimizer.journal import Journal, Settings
from optimizer.recipe import Environment
from optimizer.trial import Reason


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that has a winner (`won`) and one in which every point is the same (`same`)."""
    folder = tmp_path_factory.mktemp("place")
    search_json(*QUICK, "study=won", cwd=folder)
    search_json(*QUICK, "study=same", "target.alike=true", "tracking=none", cwd=folder)
    return folder


def test_a_report_is_printed_and_written(place: Path) -> None:
    said = command("report", "won", cwd=place).stdout
    assert said.startswith("# won\n")
    assert "**Better**" in said
    assert (place / "studies/won/report.md").read_text() == said


@pytest.mark.parametrize("name", ["won", "studies/won", "studies/won/journal.jsonl"])
def test_a_study_is_named_in_three_ways(name: str, place: Path) -> None:
    assert command("report", name, cwd=place).stdout.startswith("# won\n")


def test_another_folder_of_studies(place: Path, tmp_path: Path) -> None:
    said = command("report", "won", f"studies_dir={place / 'studies'}", cwd=tmp_path).stdout
    assert said.startswith("# won\n")


def test_an_export_has_the_winner(place: Path, tmp_path: Path) -> None:
    said = command("export", "won", "--out", str(tmp_path / "out"), cwd=place).stdout
    assert "winner.yaml" in said
    provenance = json.loads((tmp_path / "out/provenance.json").read_text())
    assert provenance["confirmed"] is True
    assert provenance["verdict"]["judgement"] == "better"


def test_what_was_not_proved_is_exported_only_by_force(place: Path, tmp_path: Path) -> None:
    said = error("export", "same", "--out", str(tmp_path / "out"), cwd=place)
    assert "--force" in said
    assert not (tmp_path / "out").exists()
    command("export", "same", "--out", str(tmp_path / "out"), "--force", cwd=place)
    assert json.loads((tmp_path / "out/provenance.json").read_text())["confirmed"] is False


def test_a_study_without_a_working_trial_can_not_be_exported(place: Path, tmp_path: Path) -> None:
    """--force lifts the proof, never the wrong answer."""
    path = tmp_path / "studies" / "wrong" / "journal.jsonl"
    point = TINY.baseline()
    with Journal.create(path, "wrong", recipe_of(TINY), Environment("here"), Settings()) as journal:
        journal.on_trial(failed(0, Reason.WRONG, point))
        journal.on_trial(failed(1, Reason.WRONG, point))
    assert "nothing to export" in error("export", "wrong", "--force", cwd=tmp_path)


def test_an_export_that_cannot_be_written_is_told(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in error("export", "won", "--out", str(tmp_path / "file"), cwd=place)


@pytest.mark.parametrize("verb", ["report", "export", "track"])
def test_a_study_that_does_not_exist_is_told_with_the_nearest(verb: str, place: Path) -> None:
    said = error(verb, "wonn", cwd=place)
    assert "wonn" in said
    assert "won" in said.replace("wonn", "")


@pytest.mark.parametrize("verb", ["report", "export", "track"])
def test_a_setting_that_is_none_is_told_with_the_nearest(verb: str, place: Path) -> None:
    assert "studies_dir" in error(verb, "won", "studie_dir=x", cwd=place)


def test_tracking_again_changes_nothing_and_elsewhere_sends_all(place: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    def count(uri: str) -> int:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("synthetic")
        assert experiment is not None
        return len(client.search_runs([experiment.experiment_id], max_results=1000))

    here = f"sqlite:///{place}/studies/mlflow.db"
    before = count(here)
    assert before == 13
    assert "12 trials of won" in command("track", "won", cwd=place).stdout
    assert count(here) == before
    elsewhere = f"sqlite:///{tmp_path}/new/other.db"
    command("track", "same", f"tracking.uri={elsewhere}", cwd=place)
    assert count(elsewhere) == 13


def test_a_server_that_is_not_there_is_told(place: Path) -> None:
    said = error("track", "won", "tracking.uri=http://127.0.0.1:9", cwd=place, status=1)
    assert "http://127.0.0.1:9" in said
    assert "again" in said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_ui_serves_the_store_on_loopback(place: Path) -> None:
    port = free_port()
    server = subprocess.Popen(
        [*PROGRAM, "ui", "--port", str(port)],
        cwd=place, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}" in server.stdout.readline()
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert answer.status == 200
                break
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, "the UI did not come up"
                time.sleep(0.3)
        said = error("ui", "--port", str(port), cwd=place)
        assert "--port" in said
    finally:
        family = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        server.communicate(timeout=30)
    assert family
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], "it leaves nothing behind"


def test_the_ui_without_a_store_is_told(tmp_path: Path) -> None:
    assert "first search" in error("ui", cwd=tmp_path)


def test_the_ui_of_a_server_is_the_server(tmp_path: Path) -> None:
    assert "browser" in error("ui", "tracking.uri=http://somewhere:5000", cwd=tmp_path)


def test_a_reader_that_leaves_is_no_failure(place: Path) -> None:
    """python -m optimizer report won | head -1"""
    words = [*PROGRAM, "report", "won"]
    with subprocess.Popen(
        words, cwd=place, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
    assert "Traceback" not in said
    assert "Exception" not in said
    assert process.returncode == 0


def test_output_that_cannot_be_encoded_is_no_crash(place: Path) -> None:
    done = command("report", "won", cwd=place, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, status=None)
    assert "Traceback" not in done.stderr, done.stderr
