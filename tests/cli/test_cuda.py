"""CUDA targets from the command line where there is no GPU: a verdict on what builds tell, and no time of any run."""

import json
from pathlib import Path

import pytest
from commands import command, error, search_json

from optimizer.nvml import gpus
from optimizer.targets.cuda.compile import found_toolchains

NO_GPU = pytest.mark.skipif(bool(gpus()[0]), reason="a GPU answers here: tests/gpu searches on it")
pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(not found_toolchains(), reason="needs a CUDA compiler (extra: cuda)"),
]
COMPILE_SIDE = ("target=gemm_cuda", "device=none", "space.compiler=nvrtc", "measure=quick", "budget.trials=5")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    found = search_json(*COMPILE_SIDE, "study=compiled", cwd=folder)
    (folder / "result.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def test_the_compile_side_is_searched_to_a_verdict_in_mlflow(place: Path) -> None:
    from mlflow import MlflowClient

    found = json.loads((place / "result.json").read_text())
    assert found["trials"] == 5
    assert found["verdict"]["metric"] == "compile_time_s"
    assert found["verdict"]["verdict"] in ("better", "same")
    assert found["front"]
    metrics = found["baseline"]["metrics"]
    assert metrics["max_rel_error"] < 1e-4, "the processor executed the kernel"
    assert {"compile_time_s", "compile_frontend_s", "compile_ptxas_s"} <= metrics.keys()
    assert {"registers", "spill_bytes", "shared_bytes", "occupancy_pct", "instructions_fma"} <= metrics.keys()
    assert not {"latency_s", "throughput_ips", "achieved_flop_per_s", "gpu_utilization_pct"} & metrics.keys()
    client = MlflowClient(found["tracking"]["uri"])
    runs = client.search_runs([found["tracking"]["experiment_id"]])
    assert len(runs) == 6, "the search and its trials"
    assert any(run.data.metrics.get("occupancy_pct") == metrics["occupancy_pct"] for run in runs)
    assert not any("latency_s" in run.data.metrics for run in runs)


def test_tensor_cores_are_marked_unverified(place: Path) -> None:
    journal = (place / "studies/compiled/journal.jsonl").read_text().splitlines()
    trials = [record for line in journal if (record := json.loads(line)).get("kind") == "trial"]
    tensor = [t for t in trials if t["point"].get("TENSOR")]
    assert tensor, "a known good point is on tensor cores"
    for trial in trials:
        if trial["same_as"] is None and "samples" in trial:
            assert ("unverified" in trial["samples"]) == bool(trial["point"].get("TENSOR"))


def test_report_and_export_say_that_nothing_ran(place: Path, tmp_path: Path) -> None:
    report = command("report", "compiled", cwd=place).stdout
    assert "Compile side only, nothing ran." in report
    command("export", "compiled", "--force", "--out", str(tmp_path / "out"), cwd=place)
    assert json.loads((tmp_path / "out/provenance.json").read_text())["compile_side_only"] is True
    assert "nothing ran" in (tmp_path / "out/config.h").read_text()


@NO_GPU
def test_without_a_gpu_the_remedy_is_named(tmp_path: Path) -> None:
    said = error("search", "target=gemm_cuda", cwd=tmp_path)
    assert "device=none" in said


def test_an_architecture_that_no_compiler_knows_fails_before_trial_0(tmp_path: Path) -> None:
    said = error("search", *COMPILE_SIDE, "space.arch=sm_999", cwd=tmp_path)
    assert "sm_999" in said
    assert "sm_90" in said
    assert not (tmp_path / "studies").exists()


def test_too_large_a_block_is_told_with_its_numbers(tmp_path: Path) -> None:
    tile = ("baseline.BLOCK_M=256", "baseline.BLOCK_N=256")
    said = error("search", *COMPILE_SIDE, *tile, cwd=tmp_path)
    assert "block_of_threads" in said
    assert "32 <= 65536 <= 1024" in said


def test_nvcc_that_is_not_there_is_told_with_what_brings_it(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    words = ("target=gemm_cuda", "device=none", "space.compiler=nvcc", "budget.trials=2")
    env = {"PATH": str(tmp_path / "bin")}
    done = command("search", *words, cwd=tmp_path, env=env, status=2)
    assert "inference-optimizer[cuda]" in done.stderr
