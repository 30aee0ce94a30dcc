"""Pruned nets: the asked share is really gone, channels really removed, what matters kept, and restored alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from optimizer.targets.torch.channels import least, removable, remove
from optimizer.targets.torch.layers import layers_of
from optimizer.targets.torch.nets import NETS
from optimizer.targets.torch.parts import Inputs, Knobs, Task
from optimizer.targets.torch.plain import PlainTask
from optimizer.targets.torch.prune import Prune, input_norms
from optimizer.trial import Reason, TrialError


class Gated(nn.Module):
    """Two residual blocks of attention and a gated MLP, as language models have them, on real-valued inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({n: nn.Linear(i, o, bias=False) for n, i, o in _PARTS}) for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.layers:
            layer = cast(Any, part)
            q, k, v = (layer[n](x).view(*x.shape[:2], 2, 8).transpose(1, 2) for n in "qkv")
            mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
            x = x + layer["out"](mixed)
            x = x + layer["down"](functional.silu(layer["gate"](x)) * layer["up"](x))
        return cast(Tensor, self.head(self.norm(x)))


_PARTS = [(n, 16, 16) for n in ("q", "k", "v", "out")] + [("gate", 16, 32), ("up", 16, 32), ("down", 32, 16)]


class Digits(nn.Module):
    """Convolutions, then flattened into linear layers: a channel becomes many inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.fc, self.head = nn.Linear(8 * 4 * 4, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(functional.relu(self.fc(self.conv(x).flatten(1)))))


SHAPES: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "gated": (Gated, (2, 6, 16)),
    "digits": (Digits, (4, 1, 8, 8)),
}


def task(name: str) -> Task:
    kind, shape = SHAPES[name]

    def make() -> nn.Module:
        torch.manual_seed(3)
        return kind()

    def drawn(seed: int, times: int = 1) -> Inputs:
        return (torch.randn((times * shape[0], *shape[1:]), generator=torch.Generator().manual_seed(seed)),)

    return PlainTask(name, make, drawn(0), [drawn(1, 16)], [drawn(2 + i, 8) for i in range(10)])


def pct(amount: int) -> Knobs:
    return dict.fromkeys(("prune_front_pct", "prune_middle_pct", "prune_back_pct"), amount)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("method", ["magnitude", "wanda", "n_m", "structured"])
def test_the_asked_share_is_gone_and_a_new_worker_restores_the_same(method: str, name: str, tmp_path: Path) -> None:
    knobs = {"prune": method, **pct(50)}
    made = Prune().apply(task(name).load(), task(name), knobs, tmp_path)
    again = Prune().restore(task(name).load(), task(name), knobs, tmp_path)
    x = task(name).entries()["forward"]
    with torch.inference_mode():
        assert torch.equal(made.module(*x), again.module(*x))
        assert made.module(*x).shape == task(name).load()(*x).shape
    assert made.facts == again.facts
    if method == "structured":
        assert made.facts["removed_parameters_pct"] > 20
    else:
        assert made.facts["removed_parameters_pct"] == 0
        assert made.facts["sparsity_pct"] == pytest.approx(50, abs=4)  # a row of 9 weights is cut at 4


def test_each_third_of_the_net_has_its_own_amount(tmp_path: Path) -> None:
    knobs: Knobs = {"prune": "wanda", "prune_front_pct": 50, "prune_middle_pct": 0, "prune_back_pct": 0}
    module = Prune().apply(task("gated").load(), task("gated"), knobs, tmp_path).module
    zeros = {
        x.name: float((cast(Tensor, x.module.weight) == 0).float().mean()) for x in layers_of(module, (nn.Linear,))
    }
    assert {n for n, share in zeros.items() if share > 0} == {n for n in zeros if n.startswith("layers.0.")}


@pytest.mark.parametrize("method", ["wanda", "n_m", "structured"])
def test_what_real_inputs_use_is_kept_though_its_weights_are_small(method: str, tmp_path: Path) -> None:
    """Half of the inputs are 1,000 times larger and meet weights that are 20 times smaller."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False), nn.Linear(16, 4))
        cast(Tensor, net[0].weight).data.copy_(torch.eye(16))
        cast(Tensor, net[1].weight).data[:, ::2] /= 20
        return net

    size = torch.ones(16)
    size[::2] = 1000.0
    data = [(torch.randn(32, 16, generator=torch.Generator().manual_seed(i)) * size,) for i in range(3)]
    small = PlainTask("small", make, data[0], [data[1]], [data[2]])
    x = data[1][0]
    where = "prune_front_pct" if method == "structured" else "prune_middle_pct"  # the layer before, the layer itself
    knobs: Knobs = {"prune": method, **pct(0), where: 50}

    def error(module: nn.Module) -> float:
        right = small.load()(x)
        return float((module(x) - right).norm() / right.norm())

    with torch.no_grad():
        aware = error(Prune().apply(small.load(), small, knobs, tmp_path).module)
        blind = error(Prune().apply(small.load(), small, {"prune": "magnitude", **pct(50)}, tmp_path).module)
    assert aware < 0.05
    assert blind > 0.5


