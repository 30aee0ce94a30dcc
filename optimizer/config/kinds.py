"""Which kinds of device are there to search on, each of which needs a study of its own?"""

from dataclasses import dataclass
from datetime import date

from optimizer.config.allocation import quoted
from optimizer.config.compose import Composed
from optimizer.config.objects import setup_of
from optimizer.config.targets import device_name
from optimizer.device import gpu_kinds


@dataclass(frozen=True, slots=True)
class Kind:
    """name: for people; words: what chooses it."""

    name: str
    words: tuple[str, ...]


def kinds_of(made: Composed, today: date) -> list[Kind]:
    """In a Ray cluster, or of this machine's GPUs, in the order of their names; one where a processor is measured.
    Raises ConfigError where the search can't be made, or where there is no device for it."""
    if made.tree["executor"]["name"] == "ray":
        setup = setup_of(made, today)
        setup.executor().close()  # leaves the cluster, which each search joins anew
        return [Kind(name, (f"executor.device={quoted(name)}",)) for name in setup.kinds]
    device = device_name(str(made.tree["device"]), made.tree["target"])
    if device == "cuda":
        return [Kind(name, (f"device=cuda:{'+'.join(uuids)}",)) for name, uuids in gpu_kinds().items()]
    return [Kind(device, ())]
