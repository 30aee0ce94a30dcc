"""Which layers of a net hold its weights, which block does each lie in, and how many bytes do they really take?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import nn
from torch.ao.nn.quantized.dynamic import Linear as PackedLinear

if TYPE_CHECKING:
    from torch import Tensor


class Packed(Protocol):
    def weight(self) -> "Tensor": ...
    def bias(self) -> "Tensor | None": ...


@dataclass(frozen=True, slots=True)
class Layer:
    name: str  # as in named_modules
    module: nn.Module
    block: int  # 0 is the first; layers of one numbered part of the net share a block


def layers_of(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Sequence[Layer]:
    """The layers of these kinds in the net's own order, with the block that each lies in.

    A block is what comes before and with the first number in a name: model.layers.3.mlp.up_proj lies in model.layers.3.
    A layer without a number is a block of its own.
    """
    found: list[Layer] = []
    blocks: dict[str, int] = {}
    for name, module in net.named_modules():
        if isinstance(module, kinds):
            parts = name.split(".")
            numbered = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
            key = ".".join(parts[: numbered + 1])
            found.append(Layer(name, module, blocks.setdefault(key, len(blocks))))
    return found


def chosen(layers: Sequence[Layer], *, first: bool, last: bool, head: bool) -> Sequence[Layer]:
    """The layers without those of the first block, of the last block before the head, and the head (the last layer)."""
    if not layers:
        return ()
    body = [layer.block for layer in layers[:-1]]
    skipped = {body[0]} if body and not first else set()
    if body and not last:
        skipped.add(body[-1])
    return [layer for layer in layers[:-1] if layer.block not in skipped] + ([layers[-1]] if head else [])


def third(layer: Layer, blocks: int) -> str:
    """The part of the net that a layer lies in, of three about equal ones."""
    return ("front", "middle", "back")[min(2, 3 * layer.block // max(1, blocks))]


def stored(tensor: "Tensor") -> Iterator["Tensor"]:
    """The plain tensors that a tensor is made of: itself, or the parts of a quantised one."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from stored(getattr(tensor, name))
    else:
        yield tensor


def stored_bytes(net: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are stored, shared storage counted once."""
    return sum(
        {
            part.untyped_storage().data_ptr(): part.untyped_storage().nbytes()
            for tensor in _tensors(net)
            for part in stored(tensor)
        }.values()
    )


def weight_type(module: nn.Module) -> str:
    """What a layer's weight is stored as, in words: float32, Int8Tensor[int8, float32], …"""
    weight = getattr(module, "weight", None)
    if callable(weight):  # torch's own quantised layers unpack their weight
        weight = weight()
    if weight is None:
        return "none"
    kinds = list(dict.fromkeys(str(part.dtype).removeprefix("torch.") for part in stored(weight)))
    name = type(weight).__name__
    return kinds[0] if name in ("Tensor", "Parameter") else f"{name}[{', '.join(kinds)}]"


def _tensors(net: nn.Module) -> Iterator["Tensor"]:
    yield from chain(net.parameters(), net.buffers())
    for module in net.modules():  # weights packed out of sight by torch's legacy quantised layers
        if isinstance(module, PackedLinear):
            weight, bias = cast(Packed, module).weight(), cast(Packed, module).bias()
            yield weight.int_repr() if weight.is_quantized else weight
            if isinstance(bias, torch.Tensor):
                yield bias
