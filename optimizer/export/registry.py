"""How does an exported model get into MLflow's model registry, as the champion after whom one can go back?

The model is logged to its study's run as "models from code": MLflow keeps the export's folder and the file that loads
it (pyfunc_model.py). The alias `champion` moves to the new version, `previous` to the one that had it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.readers.store import store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

CHAMPION, PREVIOUS = "champion", "previous"
EXPORT_TAG = "optimizer.export"
GENERATED = 16  # tokens, where predict is not told how many


@dataclass(frozen=True)
class Registered:
    name: str
    version: str
    previous: str | None  # the version that was champion before
    known: bool = False  # this very export was the champion already

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{CHAMPION}"


def register(folder: Path, told: Mapping[str, Any], content: str, name: str, uri: str, run_id: str) -> Registered:
    """Logs an export (told: its model.json; content: a hash of what was exported) to a run, and makes it the champion
    of the registered model `name`; nothing where it is that already. Raises StoreError where the store does not answer
    or refuses."""
    import mlflow
    from mlflow import MlflowClient

    with store_errors():
        client = MlflowClient(uri)
        champion = _holder(client, name, CHAMPION)
        if champion is not None and client.get_model_version(name, champion).tags.get(EXPORT_TAG) == content:
            return Registered(name, champion, _holder(client, name, PREVIOUS), known=True)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(uri)
        try:
            with mlflow.start_run(run_id=run_id):
                logged = mlflow.pyfunc.log_model(
                    name=name,
                    python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                    artifacts={"export": str(folder)},
                    signature=_signature(told),
                    input_example=_example(folder, told),
                    pip_requirements=[f"mlflow=={mlflow.__version__}", *told["requirements"]],
                    registered_model_name=name,
                )
        finally:
            mlflow.set_tracking_uri(before)
        version = str(logged.registered_model_version)
        client.set_model_version_tag(name, version, EXPORT_TAG, content)
        if champion is not None:
            client.set_registered_model_alias(name, PREVIOUS, champion)
        client.set_registered_model_alias(name, CHAMPION, version)
    return Registered(name, version, champion)


def _holder(client: "MlflowClient", name: str, alias: str) -> str | None:
    """The version that has an alias."""
    found = client.search_registered_models(f"name = '{name}'")
    version = dict(found[0].aliases).get(alias) if found else None
    return None if version is None else str(version)


def _signature(told: Mapping[str, Any]) -> "ModelSignature":
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    if "prefill" in told["entries"]:
        ids = Schema([TensorSpec(np.dtype(np.int64), (-1, -1))])
        return ModelSignature(ids, ids, ParamSchema([ParamSpec("count", "long", GENERATED)]))

    def schema(tensors: Any) -> Schema:
        first = (lambda shape: (-1, *shape[1:])) if told["rows"] else tuple
        specs = [(np.dtype(_numpy(t["dtype"])), first(t["shape"]), t["name"]) for t in tensors]
        return Schema([TensorSpec(d, s, n if len(specs) > 1 else None) for d, s, n in specs])

    return ModelSignature(schema(told["entries"]["forward"]), schema(told["outputs"]["forward"]))


def _numpy(dtype: str) -> str:
    return "float32" if dtype == "bfloat16" else dtype  # what load.py gives in its place


def _example(folder: Path, told: Mapping[str, Any]) -> Any:
    from safetensors.numpy import load_file

    stored = load_file(folder / "examples.safetensors")
    if "prefill" in told["entries"]:
        return stored["prefill.0"]
    inputs = {t["name"]: stored[f"forward.{i}"] for i, t in enumerate(told["entries"]["forward"])}
    return inputs if len(inputs) > 1 else inputs["input_0"]
