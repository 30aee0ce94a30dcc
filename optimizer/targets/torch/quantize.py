"""What becomes of a model whose weights are stored in fewer bits, and which ways of storing them work here?

The schemes are torchao's, torch's own casts and torch's legacy dynamic int8. Every scheme leaves evidence: the type in
which each layer's weight is really stored afterwards. A scheme that changed nothing is a rejected point.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from optimizer.targets.torch.layers import Layer, chosen, layers_of, weight_type
from optimizer.targets.torch.parts import ANY_ERROR, FP32_TOLERANCE, QUANTIZE, Knobs, Task, Transformed
from optimizer.trial import Reason, TrialError

if TYPE_CHECKING:
    from torch import Tensor

CASTS: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
STATIC = "int8_static"
"""Done by the backends that quantise with calibration themselves (Backend.quantizes), never here."""
LEGACY = "int8_legacy"
INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009  # torch has it, its type stubs do not

GROUP_SIZE, FIRST, LAST, HEAD = "quantize_group", "quantize_first", "quantize_last", "quantize_head"


@dataclass(frozen=True)
class Scheme:
    """A way of torchao. `config` makes its configuration from the group size, `in_groups` says whether it needs one."""

    config: Callable[[int], Any]
    in_groups: bool = False


def _int8_dynamic(group: int) -> Any:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    return Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)


def _int8_weight(group: int) -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig(set_inductor_config=False)


def _int4_weight(group: int) -> Any:
    from torchao.quantization import IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    return IntxWeightOnlyConfig(weight_dtype=INT4, granularity=PerGroup(group))


def _int8_dynamic_int4_weight(group: int) -> Any:
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig
    from torchao.quantization.granularity import PerGroup

    return Int8DynamicActivationIntxWeightConfig(weight_dtype=INT4, weight_granularity=PerGroup(group))


def _float8_weight(group: int) -> Any:
    from torchao.quantization import Float8WeightOnlyConfig

    return Float8WeightOnlyConfig(set_inductor_config=False)


def _float8_dynamic(group: int) -> Any:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig

    return Float8DynamicActivationFloat8WeightConfig(set_inductor_config=False)


SCHEMES: Mapping[str, Scheme] = {
    "int8_dynamic": Scheme(_int8_dynamic),
    "int8_weight": Scheme(_int8_weight),
    "int4_weight": Scheme(_int4_weight, in_groups=True),
    "int8_dynamic_int4_weight": Scheme(_int8_dynamic_int4_weight, in_groups=True),
    "float8_weight": Scheme(_float8_weight),
    "float8_dynamic": Scheme(_float8_dynamic),
}
"""set_inductor_config=False: torchao must not turn on autotuning flags that are knobs of the compile backend."""


class Cast(nn.Module):
    """A net of another float type that takes and returns the types of the original."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net.to(dtype), dtype

    def forward(self, *inputs: "Tensor") -> "Tensor | tuple[Tensor, ...]":
        out = self.net(*(x.to(self.dtype) if x.dtype == torch.float32 else x for x in inputs))
        return (
            _float32(out, self.dtype) if isinstance(out, torch.Tensor) else tuple(_float32(y, self.dtype) for y in out)
        )


def _float32(x: "Tensor", dtype: torch.dtype) -> "Tensor":
    return x.float() if x.dtype == dtype else x


