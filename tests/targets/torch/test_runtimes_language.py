"""A language model in ONNX Runtime and OpenVINO: three entries from one file of weights, the cache in and out."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra models")
pytest.importorskip("onnxruntime", reason="needs the extra models")
pytest.importorskip("onnxscript", reason="needs the extra models")
pytest.importorskip("openvino", reason="needs the extra models")

from optimizer.targets.torch.backends.onnx import OnnxRuntime
from optimizer.targets.torch.backends.openvino import OpenVino
from optimizer.targets.torch.language import LanguageTask, language_task
from optimizer.targets.torch.parts import Backend, Job, Knobs

pytestmark = pytest.mark.extra
SIZES = {
    "windows": 1,
    "window_tokens": 24,
    "calibration_windows": 2,
    "calibration_tokens": 24,
    "prompt_tokens": 12,
    "generate_tokens": 4,
}


def built(backend: Backend, knobs: Knobs, folder: Path) -> tuple[LanguageTask, Job, dict[str, float]]:
    task = language_task({"weights": "random", "size": "tiny_llama", **SIZES}, knobs, "cpu", folder / "cache")
    place = folder / "artifact"
    place.mkdir()
    job = Job(task, knobs, "cpu", place, place, task.load, task.entries())
    return task, job, dict(backend.build(job).facts)


@pytest.mark.parametrize("runtime", [OnnxRuntime, OpenVino])
def test_it_says_what_the_model_says_with_and_without_its_cache(runtime: type[Backend], tmp_path: Path) -> None:
    with torch.no_grad():
        task, job, facts = built(runtime(), {}, tmp_path)
        calls = runtime().load(job)
        module = task.load()
        reference = task.answers(dict.fromkeys(job.entries, module))
        check = task.judge(task.answers(calls), reference)
        reading = task.scenario(calls)
    weights = sum({p.data_ptr(): 4 * p.numel() for p in module.parameters()}.values())
    assert check.errors["max_rel_error"] < 1e-4
    assert reading.metrics["tokens_per_s"] > 0
    assert facts["graphs"] == 3
    assert 0.9 * weights < facts["model_bytes"] < 1.5 * weights  # once, not once an entry


def test_static_int8_is_calibrated_for_every_entry(tmp_path: Path) -> None:
    """Prompt and generated tokens come from the scenario, whose text is the calibration's."""
    with torch.no_grad():
        task, job, _ = built(OnnxRuntime(), {"quantize": "int8_static"}, tmp_path)
        check = task.judge(task.answers(OnnxRuntime().load(job)), task.answers(dict.fromkeys(job.entries, task.load())))
    assert 0 < check.errors["max_rel_error"] < 0.5
