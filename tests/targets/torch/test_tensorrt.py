"""TensorRT: a point's options by torch-tensorrt's names anywhere; engines and right answers where there is a GPU."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from torchmodels import Make

from optimizer.space import Point
from optimizer.targets.torch.backends.tensorrt import TF32_TOLERANCE, TensorRt, compile_options
from optimizer.targets.torch.parts import FP32_TOLERANCE
from optimizer.targets.torch.tables import BACKENDS


def test_options_have_torch_tensorrts_names_and_nothing_comes_from_another_trial(tmp_path: Path) -> None:
    plain = compile_options({}, tmp_path)
    assert plain["disable_tf32"] is True
    assert (plain["cache_built_engines"], plain["reuse_cached_engines"]) == (False, False)
    assert Path(plain["timing_cache_path"]).parent == tmp_path
    assert "max_aux_streams" not in plain
    knobs = {
        "trt_optimization_level": 5,
        "trt_tf32": True,
        "trt_sparse_weights": True,
        "trt_aux_streams": 2,
        "trt_min_block": 1,
        "trt_timing_iterations": 4,
    }
    assert compile_options(knobs, tmp_path).items() - plain.items() == {
        ("optimization_level", 5),
        ("disable_tf32", False),
        ("sparse_weights", True),
        ("max_aux_streams", 2),
        ("min_block_size", 1),
        ("num_avg_timing_iters", 4),
    }


def test_fewer_bits_of_mantissa_are_allowed_for() -> None:
    assert TensorRt().tolerance({"trt_tf32": True}) == TF32_TOLERANCE
    assert TensorRt().tolerance({}) == FP32_TOLERANCE


def test_where_it_can_not_run_the_remedy_is_named() -> None:
    offer = BACKENDS["tensorrt"]
    if find_spec("torch_tensorrt") is None:
        assert "inference-optimizer[tensorrt]" in (offer.missing("cuda") or "")
    else:
        assert "device=cpu" in (offer.missing("cpu") or "")


@pytest.mark.gpu
def test_engines_answer_right_from_the_folder_alone(own: Make) -> None:
    import torch

    if find_spec("torch_tensorrt") is None or not torch.cuda.is_available():
        pytest.skip("needs a GPU and the extra tensorrt")
    target = own("tiny", device="cuda")
    artifact = target.build(Point({"backend": "tensorrt", "trt_min_block": 1}))
    assert artifact.facts["graphs"] == 1
    assert artifact.facts["graph_breaks"] == 0
    with target.open(artifact) as runner:
        assert runner.verify().errors["max_rel_error"] < FP32_TOLERANCE
        assert runner.run(3)["latency_s"]