class Quantize:
    def active(self, knobs: Knobs) -> bool:
        return knobs.get(QUANTIZE, "none") != "none"

    def values(self) -> Sequence[str]:
        return ("none", *CASTS, *SCHEMES, LEGACY, STATIC)

    def missing(self, value: str, device: str) -> str | None:
        """Quantises two layers and runs them; what a library says is not there is the reason."""
        if value in ("none", STATIC):
            return None
        if value not in self.values():
            return f"quantize={value} is not known."
        if value == LEGACY and device != "cpu":
            return f"quantize={value}: torch's legacy dynamic int8 has kernels for the processor alone."
        if value in SCHEMES and (advice := _no_torchao()):
            return f"quantize={value}: {advice}"
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval().requires_grad_(False).to(device)
        x = torch.randn(4, 64, device=device)
        try:
            with torch.inference_mode():
                said = quantized(net, {QUANTIZE: value, HEAD: True, GROUP_SIZE: 32}).module(x)
        except (TrialError, RuntimeError, NotImplementedError, ImportError, AssertionError, TypeError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"quantize={value} does not work here on device={device}: {first}"
        return None if bool(torch.isfinite(said).all()) else f"quantize={value} answers with NaN on device={device}."

    def tolerance(self, knobs: Knobs) -> float:
        return ANY_ERROR if self.active(knobs) else FP32_TOLERANCE

    def apply(self, module: nn.Module, task: Task, knobs: Knobs, folder: Path) -> Transformed:
        return quantized(module, knobs)

    def restore(self, module: nn.Module, task: Task, knobs: Knobs, folder: Path) -> Transformed:
        """Rounding is fast and depends on the weights alone: it is done again."""
        return quantized(module, knobs)


def quantized(net: nn.Module, knobs: Knobs) -> Transformed:
    """The net with the weights of its chosen layers stored as the knobs say. Raises TrialError(REJECTED)."""
    scheme = str(knobs.get(QUANTIZE, "none"))
    if scheme in CASTS:
        return _noted(_cast(net, CASTS[scheme]), [layer.name for layer in layers_of(net, (nn.Linear, _CONV))], scheme)
    if scheme == STATIC:
        raise TrialError(
            Reason.REJECTED,
            f"quantize={STATIC} is done by a runtime that quantises with calibration: backend=onnxruntime or openvino.",
        )
    if scheme not in SCHEMES and scheme != LEGACY:
        raise TrialError(Reason.REJECTED, f"quantize={scheme} is not known.")
    group = int(knobs.get(GROUP_SIZE, 64))
    wanted = chosen(
        layers_of(net, (nn.Linear,)),
        first=bool(knobs.get(FIRST, True)),
        last=bool(knobs.get(LAST, True)),
        head=bool(knobs.get(HEAD, False)),
    )
    fitting = [x for x in wanted if scheme == LEGACY or not SCHEMES[scheme].in_groups or _inputs(x) % group == 0]
    if not fitting:
        why = f"no linear layer's inputs are a multiple of {group}" if wanted else "no linear layer is left to it"
        raise TrialError(
            Reason.REJECTED, f"quantize={scheme} would change nothing: {why} (first, last and head apart)."
        )
    _untie(net, fitting)
    names = [layer.name for layer in fitting]
    with warnings.catch_warnings():  # both libraries announce what they will remove
        warnings.simplefilter("ignore")
        if scheme == LEGACY:
            to_int8: Callable[..., nn.Module] = torch.ao.quantization.quantize_dynamic
            to_int8(net, set(names), dtype=torch.qint8, inplace=True)
        else:
            from torchao.quantization import quantize_

            quantize_(net, SCHEMES[scheme].config(group), filter_fn=lambda module, name: name in names)
    return _noted(net, names, scheme)


_CONV = nn.Conv2d


def _cast(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A module that says `keeps_types` casts where it must by itself (a language model's logits and cache)."""
    return net.to(dtype) if getattr(net, "keeps_types", False) else Cast(net, dtype)


def _noted(net: nn.Module, names: Sequence[str], scheme: str) -> Transformed:
    inner = net.net if isinstance(net, Cast) else net
    types = Counter(weight_type(inner.get_submodule(name)) for name in names)
    if not types or "float32" in types:
        raise TrialError(
            Reason.REJECTED, f"quantize={scheme} was asked for and weights are still float32: {dict(types)}"
        )
    return Transformed(
        net, {"quantized_layers": float(len(names))}, {"weight_types": dict(types), "layers": list(names)}
    )


def _inputs(layer: Layer) -> int:
    return int(layer.module.in_features)  # type: ignore[arg-type]  # layers_of found a Linear


def _untie(net: nn.Module, layers: Sequence[Layer]) -> None:
    """A weight that a layer shares with another (an embedding) becomes its own: rounding spares the other."""
    owners = Counter(id(p) for m in net.modules() for p in m.parameters(recurse=False))
    for layer in layers:
        weight = layer.module.weight
        if isinstance(weight, nn.Parameter) and owners[id(weight)] > 1:
            layer.module.weight = nn.Parameter(copy.deepcopy(weight.detach()), requires_grad=False)


def _no_torchao() -> str | None:
    from importlib.util import find_spec

    if find_spec("torchao") is None:
        return 'torchao is not installed: pip install "inference-optimizer[models]".'
    return None
