"""Modelfile: how does Ollama run the model with the winner's options? `ollama create NAME -f Modelfile`."""

from collections.abc import Mapping
from typing import final

from optimizer.export.serving import comment, settings, unfit, weights
from optimizer.export.shipment import Shipment

MODELFILE = "Modelfile"


@final
class Modelfile:
    text = f"{MODELFILE}: PARAMETER lines for Ollama; what its server takes from variables stands in winner.env"
    reopens = ""

    def unfit(self, shipment: Shipment) -> str:
        return unfit(shipment, "modelfile")

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        found = settings(shipment, "modelfile")
        lines = [*comment(shipment, found), f"FROM {weights(shipment)}"]
        lines += [f"PARAMETER {name} {value}" for name, value in found.told.items()]
        return {MODELFILE: ("\n".join(lines) + "\n").encode()}
