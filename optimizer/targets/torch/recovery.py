"""How far does a pruned net come back when it is taught for a moment to answer as the unmodified one?

The calibration inputs need no labels: the teacher is the model itself. Weights that were pruned stay zero.
"""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from optimizer.targets.torch.parts import Inputs


def recover(
    net: nn.Module, teacher: nn.Module, data: Sequence[Inputs], masks: Mapping[str, Tensor], steps: int, rate: float
) -> float:
    """Takes `steps` steps of Adam over the data in turn; returns the seconds that they took. In place.

    `masks`: by parameter, where it is kept. The loss is the divergence of the next token's distribution where a net
    reads tokens, else the squared error of its output relative to the output's own size.
    """
    begun = time.perf_counter()
    with torch.inference_mode(mode=False), torch.enable_grad():
        weights = {n: p for n, p in net.named_parameters() if p.is_floating_point()}
        for parameter in weights.values():
            parameter.requires_grad = True
        optimiser = torch.optim.Adam(weights.values(), lr=rate)
        for step in range(steps):
            inputs = data[step % len(data)]
            with torch.no_grad():
                wanted = _first(teacher(*inputs))
            loss = _loss(_first(net(*inputs)), wanted, tokens=not inputs[0].is_floating_point())
            torch.autograd.backward(loss)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, mask in masks.items():
                    weights[name].mul_(mask)
        for parameter in weights.values():
            parameter.requires_grad = False
    return time.perf_counter() - begun


def _loss(said: Tensor, wanted: Tensor, *, tokens: bool) -> Tensor:
    if tokens:
        flat, target = said.flatten(0, -2).log_softmax(-1), wanted.flatten(0, -2).log_softmax(-1)
        return functional.kl_div(flat, target, reduction="batchmean", log_target=True)
    return functional.mse_loss(said, wanted) / wanted.pow(2).mean().clamp_min(1e-12)


def _first(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]
