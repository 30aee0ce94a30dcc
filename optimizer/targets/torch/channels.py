"""Which channels inside a net matter least to real inputs, and what is left when they are really removed?

A channel may go where it is seen by nothing but linear layers, convolutions, batch normalisations and element-wise
functions: the hidden channels of an MLP (gated ones together), the filters of a convolution. Those that the residual
stream, attention heads, embeddings or the net's answers are made of stay.

A channel counts by what it brings to the layers that read it: the size of its activations on the calibration inputs
times that of the weights that they meet. Weight norms alone remove the channels that matter most (a language model's
few massive activations).
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optimizer.targets.torch.layers import Layer
from optimizer.targets.torch.parts import Inputs

MOVED = ("transpose", "permute", "bmm", "attention", "softmax", "norm", "select", "index", "stack", "gather")
"""Operations after which an element's place no longer tells its channel, or channels are mixed. A sum or a mean mixes
those of a linear layer too, whose channels lie along the last axis."""


def removable(net: nn.Module, inputs: Inputs, layers: Sequence[Layer]) -> tuple[Any, Mapping[str, Any]]:
    """The dependency graph of a net, and the group of each root layer whose channels may go, with all its channels."""
    import torch_pruning as tp

    layer_of = {layer.module: layer.name for layer in layers}
    frozen = [p for p in net.parameters() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad = True
    try:
        # The library announces changes of torch, and each parameter that belongs to no layer that it knows.
        with torch.inference_mode(mode=False), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(net, example_inputs=inputs, verbose=False)
        groups: dict[str, Any] = {}
        seen: set[nn.Module] = {layers[-1].module} if layers else set()  # the head's channels are the answers
        for layer in layers:
            if layer.module in seen or layer.module not in graph.module2node or getattr(layer.module, "groups", 1) != 1:
                continue
            if _mixed(graph.module2node[layer.module]):
                continue
            every = list(range(_width(layer.module)))
            group = graph.get_pruning_group(layer.module, _prune_out(layer.module), every)
            roots = {dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)}
            roots &= layer_of.keys()
            if roots.isdisjoint(seen) and _private(group, graph, layer_of):
                groups[layer.name] = group
            seen |= roots
    finally:
        for parameter in frozen:
            parameter.requires_grad = False
    return graph, groups


def _mixed(root: Any) -> bool:
    """Whether something between a layer and the next ones mixes channels or moves them: then its group need not be
    made, which takes minutes where keys and values are repeated for several heads of attention."""
    import torch_pruning as tp

    kinds, words = tp.ops.OPTYPE, _mixing(root.module)
    waiting, seen = list(root.outputs), set()
    while waiting:
        node = waiting.pop()
        if node in seen or node.type in (kinds.LINEAR, kinds.CONV):
            continue
        seen.add(node)
        known = node.type in (kinds.ELEMENTWISE, kinds.RESHAPE) and not _says(node, words)
        if not known and node.type != kinds.BN:
            return True
        waiting += node.outputs
    return False


def _mixing(root: nn.Module) -> tuple[str, ...]:
    return MOVED if isinstance(root, nn.Conv2d) else (*MOVED, "mean", "sum")


def _says(node: Any, words: tuple[str, ...]) -> bool:
    name = node.grad_fn.name().lower() if node.grad_fn is not None else ""
    return any(word in name for word in words)


def _private(group: Any, graph: Any, layer_of: Mapping[nn.Module, str]) -> bool:
    """Whether all that sees the channels is known to treat them one by one."""
    import torch_pruning as tp

    kinds, read = tp.ops.OPTYPE, False
    mixing = _mixing(group[0].dep.target.module)
    for dep, _ in group:
        node = dep.target
        if node.type in (kinds.LINEAR, kinds.CONV):
            if node.module not in layer_of or getattr(node.module, "groups", 1) != 1:
                return False
            read = read or graph.is_in_channel_pruning_fn(dep.handler)
        elif node.type in (kinds.ELEMENTWISE, kinds.RESHAPE):
            if _says(node, mixing):
                return False
        elif node.type != kinds.BN:
            return False
    return read


def scores(group: Any, graph: Any, norms: Mapping[nn.Module, Tensor]) -> Tensor:
    """How much each output channel of a group's root brings to the layers that read it.

    `norms`: the size of each input of a layer on the calibration inputs.
    """
    root = group[0].dep.target.module
    brought = torch.zeros(_width(root))
    for item in group:
        dep, idxs = item.dep, item.idxs
        module = dep.target.module
        if not graph.is_in_channel_pruning_fn(dep.handler) or module not in norms:
            continue
        weight = module.weight.detach().float().flatten(2).pow(2).sum(2) if module.weight.dim() > 2 else None
        columns = weight.sum(0) if weight is not None else module.weight.detach().float().pow(2).sum(0)
        each = columns * norms[module].pow(2)
        brought.index_add_(0, torch.tensor(item.root_idxs), each[torch.tensor(idxs)])
    return brought


def least(score: Tensor, pct: float) -> list[int]:
    """The channels that go: the least of them, never all."""
    count = min(int(len(score) * pct / 100.0), len(score) - 1)
    return sorted(score.argsort(stable=True)[:count].tolist())


def remove(graph: Any, net: nn.Module, dropped: Mapping[str, Sequence[int]]) -> None:
    """Takes channels out of root layers and of all that depends on them. In place."""
    for name, channels in dropped.items():
        if channels:
            root = net.get_submodule(name)
            graph.get_pruning_group(root, _prune_out(root), list(channels)).prune()


def _prune_out(module: nn.Module) -> Any:
    import torch_pruning as tp

    return tp.prune_conv_out_channels if isinstance(module, nn.Conv2d) else tp.prune_linear_out_channels


def _width(module: Any) -> int:
    return int(module.out_channels if isinstance(module, nn.Conv2d) else module.out_features)
