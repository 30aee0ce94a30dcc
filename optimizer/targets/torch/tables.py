"""Which tasks, transforms and backends are there? One line each; nothing heavy is imported before it is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from optimizer.space import Json
from optimizer.targets.torch.parts import Backend, Knobs, Task, Transform

MODELS = 'pip install "inference-optimizer[models]"'
TENSORRT = 'pip install "inference-optimizer[tensorrt]"'


@dataclass(frozen=True, slots=True)
class Offer:
    """A backend, before anything of it is imported."""

    make: Callable[[], Backend]
    packages: tuple[str, ...] = ()  # modules beside torch that it imports
    advice: str = ""  # how they are got
    devices: tuple[str, ...] = ("cpu", "cuda")
    programs: tuple[str, ...] = ()  # that it starts
    ships: tuple[str, ...] = ()  # patterns of the files that an export takes of a build; none: it takes the weights
    runtime: tuple[str, ...] = ()  # distributions beside torch that run those files

    def missing(self, device: str) -> str | None:
        """What can be told without importing anything."""
        if absent := [name for name in self.packages if find_spec(name) is None]:
            return f"{', '.join(absent)} is not installed: {self.advice}."
        if absent := [name for name in self.programs if which(name) is None]:
            return f"{', '.join(absent)} is not installed: install {', '.join(absent)} (Debian: apt install g++)."
        if device not in self.devices:
            return f"it does not run on device={device}."
        return None


def _eager() -> Backend:
    from optimizer.targets.torch.backends.eager import Eager

    return Eager()


def _torchscript() -> Backend:
    from optimizer.targets.torch.backends.torchscript import TorchScript

    return TorchScript()


def _compile() -> Backend:
    from optimizer.targets.torch.backends.inductor import Compile

    return Compile()


def _aoti() -> Backend:
    from optimizer.targets.torch.backends.aoti import Aoti

    return Aoti()


def _onnxruntime() -> Backend:
    from optimizer.targets.torch.backends.onnx import OnnxRuntime

    return OnnxRuntime()


def _openvino() -> Backend:
    from optimizer.targets.torch.backends.openvino import OpenVino

    return OpenVino()


def _tensorrt() -> Backend:
    from optimizer.targets.torch.backends.tensorrt import TensorRt

    return TensorRt()


ONNX = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")
BACKENDS: Mapping[str, Offer] = {
    "eager": Offer(_eager),
    "torchscript": Offer(_torchscript, ships=("*.torchscript",)),
    "compile": Offer(_compile, programs=("g++",)),
    "aoti": Offer(_aoti, programs=("g++",), ships=("*.pt2",)),
    "onnxruntime": Offer(
        _onnxruntime, ONNX, MODELS, devices=("cpu",), ships=("*.onnx", "weights.bin"), runtime=("onnxruntime",)
    ),
    "openvino": Offer(
        _openvino, (*ONNX, "openvino"), MODELS, devices=("cpu",), ships=("*.xml", "*.bin"), runtime=("openvino",)
    ),
    "tensorrt": Offer(
        _tensorrt, ("torch_tensorrt",), TENSORRT, devices=("cuda",), ships=("*.ep",), runtime=("torch-tensorrt",)
    ),
}
"""A new backend is a file in backends/, a function above, a line here and a value of the knob `backend`."""


def _quantize() -> Transform:
    from optimizer.targets.torch.quantize import Quantize

    return Quantize()


def _prune() -> Transform:
    from optimizer.targets.torch.prune import Prune

    return Prune()


TRANSFORMS: Mapping[str, Callable[[], Transform]] = {
    "prune": _prune,
    "quantize": _quantize,
}
"""In the order in which they are applied: prune, then quantize. Each is named like its knob."""


def _net(options: Mapping[str, Json], knobs: Knobs, device: str, cache: Path) -> Task:
    from optimizer.targets.torch.nets import net_task

    return net_task(options, knobs, device)


def _own(options: Mapping[str, Json], knobs: Knobs, device: str, cache: Path) -> Task:
    from optimizer.targets.torch.own import own_task

    return own_task(options, knobs, device)


def _digits(options: Mapping[str, Json], knobs: Knobs, device: str, cache: Path) -> Task:
    from optimizer.targets.torch.digits import digits_task

    return digits_task(options, knobs, device)


def _language(options: Mapping[str, Json], knobs: Knobs, device: str, cache: Path) -> Task:
    from optimizer.targets.torch.language import language_task

    return language_task(options, knobs, device, cache)


TASKS: Mapping[str, Callable[[Mapping[str, Json], Knobs, str, Path], Task]] = {
    "digits": _digits,  # a trained conv net, with true accuracy
    "language": _language,  # Gemma 3 and Llama-style models, with perplexity
    "net": _net,  # options.net: mlp, conv, transformer
    "own": _own,  # options.model: FILE.py:FUNCTION or package.module:FUNCTION
}
"""By the target's key `task`; made of the target's options, the point, the device (cpu, cuda) and a folder for what
is worth keeping between studies (converted weights), in the worker."""
