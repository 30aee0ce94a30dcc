"""How does an exported model that runs as Python come back? Its net is made anew, cut, quantised, and filled."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from optimizer.targets.torch.layout import ChannelsLast
from optimizer.targets.torch.parts import (
    BACKEND,
    CHANNELS_LAST,
    Answers,
    Built,
    Call,
    Calls,
    Entries,
    Job,
    Knobs,
    Task,
)
from optimizer.targets.torch.plain import max_rel_error
from optimizer.targets.torch.quantize import Quantize, quantized
from optimizer.targets.torch.stored import cut, fill, unwrapped
from optimizer.targets.torch.tables import BACKENDS, TASKS
from optimizer.targets.torch.told import ANSWERS, EXAMPLES, WEIGHTS, resolved
from optimizer.trial import Reason, TrialError

CHANGED = "export_rel_error"
"""How far an export's answers lie from those that it gave when it was made."""
REBUILT_TOLERANCE = 5e-2
"""Of that, where the model rounds to few bits: on another processor a difference in the last place is a whole step."""


def task_of(place: Path, told: Mapping[str, Any]) -> Task:
    return TASKS[told["task"]](resolved(told["options"], place), told["knobs"], told["device"], place)


def examples_of(place: Path, told: Mapping[str, Any]) -> Entries:
    stored = load_file(place / EXAMPLES, device=told["device"])
    return {name: tuple(stored[f"{name}.{i}"] for i in range(len(entry))) for name, entry in told["entries"].items()}


def answers_of(place: Path, whose: str) -> Answers:
    """What the winner or the baseline said when the export was made."""
    stored = load_file(place / ANSWERS)
    return {name.removeprefix(f"{whose}."): t for name, t in stored.items() if name.startswith(f"{whose}.")}


def changed(answers: Answers, recorded: Answers) -> float:
    """The largest relative difference of any answer that is no choice among several. Raises TrialError where one is
    missing or has another shape."""
    if answers.keys() != recorded.keys():
        raise TrialError(Reason.WRONG, f"it answers {sorted(answers)}, and {sorted(recorded)} were recorded")
    return max(max_rel_error(t, recorded[name]) for name, t in answers.items() if t.is_floating_point())


def calls_of(place: Path, told: Mapping[str, Any]) -> Calls:
    """The entries of a model that eager torch or torch.compile runs; the second compiles it now, cold."""
    task = task_of(place, told)
    with torch.no_grad():
        module = _module(task, place, told)
        job = Job(
            task=task,
            knobs=told["knobs"],
            device=told["device"],
            folder=place,
            seed=place,
            module=lambda: module,
            entries=examples_of(place, told),
        )
        return BACKENDS[told["backend"]].make().load(job)


def _module(task: Task, place: Path, told: Mapping[str, Any]) -> nn.Module:
    knobs: Knobs = told["knobs"]
    net = task.load()
    cut(net, told["shapes"])
    if Quantize().active(knobs):
        net = quantized(net, knobs).module
    fill(unwrapped(net), load_file(place / WEIGHTS))
    net = net.to(told["device"]).eval()
    return ChannelsLast(net).eval() if knobs.get(CHANNELS_LAST) else net


class Exported:
    """An export as a backend: what its own load.py makes of it is verified and measured like any other model."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def missing(self, device: str) -> str | None:
        return None

    def quantizes(self) -> frozenset[str]:
        return frozenset()

    def tolerance(self, knobs: Knobs) -> float:
        return BACKENDS[str(knobs.get(BACKEND, "eager"))].make().tolerance(knobs)

    def build(self, job: Job) -> Built:
        return Built()

    def load(self, job: Job) -> Calls:
        """Raises ImportError, ValueError or TrialError as load.py does."""
        spec = importlib.util.spec_from_file_location("exported_load", self._place / "load.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"{self._place / 'load.py'} is not there")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.load_model(self._place)
        calls: Calls = {n: _of_tensors(call) for n, call in model.calls.items()} if model.arrays else model.calls
        for name, inputs in job.entries.items():
            calls[name](*inputs)
        return calls

    def evidence(self, job: Job) -> Mapping[str, float]:
        return {}


def _of_tensors(call: Callable[..., Any]) -> Call:
    """A call of arrays as one of tensors, which lie in the same memory."""

    def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        said = tuple(torch.from_numpy(y) for y in call(*(x.contiguous().numpy() for x in inputs)))
        return said if len(said) > 1 else said[0]

    return run
