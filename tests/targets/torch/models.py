"""Models as their owners would write them, for the tests: `target.options.model=…/models.py:tiny`."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Call = Callable[..., Tensor]


def tiny(batch: int = 2, width: int = 16, features: int = 8) -> tuple[nn.Module, tuple[Tensor, ...]]:
    net = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 4))
    return net, (torch.randn(batch, features),)


def images() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), (torch.randn(2, 3, 12, 12),)


class Branching(nn.Module):
    """What a trace can't know: which way later inputs go."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layer(x)
        return answer if x.sum() > 0 else -3 * answer


def branching() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Branching(), (torch.randn(2, 8) + 0.1,)


class Uncompiled(nn.Module):
    """Nothing of it is left to a compiler, as happens to a model behind a decorator that one does not know of."""

    @torch._dynamo.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def uncompiled() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Uncompiled(), (torch.randn(2, 8),)


class Hungry(nn.Module):
    """Takes memory, and touches it, by the size of its batch: 64 MiB a row."""

    def forward(self, x: Tensor) -> Tensor:
        taken = [torch.ones(1 << 24) for _ in range(x.shape[0])]
        return x + sum(float(t[0]) for t in taken)


def hungry(batch: int = 1) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Hungry(), (torch.randn(batch, 4),)


def judged() -> tuple[nn.Module, tuple[Tensor, ...], Callable[[Call], Mapping[str, float]], list[tuple[Tensor, ...]]]:
    """With an evaluation and calibration inputs of its own."""
    net, inputs = nn.Linear(4, 3), (torch.randn(2, 4),)
    right = torch.tensor([0, 1])

    def evaluate(call: Call) -> Mapping[str, float]:
        found = call(inputs[0]).argmax(-1)
        return {"accuracy": float((found == right).float().mean())}

    return net, inputs, evaluate, [(torch.zeros(2, 4),)]


def reshaped() -> tuple[nn.Module, tuple[Tensor, ...], Callable[[Call], float]]:
    """Its evaluation gives it another shape than it was compiled for."""
    return nn.Linear(4, 3), (torch.randn(2, 4),), lambda call: float(call(torch.zeros(5, 4)).shape[0] == 5)


def nonsense() -> int:
    return 3
