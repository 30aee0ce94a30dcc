"""ingest, report over several, and compare, as they are typed."""

import json
import shutil
from pathlib import Path

import pytest
from commands import command, error, search_json

DATA = Path(__file__).parents[1] / "data"
CHIMERA = DATA / "chimera"
GRID = "gemma3_270m_param_tuning-csv"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the published files were ingested."""
    folder = tmp_path_factory.mktemp("ingested")
    said = command("ingest", str(CHIMERA), "tracking=none", cwd=folder).stdout
    assert said.startswith("26 files: 25 new, 1 of an unknown kind.")
    assert "LICENSE: text of an unknown kind" in said
    return folder


def test_the_same_files_twice_change_nothing(place: Path) -> None:
    before = {p: p.read_bytes() for p in place.rglob("journal.jsonl")}
    told = json.loads(command("ingest", str(CHIMERA), "tracking=none", "--json", cwd=place).stdout)
    assert told["counts"] == {"known": 25, "unknown": 1}
    assert {p: p.read_bytes() for p in place.rglob("journal.jsonl")} == before


def test_what_can_not_be_read_is_listed_and_the_rest_is_taken(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    shutil.copy(CHIMERA / "kernel_benchmarks.json", files)
    (files / "damaged.json").write_text('{"cache": ')
    (files / "notes.txt").write_text("hello")
    told = json.loads(command("ingest", "files", "tracking=none", "--json", cwd=tmp_path, status=1).stdout)
    assert told["counts"] == {"new": 1, "damaged": 1, "unknown": 1}
    assert {f["why"] for f in told["files"] if f["state"] == "damaged"} == {"it is called JSON and is none"}
    assert "notes.txt" in error("ingest", "files/notes.txt", cwd=tmp_path)
    assert "missing" in error("ingest", "missing", cwd=tmp_path)
    assert "studies_dir" in error("ingest", "files", "studie_dir=x", cwd=tmp_path)
    assert "needs files" in error("ingest", "tracking=none", cwd=tmp_path)


def test_ingested_studies_go_to_mlflow_once_with_their_failures(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    path = str(CHIMERA / "conv_cuda_bench_20251002-172037.json")
    for _ in range(2):
        command("ingest", path, cwd=tmp_path)
    command("track", "conv_cuda_bench_20251002-172037-json", cwd=tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/studies/mlflow.db")
    experiment = client.get_experiment_by_name("chimera-backends")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    children = {r.data.params["backend"]: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    assert len(runs) == 6
    assert children["onnx"].data.metrics["latency_s"] == pytest.approx(773.98e-6, rel=1e-5)
    failed = children["torch_compile"]
    assert (failed.info.status, failed.data.tags["reason"]) == ("FAILED", "compile")
    assert "triton" in Path(client.download_artifacts(failed.info.run_id, "build.log")).read_text()


def test_a_tracking_server_that_is_not_there_costs_nothing_but_a_message(tmp_path: Path) -> None:
    path = str(CHIMERA / "kernel_benchmarks.json")
    done = command("ingest", path, "tracking.uri=http://127.0.0.1:9", cwd=tmp_path, status=1)
    assert "tracking=none" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "studies/kernel_benchmarks-json/journal.jsonl").is_file()


def test_a_report_of_all_of_them(place: Path) -> None:
    done = command("report", "studies", cwd=place)
    assert done.stdout.startswith("# studies\n")
    assert "3 of 4 standard deviations are 2.7 to 3.0 times their means" in done.stdout
    assert (place / "reports/studies/report.md").read_text() == done.stdout
    told = json.loads((place / "reports/studies/report.json").read_text())
    assert told["format"] == "optimizer-report"
    straight = command("report", str(CHIMERA), "--json", "--out", "there", cwd=place)
    assert "LICENSE" in straight.stderr
    assert json.loads(straight.stdout)["findings"] == told["findings"], "files that were not ingested say the same"
    assert json.loads((place / "there/report.json").read_text()) == json.loads(straight.stdout)


def test_a_report_of_one_of_them(place: Path) -> None:
    said = command("report", GRID, cwd=place).stdout
    assert said.startswith(f"# {GRID}\n")
    assert "`temperature` looks as if it drove ttft_s" in said
    assert (place / "studies" / GRID / "report.md").read_text() == said
    assert (place / "studies" / GRID / "report.json").is_file()


def test_an_ingested_study_is_searched_again(place: Path) -> None:
    words = ("target=replay", f"target.file=studies/{GRID}/journal.jsonl", "tracking=none", "study=again")
    goal = ("objective.metrics.tokens_per_s=maximize", "~objective.metrics.latency_s")
    found = search_json(*words, *goal, "strategy=grid", "budget.trials=36", "studies_dir=elsewhere", cwd=place)
    assert (found["trials"], found["failed"]) == (36, {"timeout": 2})


def test_compare(place: Path) -> None:
    other = "gemma3_1b-it-qat_param_tuning-csv"
    said = command("compare", GRID, other, "gemma3_param_tuning-csv", cwd=place).stdout
    assert said.count(f"# {GRID} against ") == 2
    assert "**0.639×** (0.625 to 0.647): median of 34 pairs" in said
    told = json.loads(command("compare", GRID, other, "metric=ttft_s", "--json", cwd=place).stdout)
    assert told["comparisons"][0]["metric"] == "ttft_s"
    assert "did not run the same work" in error("compare", GRID, "kernel_benchmarks-json", cwd=place)
    assert "two things" in error("compare", GRID, cwd=place)
    assert other in error("compare", GRID, other[:-2], cwd=place)
    (place / "provenance.json").write_text("{")
    assert "provenance.json" in error("compare", "provenance.json", GRID, cwd=place)
