"""vllm.yaml: with which arguments does vLLM serve the model as the winner? `vllm serve --config vllm.yaml`."""

import json
from collections.abc import Mapping
from typing import final

from optimizer.export.serving import comment, settings, unfit, weights
from optimizer.export.shipment import Shipment

CONFIG = "vllm.yaml"


@final
class Vllm:
    text = f"{CONFIG}: a configuration file for vllm serve --config {CONFIG}"
    reopens = ""

    def unfit(self, shipment: Shipment) -> str:
        return unfit(shipment, "vllm")

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        found = settings(shipment, "vllm")
        lines = [*comment(shipment, found), f"model: {json.dumps(weights(shipment))}"]
        lines += [f"{name}: {_scalar(value)}" for name, value in found.told.items()]
        return {CONFIG: ("\n".join(lines) + "\n").encode()}


def _scalar(value: str) -> str:
    """A number or a truth value as it is, anything else quoted."""
    bare = value in ("true", "false") or value.lstrip("-").replace(".", "", 1).isdigit()
    return value if bare else json.dumps(value)
