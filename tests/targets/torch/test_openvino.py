"""OpenVINO: right answers from its own files, precisions and integers that its graph shows, properties kept."""

import json
from pathlib import Path

import pytest
from torchmodels import Make, failure, tried

pytest.importorskip("openvino", reason="needs the extra models")
pytest.importorskip("onnxscript", reason="needs the extra models")

import openvino as ov

from optimizer.space import Point
from optimizer.targets.torch.load import properties
from optimizer.targets.torch.parts import Knobs
from optimizer.trial import Reason

pytestmark = pytest.mark.extra
CAPABLE = set(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def test_a_model_runs_from_its_ir_with_the_threads_asked_for(own: Make) -> None:
    target = own("tiny")
    artifact = target.build(Point({"backend": "openvino", "threads": 2}))
    assert sorted(p.name for p in Path(artifact.path).glob("forward.*")) == ["forward.bin", "forward.xml"]
    assert not list(Path(artifact.path).glob("*.onnx"))
    assert artifact.facts["model_bytes"] == pytest.approx(4 * (8 * 16 + 16 + 16 * 4 + 4), abs=16)
    assert artifact.facts["threads"] == 2
    with target.open(artifact) as runner:
        assert runner.verify().errors["max_rel_error"] < 1e-5
        assert runner.run(3)["latency_s"]
        assert runner.facts["threads"] == 2
        assert runner.facts["compile_warm_s"] < artifact.facts["compile_time_s"]


@pytest.mark.parametrize(("precision", "capability"), [("bf16", "BF16"), ("f16", "FP16")])
def test_a_precision_shows_in_the_runtimes_graph_or_fails_the_trial(own: Make, precision: str, capability: str) -> None:
    target = own("images", axis=1)
    point = Point({"backend": "openvino", "ov_precision": precision})
    if capability not in CAPABLE:
        assert failure(lambda: target.build(point)).reason is Reason.REJECTED
        return
    artifact = target.build(point)
    layers = json.loads(artifact.log)["runtime forward"]["Convolution"]
    assert all(precision in how for how in layers)
    with target.open(artifact) as runner:
        assert 1e-5 < runner.verify().errors["max_rel_error"] < 0.05


@pytest.mark.parametrize("scheme", ["int8_static", "int8_weight", "int4_weight"])
def test_integers_show_in_the_runtimes_graph(own: Make, scheme: str) -> None:
    target = own("tiny", arguments={"features": 64, "width": 64})
    knobs: Knobs = {"backend": "openvino", "quantize": scheme, "quantize_group": 32, "quantize_head": True}
    artifact = target.build(Point(knobs))
    layers = json.loads(artifact.log)["runtime forward"]["FullyConnected"]
    assert any(how.startswith(("u8", "i8", "u4", "i4")) for how in layers)
    assert artifact.facts["model_bytes"] < 0.6 * 4 * (64 * 64 + 64 + 64 * 4 + 4)
    with target.open(artifact) as runner:
        assert 0 < runner.verify().errors["max_rel_error"] < 0.4


def test_a_scheme_that_would_change_nothing_is_refused(own: Make) -> None:
    error = failure(lambda: tried(own("images"), backend="openvino", quantize="int8_weight"))
    assert error.reason is Reason.REJECTED
    assert "would change nothing" in error.log


def test_properties_are_those_of_the_point() -> None:
    assert properties({}) == {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    knobs: Knobs = {
        "threads": 2,
        "ov_precision": "bf16",
        "ov_hint": "throughput",
        "ov_streams": 2,
        "ov_pinning": True,
        "ov_flush_denormals": True,
    }
    assert properties(knobs) == {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": 2,
        "NUM_STREAMS": 2,
        "ENABLE_CPU_PINNING": True,
        "CPU_DENORMALS_OPTIMIZATION": True,
    }
