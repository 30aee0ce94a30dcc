"""The CUDA study: what it says without a GPU, and what it makes of what the command line tells it."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import script
from fake_nvml import FakeNvml
from test_telemetry import answering

RUN = Path(__file__).parents[2] / "experiments" / "cuda" / "run.py"


@pytest.fixture
def study() -> Any:
    return script(RUN)


def document(judgement: str, low: float = 1.1, high: float = 1.3, **failed: int) -> dict[str, Any]:
    metrics = {"latency_s": 1e-3, "power_w": 300.0, "energy_j": 0.3, "compile_time_s": 1.0}
    return {
        "baseline": {"metrics": metrics},
        "best": {"number": 7, "point": {"BLOCK_M": 64}, "metrics": metrics},
        "verdict": {"verdict": judgement, "ratio": 1.2, "low": low, "high": high},
        "trials": 60,
        "measured": 60 - sum(failed.values()),
        "failed": failed,
        "seconds": {"total": 100.0},
    }


SAME = document("same", 0.99, 1.01)


def test_without_a_gpu_it_says_so_in_json(
    study: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, None)
    assert study.main([]) == 0
    assert "no NVIDIA GPU" in json.loads(capsys.readouterr().out)["skipped"]


def test_rates_and_telemetry_are_published_and_the_rest_is_not(study: Any) -> None:
    found = study.summary(document("better"), SAME, document("better"))
    assert found["best"] == {"number": 7, "point": {"BLOCK_M": 64}, "latency_s": 1e-3}
    assert found["telemetry"] == {"power_w": 300.0, "energy_j": 0.3}
    assert found["aa"] == {"ratio": 1.2, "low": 0.99, "high": 1.01}
    assert all(found["checks"].values())


@pytest.mark.parametrize(
    ("searched", "itself", "again", "broken"),
    [
        (document("better", wrong=1), SAME, document("better"), "nothing_wrong"),
        (document("better"), document("same", 1.01, 1.2), document("better"), "aa_holds_one"),
        (document("better"), SAME, document("better", crash=1), "export_is_measured"),
        (document("better"), SAME, document("same"), "export_repeats_the_proof"),
    ],
)
def test_what_does_not_hold_is_named(
    study: Any, searched: dict[str, Any], itself: dict[str, Any], again: dict[str, Any], broken: str
) -> None:
    checks = study.summary(searched, itself, again)["checks"]
    assert [name for name, holds in checks.items() if not holds] == [broken]


def test_the_steps_are_commands_that_a_user_could_type(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    answering(monkeypatch, FakeNvml("h100_busy"))
    typed: list[tuple[str, ...]] = []

    def run(_: object, *words: str) -> str:
        typed.append(words)
        return json.dumps(SAME if "study=gemm_cuda-aa" in words else document("better"))

    monkeypatch.setattr(study.Study, "_run", run)
    assert study.main(["--out", str(tmp_path), "--targets", "gemm_cuda"]) == 0
    assert [words[0] for words in typed] == ["search", "search", "export", "search"]
    assert "budget.trials=60" in typed[0]
    assert "experiment=winner" in typed[3]
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result == json.loads(capsys.readouterr().out)
    assert result["device"] == ["NVIDIA H100 80GB HBM3"]
    assert result["targets"]["gemm_cuda"]["holds"] is True
