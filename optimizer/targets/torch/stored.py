"""How are a changed model's weights written as plain tensors, without pickle, and put back into a model of its shape?

A quantised weight is a tensor subclass made of plain ones (NAME:PART), a layer of torch's legacy int8 packs its own out
of sight (NAME.weight:int8). Putting them back needs a model that was changed in the same way: its channels are cut to
the stored shapes first, then it is quantised by the same recipe, and only then filled.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized.dynamic import Linear as PackedLinear

from optimizer.targets.torch.layers import Packed
from optimizer.targets.torch.layout import ChannelsLast
from optimizer.targets.torch.quantize import Cast
from optimizer.trial import Reason, TrialError

Shapes = Mapping[str, Sequence[int]]


def unwrapped(module: nn.Module) -> nn.Module:
    """The net inside what changes its types or its layout at every call."""
    while isinstance(module, Cast | ChannelsLast):
        module = module.net
    return module


def shapes_of(net: nn.Module) -> Shapes:
    """Of all weights as the net sees them, packed ones too."""
    packed = {f"{name}.weight": list(layer.weight().shape) for name, layer in _packed(net)}
    return {name: list(tensor.shape) for name, tensor in _named(net)} | packed


def tensors_of(net: nn.Module) -> dict[str, Tensor]:
    """Every plain tensor that the net's parameters and buffers are made of, on the processor. One that is used twice
    is there once."""
    found = {
        key: part.detach().cpu().contiguous().clone()
        for name, tensor in _named(net)
        for key, part in _parts(name, tensor)
    }
    for name, layer in _packed(net):
        weight, bias = layer.weight(), layer.bias()
        if weight.is_quantized:
            scale, zero = weight.q_scale(), weight.q_zero_point()
            found[f"{name}.weight:int8"] = weight.int_repr().contiguous().clone()
            found[f"{name}.weight:scale"] = torch.tensor([scale, zero], dtype=torch.float64)
        if bias is not None:
            found[f"{name}.bias"] = bias.detach().contiguous().clone()
    return found


def cut(net: nn.Module, shapes: Shapes) -> None:
    """Gives the net's layers the shapes of one whose channels were removed. In place."""
    for name, module in net.named_modules():
        for kind in (module._parameters, module._buffers):
            for key, tensor in kind.items():
                shape = shapes.get(f"{name}.{key}" if name else key)
                if tensor is not None and shape is not None and list(tensor.shape) != list(shape):
                    fresh = tensor.new_zeros(shape)
                    kind[key] = nn.Parameter(fresh, requires_grad=False) if kind is module._parameters else fresh
        _sized(module)


def _sized(module: nn.Module) -> None:
    """What a layer says of itself agrees with its weight."""
    weight = module._parameters.get("weight")
    if weight is None:
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.Conv2d) and module.groups == 1:
        module.out_channels, module.in_channels = weight.shape[:2]
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        module.num_features = len(weight)


def fill(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrites all that `tensors_of` would tell. Raises TrialError(CRASH) where something is missing or has another
    shape or type: the file belongs to another model or another version of a library."""
    with torch.no_grad():
        for name, tensor in _named(net):
            for key, part in _parts(name, tensor):
                part.copy_(_fitting(tensors, key, part))
        for name, layer in _packed(net):
            bias = tensors.get(f"{name}.bias")
            if layer.weight().is_quantized:
                scale, zero = _there(tensors, f"{name}.weight:scale").tolist()
                rows = _there(tensors, f"{name}.weight:int8")
                weight = torch._make_per_tensor_quantized_tensor(rows, scale, int(zero))
                cast(Any, layer).set_weight_bias(weight, bias)


def _fitting(tensors: Mapping[str, Tensor], key: str, like: Tensor) -> Tensor:
    found = _there(tensors, key)
    if found.shape != like.shape or found.dtype != like.dtype:
        raise TrialError(
            Reason.CRASH,
            f"the stored {key} is {tuple(found.shape)} of {found.dtype}, and this model's is {tuple(like.shape)} "
            f"of {like.dtype}: install the versions that requirements.txt names",
        )
    return found


def _there(tensors: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in tensors:
        raise TrialError(Reason.CRASH, f"there is no stored {key}: install the versions that requirements.txt names")
    return tensors[key]


def _named(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from chain(net.named_parameters(), net.named_buffers())


def _packed(net: nn.Module) -> Iterator[tuple[str, Packed]]:
    for name, module in net.named_modules():
        if isinstance(module, PackedLinear):
            yield name, cast(Packed, module)


def _parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if hasattr(tensor, "__tensor_flatten__"):
        for part in tensor.__tensor_flatten__()[0]:
            yield from _parts(f"{name}:{part}", getattr(tensor, part))
    else:
        yield name, tensor
