"""ONNX Runtime: right answers from the folder alone, its own quantisation in the graph, options that took effect."""

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from torchmodels import Make, failure, tried

pytest.importorskip("onnxruntime", reason="needs the extra models")
pytest.importorskip("onnxscript", reason="needs the extra models")

import onnx_ir as ir
import onnxruntime as ort

from optimizer.space import Point
from optimizer.targets.torch.backends.onnx import OnnxRuntime
from optimizer.targets.torch.load import session_options
from optimizer.targets.torch.parts import Job, Knobs
from optimizer.targets.torch.plain import FORWARD, PlainTask, max_rel_error
from optimizer.trial import Reason, TrialError

pytestmark = pytest.mark.extra


def test_a_model_runs_from_the_files_it_left_with_the_threads_asked_for(own: Make) -> None:
    target = own("tiny")
    artifact = target.build(Point({"backend": "onnxruntime", "threads": 2}))
    graph = ir.load(Path(artifact.path) / "forward.onnx").graph
    assert {value.name for value in graph.inputs} == {"input"}
    assert artifact.facts["model_bytes"] == 4 * (8 * 16 + 16 + 16 * 4 + 4)
    assert json.loads(artifact.log)["optimized forward"]["operators"] == {"FusedGemm": 1, "Gemm": 1}
    assert artifact.facts["threads"] == 2
    with target.open(artifact) as runner:
        assert runner.verify().errors["max_rel_error"] < 1e-5
        assert runner.run(3)["latency_s"]
        assert runner.facts["threads"] == 2
        assert "model_bytes" not in runner.facts  # the module was not loaded
        assert runner.facts["compile_warm_s"] < artifact.facts["compile_time_s"]


def test_points_whose_optimised_graphs_agree_are_measured_once(own: Make) -> None:
    target = own("tiny")
    built = {
        level: target.build(Point({"backend": "onnxruntime", "ort_optimization": level}))
        for level in ("none", "extended", "all")
    }
    assert built["extended"].identity == built["all"].identity != built["none"].identity


SCHEMES = {"int8_dynamic": "DynamicQuantizeMatMul", "int8_static": "QGemm", "int8_weight": "MatMulNBits"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_its_own_quantisation_is_in_the_graph_that_runs(own: Make, scheme: str) -> None:
    target = own("tiny", arguments={"width": 64})
    artifact = target.build(Point({"backend": "onnxruntime", "quantize": scheme}))
    optimized = json.loads(artifact.log)["optimized forward"]
    assert optimized["operators"][SCHEMES[scheme]] == 1  # the head stays in float32
    assert {"int8", "uint8"} & optimized["constants"].keys()
    with target.open(artifact) as runner:
        assert 0 < runner.verify().errors["max_rel_error"] < 0.4  # static ranges come from a few numbers here


def test_weights_of_four_bits_take_half_a_byte(own: Make) -> None:
    target = own("tiny", arguments={"width": 64})
    knobs: Knobs = {"backend": "onnxruntime", "quantize_group": 32, "quantize_head": True}
    schemes = ("int8_weight", "int4_weight")
    sizes = {s: target.build(Point({**knobs, "quantize": s})).facts["model_bytes"] for s in schemes}
    assert 0.4 < sizes["int4_weight"] / sizes["int8_weight"] < 0.8


def test_the_first_layer_and_the_head_stay_as_they_are_where_asked(own: Make) -> None:
    error = failure(lambda: tried(own("tiny"), backend="onnxruntime", quantize="int8_static", quantize_first=False))
    assert error.reason is Reason.REJECTED
    assert "no layer is left" in error.log
    artifact = own("images", axis=1).build(
        Point({"backend": "onnxruntime", "quantize": "int8_static", "quantize_first": False, "quantize_head": True})
    )
    assert json.loads(artifact.log)["optimized forward"]["operators"]["QLinearConv"] == 1


def test_a_scheme_that_nothing_computes_with_is_a_failed_trial(own: Make) -> None:
    error = failure(lambda: tried(own("tiny"), backend="onnxruntime", quantize="int8_static", ort_optimization="none"))
    assert error.reason is Reason.REJECTED
    assert "computes in integers" in error.log


def test_calibration_never_sees_what_is_judged(tmp_path: Path) -> None:
    """A static scale comes from the calibration alone: inputs of the test beyond its range are cut off."""
    small = torch.linspace(-1, 1, 32).view(4, 8)

    def make() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))

    task = PlainTask("t", make, (small,), ((100 * small,),), ((small,),))
    knobs: Knobs = {"quantize": "int8_static"}
    job = Job(task, knobs, "cpu", tmp_path, tmp_path, task.load, task.entries())
    with torch.no_grad():
        backend = OnnxRuntime()
        backend.build(job)
        call, right = backend.load(job)[FORWARD], task.load()
        near, far = (max_rel_error(cast(Tensor, call(x)), right(x)) for x in (small, 100 * small))
    assert near < 0.1
    assert far > 0.5


def test_outputs_of_two_calls_do_not_share_memory(tmp_path: Path) -> None:
    x = torch.randn(2, 8)
    task = PlainTask("t", lambda: torch.nn.Linear(8, 4), (x,), ((x,),), ((x,),))
    job = Job(task, {}, "cpu", tmp_path, tmp_path, task.load, task.entries())
    with torch.no_grad():
        backend = OnnxRuntime()
        backend.build(job)
        call = backend.load(job)[FORWARD]
        first = cast(Tensor, call(x))
        kept = first.clone()
        call(x + 1)
        assert torch.equal(first, kept)
        assert torch.equal(cast(Tensor, call(x.t().contiguous().t())), kept)
        with pytest.raises(Exception, match="nvalid"):  # it was compiled for one shape; the library's own exception
            call(torch.randn(3, 8))


def test_options_are_those_of_the_point() -> None:
    knobs: Knobs = {
        "threads": 3,
        "ort_optimization": "basic",
        "ort_execution": "parallel",
        "ort_inter_threads": 2,
        "ort_spinning": False,
        "ort_arena": False,
        "ort_memory_pattern": False,
        "ort_flush_denormals": True,
    }
    options = session_options(knobs)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.set_denormal_as_zero") == "1"
    plain = session_options({})
    assert plain.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert (plain.intra_op_num_threads, plain.enable_cpu_mem_arena) == (0, True)


def test_what_has_no_calibration_of_its_shape_is_refused(tmp_path: Path) -> None:
    from optimizer.targets.torch.backends.onnx_graph import calibrating

    x = torch.randn(2, 8)
    task = PlainTask("t", lambda: torch.nn.Linear(8, 4), (x,), ((x,),), ())
    job = Job(task, {}, "cpu", tmp_path, tmp_path, task.load, {**task.entries(), "other": (torch.randn(3, 8),)})
    with pytest.raises(TrialError, match="shape of other"):
        calibrating(job, task.load())
