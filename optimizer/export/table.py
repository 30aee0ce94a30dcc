"""Which kinds of files can be exported, and which of them fit a study?"""

from collections.abc import Mapping, Sequence

from optimizer.errors import ConfigError, nearest
from optimizer.export.cmake import CMake
from optimizer.export.env import Env
from optimizer.export.experiment import Experiment
from optimizer.export.flags import Flags
from optimizer.export.header import Header
from optimizer.export.llama_server import LlamaServer
from optimizer.export.model import Model
from optimizer.export.modelfile import Modelfile
from optimizer.export.plain import Plain
from optimizer.export.program import Program
from optimizer.export.provenance import FROM_POINT, PROVENANCE, provenance
from optimizer.export.shipment import Exporter, Shipment
from optimizer.export.vllm import Vllm

EXPORTERS: Mapping[str, Exporter] = {
    "flags": Flags(),
    "header": Header(),
    "cmake": CMake(),
    "program": Program(),
    "model": Model(),
    "env": Env(),
    "modelfile": Modelfile(),
    "llama-server": LlamaServer(),
    "vllm": Vllm(),
    "hydra": Experiment(),
    "json": Plain(),
}
"""A new kind is a file in this folder and a line here; where several reopen the winner, the first does."""


def chosen(names: Sequence[str], shipment: Shipment) -> tuple[str, ...]:
    """The kinds that were asked for, in the table's order; all that fit where none was. Raises ConfigError for a kind
    that there is not or that does not fit, with what fits."""
    fitting = [name for name, exporter in EXPORTERS.items() if not exporter.unfit(shipment)]
    for name in names:
        if name not in EXPORTERS:
            raise ConfigError(f"There is no export --to {name}.{nearest(name, EXPORTERS)}")
        if why := EXPORTERS[name].unfit(shipment):
            raise ConfigError(f"--to {name} does not fit: {why}. What fits this study: {', '.join(fitting)}.")
    return tuple(name for name in EXPORTERS if (name in names if names else name in fitting))


def exported(names: Sequence[str], shipment: Shipment) -> dict[str, bytes]:
    """Everything that an export of these kinds consists of, by path; provenance.json is the last."""
    files: dict[str, bytes] = {}
    for name in names:
        files |= EXPORTERS[name].render(shipment)
    reopens = next((e.reopens for n, e in EXPORTERS.items() if n in names and e.reopens), FROM_POINT)
    return {**files, PROVENANCE: provenance(shipment, files, names, reopens)}
