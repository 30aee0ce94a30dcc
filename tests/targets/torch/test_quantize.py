"""Quantised nets: the weights are really stored so, the answers stay near, what can't be done is refused by name."""

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from optimizer.targets.torch.layers import chosen, layers_of, stored_bytes, weight_type
from optimizer.targets.torch.parts import Knobs, Task
from optimizer.targets.torch.quantize import Quantize, quantized
from optimizer.trial import Reason, TrialError

SCHEMES = {  # how a weight is stored, the most that an answer may move
    "bf16": ("bfloat16", 0.03),
    "fp16": ("float16", 0.01),
    "int8_weight": ("Int8Tensor[int8, float32]", 0.03),
    "int8_dynamic": ("Int8Tensor[int8, float32]", 0.06),
    "int4_weight": ("IntxUnpackedToInt8Tensor[int8, float32]", 0.4),
    "int8_dynamic_int4_weight": ("IntxUnpackedToInt8Tensor[int8, float32]", 0.4),
    "float8_weight": ("Float8Tensor[float8_e4m3fn, float32]", 0.15),
    "int8_legacy": ("qint8", 0.06),
}
HEAD = {"quantize_head": True, "quantize_group": 32}


class Stack(nn.Module):
    """Three blocks and a head, as a language model has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return cast(torch.Tensor, self.head(x))


def stack() -> Stack:
    torch.manual_seed(1)
    return Stack().eval().requires_grad_(False)


def task() -> Task:
    return cast(Task, None)  # quantising needs no data


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_stored_as_the_scheme_says_and_answers_stay_near(scheme: str, tmp_path: Path) -> None:
    kind, most = SCHEMES[scheme]
    x = torch.randn(16, 64)
    with torch.inference_mode():
        reference = stack()(x)
        made = Quantize().apply(stack(), task(), {"quantize": scheme, **HEAD}, tmp_path)
        said = made.module(x)
        again = Quantize().restore(stack(), task(), {"quantize": scheme, **HEAD}, tmp_path).module(x)
    assert made.notes["weight_types"] == {kind: 4}
    assert said.dtype == torch.float32
    error = float((said - reference).abs().max() / reference.abs().max())
    assert 0 < error <= most
    assert torch.equal(said, again)
    assert stored_bytes(made.module) < 0.6 * stored_bytes(stack())


def test_first_last_and_head_are_left_alone_where_the_point_says_so() -> None:
    layers = layers_of(stack(), (nn.Linear,))
    names = {
        (first, last, head): [x.name for x in chosen(layers, first=first, last=last, head=head)]
        for first, last, head in [(True, True, True), (False, True, True), (True, False, False), (False, False, False)]
    }
    assert names[True, True, True] == ["layers.0.0", "layers.1.0", "layers.2.0", "head"]
    assert names[False, True, True] == ["layers.1.0", "layers.2.0", "head"]
    assert names[True, False, False] == ["layers.0.0", "layers.1.0"]
    assert names[False, False, False] == ["layers.1.0"]

    net = quantized(stack(), {"quantize": "int8_weight", "quantize_first": False}).module
    kinds = [weight_type(layer.module) for layer in layers_of(net, (nn.Linear,))]
    assert kinds == ["float32", "Int8Tensor[int8, float32]", "Int8Tensor[int8, float32]", "float32"]


@pytest.mark.parametrize(
    ("net", "knobs", "why"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3)), {"quantize": "int8_weight"}, "would change nothing"),
        (nn.Sequential(nn.Linear(8, 8)), {"quantize": "int8_weight"}, "no linear layer is left"),
        (nn.Sequential(nn.Linear(48, 8)), {"quantize": "int4_weight", **HEAD, "quantize_group": 64}, "multiple of 64"),
        (nn.Sequential(nn.Linear(8, 8)), {"quantize": "int8_static"}, "backend=onnxruntime"),
        (nn.Sequential(nn.Linear(8, 8)), {"quantize": "int7"}, "int7 is not known"),
        (nn.Sequential(nn.ReLU()), {"quantize": "bf16"}, "still float32"),
    ],
)
def test_a_scheme_that_would_change_nothing_is_refused(net: nn.Module, knobs: Knobs, why: str, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=why) as caught:
        Quantize().apply(net.eval(), task(), knobs, tmp_path)
    assert caught.value.reason is Reason.REJECTED


def test_what_does_not_work_here_is_named_before_the_search() -> None:
    quantize = Quantize()
    assert {s: quantize.missing(s, "cpu") for s in ("none", *SCHEMES)} == dict.fromkeys(("none", *SCHEMES))
    if not torch.cuda.is_available():
        reason = quantize.missing("float8_dynamic", "cpu")
        assert reason is not None
        assert "float8_dynamic does not work here on device=cpu" in reason
    assert "kernels for the processor" in (quantize.missing("int8_legacy", "cuda") or "")
    assert set(quantize.values()) == {"none", *SCHEMES, "float8_dynamic", "int8_static"}


def test_rounding_a_head_leaves_the_embedding_that_it_shared_weights_with_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(64, 32)
            self.head = nn.Linear(32, 64, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return cast(torch.Tensor, self.head(self.embedding(tokens)))

    net = Tied().eval().requires_grad_(False)
    before, size = net.embedding.weight.clone(), stored_bytes(net)
    made = quantized(net, {"quantize": "int8_weight", "quantize_head": True}).module
    assert torch.equal(net.embedding.weight, before)
    assert size == 64 * 32 * 4
    assert stored_bytes(made) > size  # the head's own int8 weights come on top


def test_an_inactive_knob_changes_nothing() -> None:
    assert not Quantize().active({})
    assert not Quantize().active({"quantize": "none"})
    assert Quantize().tolerance({}) < 1e-2 < Quantize().tolerance({"quantize": "bf16"})
