"""What has each machine of a cluster? A site: the target, the device and the meter as they are there.

A target never travels: it names compilers, sources and GPUs of one machine. Every machine makes its own of the same
configuration, and tells what it has made; machines that differ are never compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from optimizer.protocols import Device, Meter, Target
from optimizer.recipe import Environment
from optimizer.space import Json, Value


@dataclass(frozen=True)
class Told:
    """A site in values alone. space: its document, without what the machine lacks; fingerprint: of the target; arch:
    what is built for, "" where the compiler is told nothing; lock: of the device."""

    machine: str
    space: Json
    fingerprint: Mapping[str, Json]
    environment: Environment
    lock: str
    shares_cpu: bool
    runs: bool
    baseline: Mapping[str, Value]
    missing: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    def kind(self) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """What must agree before two readings are compared: device, driver, compilers."""
        return self.environment.device, self.environment.driver, tuple(sorted(self.environment.compilers.items()))


@dataclass(frozen=True, eq=False)
class Site:
    """folder: where builds lie on this machine, one subfolder a key; prepare: what must be done before a build."""

    target: Target
    device: Device
    meter: Meter
    folder: Path
    prepare: Callable[[], None]
    told: Told


Maker = Callable[[], Site]
"""Makes the site of the machine on which it is called, once a process. Raises ConfigError where it can't work there."""


def described(kind: tuple[str, str, tuple[tuple[str, str], ...]]) -> str:
    device, driver, compilers = kind
    parts = [device, *([f"driver {driver}"] if driver else []), *(f"{n}: {v}" for n, v in compilers)]
    return ", ".join(parts)


def difference(told: Told, first: Told) -> str | None:
    """Why what a machine builds is not what another would build; None where it is the same."""
    if told.fingerprint != first.fingerprint:
        return "its sources or data files are others"
    if told.environment.compilers != first.environment.compilers:
        mine, theirs = (", ".join(t.environment.compilers.values()) for t in (told, first))
        return f"its compilers are {mine}, not {theirs}"
    if told.space != first.space:
        return "it lacks something that the search space needs"
    return None
