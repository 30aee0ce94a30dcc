"""model.json and what it names: how is a torch model's winner loaded and run somewhere else?

The package is made by a worker of the target (optimizer/targets/torch/shipping.py). Files that a backend built are
taken as they are, archives too: they are hashed, not opened.
"""

import json
from collections.abc import Mapping
from typing import final

from optimizer.export.shipment import Shipment

MODEL = "model"
"""The line of optimizer/config/reopened.py that opens it."""
TOLD, LOADER, README = "model.json", "load.py", "README.md"
CONFIG = "source/config.json"  # of a language model with trained weights


@final
class Model:
    text = f"{TOLD}, {LOADER}, weights or compiled files: a model that {LOADER} loads in another process"
    reopens = MODEL

    def unfit(self, shipment: Shipment) -> str:
        return "" if TOLD in shipment.built else "the target is no torch model"

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        return {**{path: shipment.built[path] for path in shipment.built}, README: _readme(shipment).encode()}


def _readme(shipment: Shipment) -> str:
    target = shipment.target
    generates = "model.generate([1, 2, 3], 16)  # token ids in, the 16 that follow out"
    use = generates if target.get("task") == "language" else "model.predict(x)  # any number of rows"
    lines = [
        f"# {target.get('text', target.get('name', 'A model'))}",
        "",
        f"{shipment.origin} `provenance.json` says how it was found and what it promises.",
        "",
        "```bash",
        "pip install -r requirements.txt",
        "```",
        "```python",
        "from load import load_model  # load.py of this folder",
        "",
        "model = load_model()",
        use,
        "```",
        "",
        "Loading sets the threads and options that were measured, for the whole process. What was compiled runs on",
        "processors with the vector instructions of the one that it was built on.",
        "`python -m optimizer verify FOLDER` measures answers, quality and speed again.",
    ]
    return "\n".join(lines + _terms(shipment)) + "\n"


def _terms(shipment: Shipment) -> list[str]:
    """What the owner of trained weights asks of those who pass them on."""
    config = json.loads(shipment.built[CONFIG]) if CONFIG in shipment.built else {}
    if "gemma" in str(config.get("model_type", "")):
        return [
            "",
            "The weights are Google's Gemma: who uses or passes on this folder is bound by the Gemma Terms of Use",
            "(ai.google.dev/gemma/terms) and must pass them on with it.",
        ]
    if "smollm2" in str(shipment.target.get("options", {}).get("weights", "")).lower():
        return ["", "The weights and the tokenizer are SmolLM2's, under the Apache License 2.0."]
    return []
