"""MLflow's model registry: the new export is champion, the one before it previous, and a fresh process loads it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import environment
from torchmodels import MLP, exported_at

from optimizer.export.registry import Registered, register
from optimizer.space import Point, Value
from optimizer.targets.native import Limits
from optimizer.targets.torch.load import load_model
from optimizer.targets.torch.target import IMPORTED, TorchTarget
from optimizer.targets.torch.workers import Zygote

LOADS = """
import json, sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/perceptron@champion")
rows = np.linspace(-1, 1, 7 * 32, dtype=np.float32).reshape(7, 32)
print(json.dumps(model.predict(rows).tolist()))
"""


def shipped(place: Path, **knobs: Value) -> tuple[Path, dict[str, Any]]:
    zygote = Zygote(IMPORTED)
    target = TorchTarget(
        "net", MLP, Point({"backend": "eager"}), "cpu", place / "built", place / "cache", Limits(300.0, 8 << 30),
        zygote=zygote,
    )  # fmt: skip
    out = place / f"export-{len(list(place.glob('export-*')))}"
    out.mkdir()
    target.export(target.build(Point(knobs)), out)
    zygote.close()
    return out, dict(exported_at(out, target).told)


def predicted(uri: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", LOADS, uri], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_the_champion_is_loaded_elsewhere_and_the_one_before_it_is_kept(tmp_path: Path) -> None:
    import mlflow
    from mlflow import MlflowClient
    from mlflow.models import get_model_info

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("e", artifact_location=str(tmp_path / "artifacts")))
    first, told = shipped(tmp_path, backend="torchscript", threads=1)
    rows = np.linspace(-1, 1, 7 * 32, dtype=np.float32).reshape(7, 32)

    assert register(first, told, "first", "perceptron", uri, run.info.run_id) == Registered("perceptron", "1", None)
    assert np.array_equal(predicted(uri), load_model(first).predict(rows))
    again = register(first, told, "first", "perceptron", uri, run.info.run_id)
    assert (again.version, again.known) == ("1", True)

    second, told = shipped(tmp_path, backend="torchscript", quantize="bf16", threads=1)
    assert register(second, told, "second", "perceptron", uri, run.info.run_id) == Registered("perceptron", "2", "1")
    model = client.get_registered_model("perceptron")
    assert {alias: str(version) for alias, version in model.aliases.items()} == {"champion": "2", "previous": "1"}
    assert np.array_equal(predicted(uri), load_model(second).predict(rows))
    stored = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert not [path.name for path in stored if path.suffix in (".pkl", ".pickle")]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    info = get_model_info("models:/perceptron@champion")
    mlflow.set_tracking_uri(before)
    assert info.signature.inputs.inputs[0].shape == (-1, 32)
    assert info.signature.outputs.inputs[0].shape == (-1, 8)
    assert info.saved_input_example_info is not None
