"""What becomes of a model whose least important weights or channels are dropped?

    magnitude   the smallest weights of each layer become 0
    wanda       the smallest of each output by |weight| x size of its input on calibration data (Sun et al., 2023)
    n_m         two of every four neighbouring weights stay, by the same score
    structured  whole channels are taken out: layers become smaller (channels.py)

Zeros make nothing faster by themselves; smaller layers do. How much goes is a knob for each third of the net; the head
(the last layer) is never pruned. A short recovery against the unmodified model's answers may follow (recovery.py).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from optimizer.targets.torch.channels import least, removable, remove, scores
from optimizer.targets.torch.layers import Layer, layers_of, third
from optimizer.targets.torch.parts import ANY_ERROR, FP32_TOLERANCE, PRUNE, Inputs, Knobs, Task, Transformed
from optimizer.targets.torch.recovery import recover
from optimizer.trial import Reason, TrialError

METHODS = ("magnitude", "wanda", "n_m", "structured")
STEPS, RATE = "recovery_steps", "recovery_rate"
NORMS, WEIGHTS, DROPPED = "prune_norms.safetensors", "prune_recovered.safetensors", "prune_dropped.safetensors"
AMOUNT = 10  # percent, where a point does not say


class Prune:
    def active(self, knobs: Knobs) -> bool:
        return knobs.get(PRUNE, "none") != "none"

    def values(self) -> Sequence[str]:
        return ("none", *METHODS)

    def missing(self, value: str, device: str) -> str | None:
        """Removes channels of two layers where that is asked for: the rest is plain arithmetic."""
        from importlib.util import find_spec

        if value not in self.values():
            return f"prune={value} is not known."
        if value != "structured":
            return None
        if find_spec("torch_pruning") is None:
            return 'prune=structured: torch-pruning is not installed: pip install "inference-optimizer[models]".'
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval().requires_grad_(requires_grad=False)
        try:
            graph, groups = removable(net, (torch.zeros(1, 4),), layers_of(net, (nn.Linear,)))
            remove(graph, net, {name: [0, 1] for name in groups})
        except (RuntimeError, AttributeError, TypeError, ImportError) as error:
            return f"prune=structured: torch-pruning does not work with this torch: {error}"
        return (
            None
            if net[0].weight.shape == (6, 4)
            else "prune=structured: torch-pruning removed nothing from a test net."
        )

    def tolerance(self, knobs: Knobs) -> float:
        return ANY_ERROR if self.active(knobs) else FP32_TOLERANCE

    def apply(self, module: nn.Module, task: Task, knobs: Knobs, folder: Path) -> Transformed:
        folder.mkdir(parents=True, exist_ok=True)
        before = _parameters(module)
        method, layers = _method(knobs), layers_of(module, (nn.Linear, nn.Conv2d))
        norms = {} if method == "magnitude" else input_norms(module, layers, task.calibration())
        if method == "structured":
            masks: Mapping[str, Tensor] = {}
            self._shrink(module, layers, norms, task.calibration()[0], knobs, folder)
        else:
            if norms:
                save_file({k: v.contiguous() for k, v in norms.items()}, folder / NORMS)
            masks = masked(module, layers, norms, knobs)
        facts: dict[str, float] = {}
        if steps := int(knobs.get(STEPS, 0)):
            rate = float(knobs.get(RATE, 1e-4))
            facts["recovery_s"] = recover(module, task.load(), task.calibration(), masks, steps, rate)
            save_file(_state(module), folder / WEIGHTS)
        return _told(module, layers, before, method, facts)

    def restore(self, module: nn.Module, task: Task, knobs: Knobs, folder: Path) -> Transformed:
        before = _parameters(module)
        method, layers = _method(knobs), layers_of(module, (nn.Linear, nn.Conv2d))
        if method == "structured":
            dropped = {k: v.tolist() for k, v in load_file(folder / DROPPED).items()}
            graph, _ = removable(module, task.calibration()[0], layers)
            remove(graph, module, dropped)
        elif not int(knobs.get(STEPS, 0)):
            norms = load_file(folder / NORMS) if (folder / NORMS).is_file() else {}
            masked(module, layers, norms, knobs)
        if int(knobs.get(STEPS, 0)):
            module.load_state_dict(load_file(folder / WEIGHTS), strict=False)  # a tied weight is stored once
        return _told(module, layers, before, method, {})

    @staticmethod
    def _shrink(
        module: nn.Module,
        layers: Sequence[Layer],
        norms: Mapping[str, Tensor],
        inputs: Inputs,
        knobs: Knobs,
        folder: Path,
    ) -> None:
        graph, groups = removable(module, inputs, layers)
        sizes = {layer.module: norms[layer.name] for layer in layers}
        amount = amounts(layers, knobs)
        dropped = {n: least(scores(g, graph, sizes), amount[n]) for n, g in groups.items()}
        dropped = {name: gone for name, gone in dropped.items() if gone}
        if not dropped:
            raise TrialError(Reason.REJECTED, "prune=structured would change nothing: no channel of this net can go.")
        remove(graph, module, dropped)
        save_file({name: torch.tensor(gone) for name, gone in dropped.items()}, folder / DROPPED)


def amounts(layers: Sequence[Layer], knobs: Knobs) -> Mapping[str, float]:
    """Percent that goes, by layer: a knob for each third of the blocks. The head keeps all."""
    blocks = len({layer.block for layer in layers[:-1]})
    return {x.name: float(knobs.get(f"prune_{third(x, blocks)}_pct", AMOUNT)) for x in layers[:-1]}


def masked(net: nn.Module, layers: Sequence[Layer], norms: Mapping[str, Tensor], knobs: Knobs) -> Mapping[str, Tensor]:
    """Sets weights to zero, in place; returns where each changed parameter is kept. Raises TrialError(REJECTED)."""
    method, amount = _method(knobs), amounts(layers, knobs)
    kept: dict[str, Tensor] = {}
    shared = _shared(net)
    with torch.no_grad():
        for layer in layers[:-1]:
            weight = layer.module.weight
            if not isinstance(weight, nn.Parameter) or id(weight) in shared:
                continue  # an embedding is no layer to be thinned
            rows = weight.detach().float().abs().flatten(1)  # (outputs, inputs x kernel)
            if method != "magnitude":
                rows = rows * norms[layer.name].repeat_interleave(rows.shape[1] // len(norms[layer.name]))
            if method == "n_m":
                if rows.shape[1] % 4:
                    continue
                mask = _two_of_four(rows)
            else:
                gone = int(amount[layer.name] / 100.0 * (rows.numel() if method == "magnitude" else rows.shape[1]))
                if not gone:
                    continue
                mask = _largest(rows.reshape(1, -1) if method == "magnitude" else rows, gone)
            mask = mask.reshape(weight.shape)
            weight.mul_(mask)
            kept[f"{layer.name}.weight"] = mask
    if not kept:
        raise TrialError(Reason.REJECTED, f"prune={method} would change nothing in this net.")
    return kept


def _largest(rows: Tensor, gone: int) -> Tensor:
    """True but for the `gone` least of each row."""
    mask = torch.ones_like(rows, dtype=torch.bool)
    return mask.scatter_(1, rows.topk(gone, dim=1, largest=False).indices, value=False)


def _two_of_four(rows: Tensor) -> Tensor:
    return _largest(rows.reshape(-1, 4), 2).reshape(rows.shape)


def input_norms(net: nn.Module, layers: Sequence[Layer], data: Sequence[Inputs]) -> Mapping[str, Tensor]:
    """The root mean square of each input channel of each layer over the calibration data."""
    squares: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    with _listening(layers, squares, counts), torch.no_grad():
        for inputs in data:
            net(*inputs)
    if silent := [layer.name for layer in layers if layer.name not in squares]:
        raise TrialError(Reason.REJECTED, f"the calibration inputs do not reach {', '.join(silent)}")
    return {name: (total / counts[name]).sqrt() for name, total in squares.items()}


@contextmanager
def _listening(layers: Sequence[Layer], squares: dict[str, Tensor], counts: dict[str, int]) -> Iterator[None]:
    def listener(name: str, *, convolution: bool) -> Any:
        def hear(module: nn.Module, inputs: Inputs) -> None:
            x = inputs[0].detach().float()
            flat = x.transpose(0, 1).flatten(1) if convolution else x.flatten(0, -2).t()  # (channels, places)
            squares[name] = squares.get(name, torch.zeros(len(flat))) + flat.pow(2).sum(1)
            counts[name] = counts.get(name, 0) + flat.shape[1]

        return hear

    hooks = [
        layer.module.register_forward_pre_hook(listener(layer.name, convolution=isinstance(layer.module, nn.Conv2d)))
        for layer in layers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _told(net: nn.Module, layers: Sequence[Layer], before: int, method: str, facts: Mapping[str, float]) -> Transformed:
    """The evidence: parameters that are left, the share of zeros in the layers, each layer's shape."""
    weights = [layer.module.weight.detach() for layer in layers[:-1] if isinstance(layer.module.weight, Tensor)]
    zeros = sum(int((w == 0).sum()) for w in weights)
    after = _parameters(net)
    removed = 100.0 * (before - after) / max(1, before)
    sparsity = 100.0 * zeros / max(1, sum(w.numel() for w in weights))
    if removed == 0 and sparsity == 0:
        raise TrialError(Reason.REJECTED, f"prune={method} was asked for and no weight was dropped")
    shapes = {
        layer.name: list(layer.module.weight.shape) for layer in layers if isinstance(layer.module.weight, Tensor)
    }
    return Transformed(
        net,
        {"sparsity_pct": sparsity, "removed_parameters_pct": removed, "parameters": float(after), **facts},
        {"method": method, "shapes": shapes},
    )


def _method(knobs: Knobs) -> str:
    method = str(knobs.get(PRUNE, "none"))
    if method not in METHODS:
        raise TrialError(Reason.REJECTED, f"prune={method} is not known.")
    return method


def _parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def _shared(net: nn.Module) -> set[int]:
    """Weights that more than one module uses."""
    owned = Counter(id(p) for m in net.modules() for p in m.parameters(recurse=False))
    return {i for i, users in owned.items() if users > 1}


def _state(net: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().contiguous() for n, t in (*net.named_parameters(), *net.named_buffers())}
