"""How do a net's images come to lie channels last in memory?"""

import torch
from torch import Tensor, nn


class ChannelsLast(nn.Module):
    """A net whose images are laid out channels last: its weights once, its inputs at every call, which is its cost."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        laid = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
        answer: Tensor | tuple[Tensor, ...] = self.net(*laid)
        return answer
