"""How does anybody's model become a task? A function of theirs returns it with its example inputs.

    def tiny():                                                # models.py
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        return net, (torch.randn(2, 8),)

    target: {options: {model: models.py:tiny}}                 # or package.module:callable

It may return up to four things: the module; its inputs, as a tuple of tensors; a function that is given the callable
model and returns {"accuracy": …} or {"perplexity": …} on held-out data (a bare number is an accuracy); a list of inputs
for calibration, none of which the evaluation sees. What is not given is made up for: answers are compared on the
inputs and on others drawn like them, calibration draws others again.
"""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimizer.errors import ConfigError
from optimizer.space import Json, digest
from optimizer.targets.torch.parts import Carried, Inputs, Knobs
from optimizer.targets.torch.plain import Evaluate, PlainTask

JUDGED, CALIBRATING = 8, 8  # inputs that are made up
REMEDY = "Write target.options.model=FILE.py:FUNCTION or package.module:FUNCTION."


def own_task(options: Mapping[str, Json], knobs: Knobs, device: str) -> PlainTask:
    """options: `model` as above, `arguments` for the function, `axis` of the answer (the last). Raises ConfigError."""
    name, arguments = str(options.get("model") or ""), dict(options.get("arguments") or {})
    if "batch" in knobs:
        arguments["batch"] = knobs["batch"]
    given = _called(found(name), name, arguments)
    module, inputs = given[0], tuple(given[1])
    evaluate: Evaluate | None = given[2] if len(given) > 2 else None
    calibrating: Sequence[Inputs] = (
        given[3] if len(given) > 3 else [like(inputs, 1_000 + i) for i in range(CALIBRATING)]
    )
    judged = [inputs, *(like(inputs, 1_000_000 + i) for i in range(JUDGED))]
    hashed = digest([name, arguments, [_hashed(t) for t in (*_tensors(module), *inputs)]])
    fresh: list[nn.Module] = [module]  # the first load need not call the function again

    def make() -> nn.Module:
        return fresh.pop() if fresh else _called(found(name), name, arguments)[0]

    def here(tensors: Inputs) -> Inputs:
        return tuple(t.to(device) for t in tensors)

    return PlainTask(
        hashed=hashed,
        make=make,
        example=here(inputs),
        judged=[here(i) for i in judged],
        calibrating=[tuple(i) for i in calibrating],
        axis=int(options.get("axis", -1)),
        evaluate=evaluate,
        carrying=_carried(name),
    )


def _carried(name: str) -> Carried:
    """The owner's file; a module of a package must be installed where the export is loaded."""
    where, _, what = name.rpartition(":")
    if not where.endswith(".py"):
        return Carried()
    return Carried({"model": f"source/{Path(where).name}:{what}"}, {Path(where).name: Path(where).read_bytes()})


def found(name: str) -> Callable[..., Any]:
    """The function that a name stands for. Raises ConfigError where there is none."""
    where, colon, what = name.rpartition(":")
    if not colon or not where or not what.isidentifier():
        raise ConfigError(f"'{name}' names no function. {REMEDY}")
    function = getattr(_module(where), what, None)
    if not callable(function):
        raise ConfigError(f"{where} has no function {what}.")
    return function  # type: ignore[no-any-return]


def _module(where: str) -> Any:
    if not where.endswith(".py"):
        try:
            return import_module(where)
        except ModuleNotFoundError as error:
            raise ConfigError(f"There is no module {where} here ({error}). {REMEDY}") from None
    path = Path(where).resolve()
    known = f"own_model_{path.stem}"
    if known in sys.modules:
        return sys.modules[known]
    spec = spec_from_file_location(known, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"There is no file {path}. {REMEDY}")
    module = module_from_spec(spec)
    sys.modules[known] = module
    spec.loader.exec_module(module)
    return module


def _called(function: Callable[..., Any], name: str, arguments: Mapping[str, Json]) -> tuple[Any, ...]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are the same in every worker
        given = function(**arguments)
    fits = isinstance(given, tuple | list) and 2 <= len(given) <= 4 and isinstance(given[0], nn.Module)
    if not fits or not given[1] or not all(isinstance(t, Tensor) for t in given[1]):
        raise ConfigError(
            f"{name} must return (module, (tensor, …)), then if wanted an evaluation function and calibration inputs; "
            f"it returned {type(given).__name__}."
        )
    return tuple(given)


def like(inputs: Inputs, seed: int) -> Inputs:
    """Other inputs of the same kind: numbers with the same mean and spread; integers and booleans in another order."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(x: Tensor) -> Tensor:
        if x.is_floating_point():
            spread = float(x.std()) if x.numel() > 1 else 1.0
            return (
                torch.randn(x.shape, generator=generator, dtype=torch.float32)
                .mul(spread)
                .add(float(x.mean()))
                .to(x.dtype)
            )
        return x.flatten()[torch.randperm(x.numel(), generator=generator)].view(x.shape)

    return tuple(drawn(x) for x in inputs)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [t for _, t in sorted(module.state_dict().items()) if isinstance(t, Tensor)]


def _hashed(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8) if tensor.numel() else tensor
    return hashlib.sha256(raw.numpy().tobytes() + str((tensor.dtype, tuple(tensor.shape))).encode()).hexdigest()
