"""How does MLflow load an exported model? By the load.py among its artifacts. MLflow runs this file: no pickle.

predict takes what the signature says: rows for a net, token ids (prompts of one length) for a language model, whose
parameter `count` says how many ids are to follow.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ExportedModel(PythonModel):  # the class that MLflow asks for
    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["export"])
        spec = importlib.util.spec_from_file_location("exported_load", folder / "load.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"{folder / 'load.py'} is not there")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._model = module.load_model(folder)

    # MLflow reads type hints as the schema of the input; the signature is that already.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        if "prefill" in self._model.calls:
            ids = np.asarray(model_input).tolist()
            return np.asarray(self._model.generate(ids, int((params or {}).get("count", 16))), dtype=np.int64)
        entries = self._model.told["entries"]["forward"]
        arrays = [model_input[entry["name"]] for entry in entries] if len(entries) > 1 else [model_input]
        found = self._model.predict(*arrays) if self._model.told["rows"] else self._model(*arrays)
        return {f"output_{i}": y for i, y in enumerate(found)} if isinstance(found, tuple) else found


set_model(ExportedModel())
