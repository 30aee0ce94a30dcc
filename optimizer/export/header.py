"""config.h: how does a source get the winner's macros? `g++ -include config.h` or #include "config.h"."""

from collections.abc import Mapping
from typing import final

from optimizer.export.provenance import FROM_FILES
from optimizer.export.shipment import Shipment
from optimizer.export.words import kinds, macros_of

HEADER = "config.h"


@final
class Header:
    text = f"{HEADER}: the kernel's macros, for g++ -include {HEADER}"
    reopens = FROM_FILES

    def unfit(self, shipment: Shipment) -> str:
        return "" if "macro" in kinds(shipment) else "no knob of this study is a macro of a source"

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        lines = [f"// {shipment.origin}", "#pragma once", ""]
        lines += [f"#define {name} {value}" for name, value in macros_of(shipment).items()]
        return {HEADER: ("\n".join(lines) + "\n").encode()}
