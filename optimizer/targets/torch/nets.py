"""Which nets without trained weights are there to time? A perceptron, a conv net and a transformer of common shapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from optimizer.errors import ConfigError, nearest
from optimizer.space import Json, digest
from optimizer.targets.builds import file_hash
from optimizer.targets.torch.parts import Inputs, Knobs
from optimizer.targets.torch.plain import PlainTask

WEIGHTS, EXAMPLE, CALIBRATION, QUALITY = 0, 1, 1_000, 1_000_000  # seeds; the last two count up and never meet


class Mlp(nn.Module):
    """(B, features) -> (B, classes)."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layers(x)
        return answer


class Conv(nn.Module):
    """(B, channels, H, W) -> (B, classes, H, W): two blocks of convolution, normalisation and ReLU, and a 1x1 head."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layers(x)
        return answer


class Block(nn.Module):
    """A transformer's layer, normalised first; attention as one fused product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        split = self.qkv(self.before_attention(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        answer: Tensor = x + self.down(functional.gelu(self.up(self.before_mlp(x))))
        return answer


class Transformer(nn.Module):
    """(B, T, width) -> (B, T, width)."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Block(width, heads) for _ in range(layers)), nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layers(x)
        return answer


@dataclass(frozen=True)
class Net:
    """`batches`: of the quality data, so that there are some hundred answers to compare."""

    options: Mapping[str, int]
    make: Callable[[Mapping[str, int]], nn.Module]
    shape: Callable[[Mapping[str, int]], tuple[int, ...]]
    batches: int
    axis: int


NETS: Mapping[str, Net] = {
    "mlp": Net(
        {"batch": 4, "features": 256, "hidden": 512, "classes": 10},
        lambda o: Mlp(o["features"], o["hidden"], o["classes"]),
        lambda o: (o["batch"], o["features"]),
        batches=128,
        axis=-1,
    ),
    "conv": Net(
        {"batch": 4, "channels": 3, "height": 128, "width": 128, "filters": 32, "classes": 10},
        lambda o: Conv(o["channels"], o["filters"], o["classes"]),
        lambda o: (o["batch"], o["channels"], o["height"], o["width"]),
        batches=2,
        axis=1,
    ),
    "transformer": Net(
        {"batch": 2, "tokens": 128, "width": 256, "layers": 2, "heads": 4},
        lambda o: Transformer(o["width"], o["layers"], o["heads"]),
        lambda o: (o["batch"], o["tokens"], o["width"]),
        batches=4,
        axis=-1,
    ),
}


def net_task(options: Mapping[str, Json], knobs: Knobs, device: str) -> PlainTask:
    """options: `net` names one of NETS, the rest are its sizes and a seed; the knob `batch` stands over the option."""
    name = str(options.get("net"))
    if name not in NETS:
        raise ConfigError(f"There is no net '{name}'.{nearest(name, NETS)}")
    net, seed = NETS[name], int(options.get("seed") or 0)
    given = {k: v for k, v in options.items() if k not in ("net", "seed")} | (
        {"batch": knobs["batch"]} if "batch" in knobs else {}
    )
    for key, value in given.items():
        if key not in net.options:
            raise ConfigError(f"The net {name} has no option '{key}'.{nearest(key, net.options)}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"target.options.{key} is a whole number of at least 1, not '{value}'.")
    sizes = {**net.options, **given}
    if name == "transformer" and sizes["width"] % sizes["heads"]:
        raise ConfigError(f"width {sizes['width']} is no multiple of heads {sizes['heads']}.")
    shape = net.shape(sizes)

    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 7919 + WEIGHTS)
            return net.make(sizes)

    def drawn(number: int) -> Inputs:
        return (torch.randn(shape, generator=torch.Generator().manual_seed(seed * 7919 + number)),)

    return PlainTask(
        hashed=digest([name, sizes, seed, file_hash(Path(__file__))]),
        make=make,
        example=_on(device, drawn(EXAMPLE)),
        judged=[_on(device, drawn(QUALITY + i)) for i in range(net.batches)],
        calibrating=[drawn(CALIBRATION + i) for i in range(8)],
        axis=net.axis,
    )


def _on(device: str, inputs: Inputs) -> Inputs:
    return tuple(x.to(device) for x in inputs)