@pytest.mark.parametrize("name", SHAPES)
def test_removing_channels_is_the_same_as_silencing_them(name: str) -> None:
    """The dependency graph is right: what is left computes what the net did with these channels read as zero."""
    net, inputs = task(name).load(), task(name).entries()["forward"]
    layers = layers_of(net, (nn.Linear, nn.Conv2d))
    graph, groups = removable(net, inputs, layers)
    expected = {"gated": {"layers.0.gate", "layers.1.gate"}, "digits": {"conv.0", "conv.3", "fc"}}
    assert set(groups) == expected[name]

    silent = task(name).load()
    gone: dict[str, Sequence[int]] = {root: [1, 2, 5] for root in groups}
    for item in [item for group in groups.values() for item in group]:
        target = item.dep.target.module
        if graph.is_in_channel_pruning_fn(item.dep.handler) and hasattr(target, "weight"):
            twin = cast(Any, silent.get_submodule(next(n for n, m in net.named_modules() if m is target)))
            columns = [i for i, root in zip(item.idxs, item.root_idxs, strict=True) if root in (1, 2, 5)]
            if not isinstance(target, nn.BatchNorm2d):
                twin.weight.data[:, columns] = 0
    with torch.no_grad():
        wanted = silent(*inputs)
        remove(graph, net, gone)
        assert torch.allclose(net(*inputs), wanted, atol=1e-5)
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in silent.parameters())


def test_heads_of_attention_and_the_residual_stream_stay_in_the_plain_transformer() -> None:
    net = NETS["transformer"].make({"width": 16, "layers": 2, "heads": 4}).eval().requires_grad_(requires_grad=False)
    _, groups = removable(net, (torch.randn(2, 6, 16),), layers_of(net, (nn.Linear,)))
    assert set(groups) == {"layers.0.up", "layers.1.up"}
    assert not any(p.requires_grad for p in net.parameters())


def test_a_short_recovery_brings_answers_back_and_keeps_what_was_pruned(tmp_path: Path) -> None:
    for method in ("structured", "wanda"):
        knobs = {"prune": method, **pct(50)}
        taught = {**knobs, "recovery_steps": 60, "recovery_rate": 0.003}
        data = task("gated")
        right = data.answers({"forward": data.load()})

        def error(wanted: Knobs, folder: Path, data: Task = data, right: Any = right) -> float:
            made = Prune().apply(data.load(), data, wanted, folder)
            assert ("recovery_s" in made.facts) == ("recovery_steps" in wanted)
            module = made.module
            return data.judge(data.answers({"forward": module}), right).errors["max_rel_error"]

        with torch.no_grad():
            before, after = error(knobs, tmp_path / f"{method}1"), error(taught, tmp_path / f"{method}2")
        assert after < 0.9 * before
        made = Prune().restore(data.load(), data, taught, tmp_path / f"{method}2")
        with torch.no_grad():
            said = data.answers({"forward": made.module})
        assert data.judge(said, right).errors["max_rel_error"] == after
        assert made.facts["sparsity_pct"] > 40 or made.facts["removed_parameters_pct"] > 20


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        ({"prune": "magnitude", **pct(0)}, "would change nothing"),
        ({"prune": "structured", **pct(0)}, "no channel of this net can go"),
        ({"prune": "random"}, "random is not known"),
    ],
)
def test_what_changes_nothing_is_refused(knobs: Knobs, why: str, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=why) as caught:
        Prune().apply(task("gated").load(), task("gated"), knobs, tmp_path)
    assert caught.value.reason is Reason.REJECTED


def test_capabilities_and_small_parts() -> None:
    assert [Prune().missing(value, "cpu") for value in Prune().values()] == [None] * 5
    assert not Prune().active({"prune": "none"})
    assert least(torch.tensor([3.0, 1.0, 2.0, 0.5]), 50) == [1, 3]
    assert least(torch.tensor([3.0, 1.0]), 100) == [1]
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(12, 2)).eval()
    x = torch.ones(1, 2, 2, 2)
    x[:, 1] = 3.0
    assert input_norms(net, layers_of(net, (nn.Conv2d,)), [(x,)])["0"].tolist() == [1.0, 3.0]
