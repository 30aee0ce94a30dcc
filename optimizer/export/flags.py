"""flags.rsp: how does a compiler read the winner's flags? `g++ @flags.rsp`, `nvcc --options-file flags.rsp`."""

from collections.abc import Mapping
from typing import final

from optimizer.export.provenance import FROM_FILES
from optimizer.export.shipment import Shipment
from optimizer.export.words import backslashed, compiles, flags_of

FLAGS = "flags.rsp"


@final
class Flags:
    text = f"{FLAGS}: the compiler's words, for g++ @{FLAGS} and nvcc --options-file {FLAGS}"
    reopens = FROM_FILES

    def unfit(self, shipment: Shipment) -> str:
        return "" if compiles(shipment) else "nothing of this study is compiled with flags"

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        return {FLAGS: "".join(f"{backslashed(w)}\n" for w in flags_of(shipment)).encode()}
