"""What tests of torch models do to a target: try a point, catch its failure."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from optimizer.space import Json, Point, Value
from optimizer.targets.torch.exported import ExportedTarget
from optimizer.targets.torch.target import TorchTarget
from optimizer.targets.torch.told import described, resolved
from optimizer.trial import Check, Samples, TrialError

MODELS = Path(__file__).parent / "targets/torch/models.py"
MLP: Mapping[str, Json] = {"net": "mlp", "batch": 4, "features": 32, "hidden": 64, "classes": 8, "seed": 0}
Make = Callable[..., TorchTarget]


def tried(target: TorchTarget, **knobs: Value) -> tuple[Check, Samples]:
    with target.open(target.build(Point(knobs))) as runner:
        return runner.verify(), runner.run(3)


def exported_at(place: Path, target: TorchTarget) -> ExportedTarget:
    """What `target` exported to a folder, with the folder's own unmodified model beside it."""
    told = described(place)
    unmodified = replace(target, options=resolved(told["options"], place), folder=place.parent / "scratch")
    return ExportedTarget(place, told, unmodified)


def failure(do: Callable[[], object]) -> TrialError:
    with pytest.raises(TrialError) as failed:
        do()
    return failed.value
