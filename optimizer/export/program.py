"""program: the winner's built program itself."""

from collections.abc import Mapping
from typing import final

from optimizer.export.shipment import Shipment

PROGRAM = "program"
CUBIN = "kernel.cubin"


@final
class Program:
    text = f"{PROGRAM} or {CUBIN}: what was built, for the processor or the GPU that it was searched on"
    reopens = ""

    def unfit(self, shipment: Shipment) -> str:
        return "" if _built(shipment) else "the target builds no program"

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        return {name: shipment.built[name] for name in _built(shipment)}


def _built(shipment: Shipment) -> list[str]:
    return [name for name in (PROGRAM, CUBIN) if name in shipment.built]
