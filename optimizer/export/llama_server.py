"""llama-server.args: with which arguments does llama.cpp's server run as the winner?"""

from collections.abc import Mapping
from typing import final

from optimizer.export.serving import settings, unfit, weights
from optimizer.export.shipment import Shipment
from optimizer.export.words import backslashed

ARGUMENTS = "llama-server.args"


@final
class LlamaServer:
    text = f"{ARGUMENTS}: an argument a line, for xargs -a {ARGUMENTS} llama-server"
    reopens = ""

    def unfit(self, shipment: Shipment) -> str:
        return unfit(shipment, "llama_server")

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        """xargs knows no comments, so where it comes from stands in provenance.json alone."""
        words = ["--model", weights(shipment)]
        for name, value in settings(shipment, "llama_server").told.items():
            words += [name, value]
        return {ARGUMENTS: "".join(f"{backslashed(w)}\n" for w in words).encode()}
