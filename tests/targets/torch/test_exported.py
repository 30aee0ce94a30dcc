"""Exported models: the folder alone answers as the trial did, in a fresh process, without pickle, with its settings."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torchmodels import MLP, MODELS, exported_at, failure

from optimizer.errors import ConfigError
from optimizer.space import Json, Point, Value
from optimizer.targets.native import Limits
from optimizer.targets.torch.exported import ExportedTarget
from optimizer.targets.torch.target import TorchTarget
from optimizer.targets.torch.told import described
from optimizer.targets.torch.workers import Zygote
from optimizer.trial import Check, Reason

Ship = Callable[..., ExportedTarget]
LIMITS = Limits(300.0, 8 << 30)
DIGITS: dict[str, Json] = {"batch": 4}


@pytest.fixture
def ship(zygote: Zygote, cache: Path, tmp_path: Path) -> Ship:
    """Builds a point of a task and exports it."""

    def make(task: str, options: Mapping[str, Json], **knobs: Value) -> ExportedTarget:
        target = TorchTarget(
            task, options, Point({"backend": "eager"}), "cpu", tmp_path / "built", cache, LIMITS, zygote=zygote
        )
        out = tmp_path / "export"
        out.mkdir()
        target.export(target.build(Point(knobs)), out)
        return exported_at(out, target)

    return make


def checked(target: ExportedTarget) -> Check:
    with target.open(target.build(target.point)) as runner:
        assert runner.run(2)["latency_s"][0] > 0
        return runner.verify()


POINTS: dict[str, dict[str, Value]] = {
    "eager": {"backend": "eager", "threads": 1},
    "torchscript": {"backend": "torchscript", "jit_optimize": "inference", "threads": 2},
    "compile": {"backend": "compile", "freezing": True, "threads": 1},
    "onnxruntime": {"backend": "onnxruntime", "threads": 1, "ort_optimization": "extended", "quantize": "int8_dynamic"},
    "openvino": {"backend": "openvino", "threads": 1, "quantize": "int8_weight"},
    "bf16": {"backend": "eager", "quantize": "bf16"},
    "int8_weight": {"backend": "eager", "quantize": "int8_weight", "quantize_head": True},
    "int4_weight": {"backend": "eager", "quantize": "int4_weight", "quantize_group": 32},
    "int8_dynamic": {"backend": "eager", "quantize": "int8_dynamic"},
    "float8_weight": {"backend": "eager", "quantize": "float8_weight"},
    "int8_legacy": {"backend": "eager", "quantize": "int8_legacy"},
    "structured": {"backend": "eager", "prune": "structured", "prune_front_pct": 30, "quantize": "int8_weight"},
    "wanda": {"backend": "torchscript", "prune": "wanda", "quantize": "bf16"},
}


@pytest.mark.parametrize("name", POINTS)
def test_an_exported_perceptron_answers_as_it_did(ship: Ship, name: str) -> None:
    target = ship("net", MLP, **POINTS[name])
    check = checked(target)
    assert check.errors["export_rel_error"] < 1e-6
    assert check.quality == target.told["quality"]
    files = {path.name for path in target.place.rglob("*")}
    assert ("weights.safetensors" in files) == (target.told["backend"] in ("eager", "compile"))


@pytest.mark.parametrize(
    "knobs",
    [
        {"backend": "eager", "prune": "structured", "prune_front_pct": 20, "channels_last": True},
        {"backend": "torchscript", "quantize": "bf16", "channels_last": True},
    ],
)
def test_exported_digits_keep_their_accuracy(ship: Ship, knobs: dict[str, Value]) -> None:
    target = ship("digits", DIGITS, **knobs)
    check = checked(target)
    assert check.errors["export_rel_error"] < 1e-6
    assert 0.2 < check.quality["accuracy"] == target.told["quality"]["accuracy"]


def test_the_baseline_beside_an_export_is_the_unmodified_model(ship: Ship) -> None:
    target = ship("digits", DIGITS, backend="torchscript", quantize="bf16")
    with target.open(target.build(target.baseline)) as runner:
        assert runner.verify().errors == {"max_rel_error": 0.0}


ALONE = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from load import load_model
model = load_model()
x = np.linspace(-1, 1, 7 * 32, dtype=np.float32).reshape(7, 32)
found = {"whole": model(x[:4]).tolist(), "rows": model.predict(x).tolist()}
if sys.modules.get("torch"):
    found["threads"] = sys.modules["torch"].get_num_threads()
try:
    model(x)
except ValueError as error:
    found["refused"] = str(error)
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("backend", "absent"),
    [("torchscript", ["optimizer"]), ("aoti", ["optimizer"]), ("onnxruntime", ["optimizer", "torch"])],
)
def test_what_was_compiled_needs_the_folder_and_its_runtime_alone(
    ship: Ship, backend: str, absent: list[str], tmp_path: Path
) -> None:
    """In a process that can't import what is absent, from a folder that was moved."""
    target = ship("net", MLP, backend=backend, threads=1)
    assert checked(target).errors["export_rel_error"] < 1e-6
    place = target.place.rename(tmp_path / "moved")
    hidden = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n{ALONE}"
    done = subprocess.run(
        [sys.executable, "-c", hidden, str(place)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.get("threads", 1) == 1
    assert "(4, 32), not (7, 32)" in found["refused"]
    rows = np.array(found["rows"])
    assert rows.shape == (7, 8)
    assert np.allclose(rows[:4], found["whole"])
    requirements = (place / "requirements.txt").read_text()
    assert "inference-optimizer" not in requirements
    assert ("torch==" in requirements) == ("torch" not in absent)


def test_a_model_of_ones_own_takes_its_file_along(ship: Ship, tmp_path: Path) -> None:
    target = ship("own", {"model": f"{MODELS}:judged"}, backend="eager", quantize="bf16")
    assert (target.place / "source/models.py").read_bytes() == MODELS.read_bytes()
    assert target.told["options"]["model"] == "source/models.py:judged"
    check = checked(target)
    assert check.errors["export_rel_error"] < 1e-6
    assert "accuracy" in check.quality


def test_weights_that_are_not_those_of_the_model_are_refused(ship: Ship) -> None:
    target = ship("net", MLP, backend="eager")
    (target.place / "weights.safetensors").write_bytes((target.place / "examples.safetensors").read_bytes())
    error = failure(lambda: checked(target))
    assert error.reason is Reason.CRASH
    assert "there is no stored layers.0.weight" in error.log


def test_other_weights_give_other_answers(ship: Ship) -> None:
    from safetensors.torch import load_file, save_file

    target = ship("net", MLP, backend="eager")
    weights = load_file(target.place / "weights.safetensors")
    save_file({name: 1.1 * t for name, t in weights.items()}, target.place / "weights.safetensors")
    error = failure(lambda: checked(target))
    assert error.reason is Reason.WRONG


def test_an_export_is_the_same_bytes_each_time(ship: Ship, tmp_path: Path) -> None:
    target = ship("net", MLP, backend="torchscript", threads=1)
    first = {path.name: path.read_bytes() for path in target.place.rglob("*") if path.is_file()}
    again = tmp_path / "again"
    again.mkdir()
    whole = replace(target.unmodified, options=MLP, folder=tmp_path / "built")
    whole.export(whole.build(target.point), again)
    assert {path.name: path.read_bytes() for path in again.rglob("*") if path.is_file()} == first


def test_a_folder_without_a_model_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no exported model"):
        described(tmp_path)
    (tmp_path / "model.json").write_text('{"format": 99}')
    with pytest.raises(ConfigError, match="format 99"):
        described(tmp_path)
