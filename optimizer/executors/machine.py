"""What runs on each machine of a Ray cluster? Builds, and one measurer a device. Bad points come back as values."""

import functools
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import ray

from optimizer.errors import ConfigError
from optimizer.executors.parcels import hash_of, moved_to, packed, unpacked
from optimizer.executors.site import Maker, Site, Told, difference
from optimizer.process import held_still
from optimizer.protocols import Runner
from optimizer.space import Point, Value
from optimizer.stats import Estimate
from optimizer.trial import Artifact, Check, Reason, Samples, TrialError

T = TypeVar("T")
THREADS = "OMP_NUM_THREADS"
NOWHERE = Path("/")
"""Where artifacts are said to lie while they travel: what follows is a path in the folder of builds."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A TrialError, as it travels."""

    reason: Reason
    log: str
    again: bool


@dataclass(frozen=True, slots=True)
class Missing:
    """A build that did not arrive whole."""

    why: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """A build: its artifact (path below NOWHERE), the hash of its parcel and how long it took."""

    artifact: Artifact
    sha256: str
    build_s: float


def build(
    make: Maker, values: Mapping[str, Value], fresh: bool, first: Told | None
) -> tuple[Delivered | Refused, bytes]:
    """A point's build and its parcel. Raises ConfigError where this machine would build something else than `first`."""
    site = make()
    if first is not None and (problem := difference(site.told, first)) is not None:
        raise ConfigError(
            f"{site.told.machine} can't build for this search, whose target is that of {first.machine}: {problem}. "
            "Give both the same installation, or name with executor.build_on=RESOURCE the machines that build."
        )
    _prepare(site)
    start_s = time.perf_counter()
    try:
        artifact = site.target.build(Point(values), fresh=fresh)
        build_s = time.perf_counter() - start_s
        content = packed(site.folder / artifact.key) if artifact.path else b""
    except TrialError as error:
        return Refused(error.reason, error.log, error.again), b""
    return Delivered(moved_to(artifact, site.folder, NOWHERE), hash_of(content), build_s), content


def prepare(make: Maker) -> None:
    """What every build needs. Raises ConfigError where nothing can be built."""
    _prepare(make())


@functools.lru_cache(maxsize=4)
def _prepare(site: Site) -> None:
    site.prepare()


def clear(make: Maker) -> None:
    """Removes the builds that a search has left here."""
    shutil.rmtree(make().folder, ignore_errors=True)


def _answer(work: Callable[[], T]) -> T | Refused:
    try:
        return work()
    except TrialError as error:
        return Refused(error.reason, error.log, error.again)


class Measurer:
    """The one who measures on a device of a machine: a Ray actor, which does one thing at a time."""

    def __init__(self, make: Maker) -> None:
        _threads_as_started()
        self._make = make
        self._held = ExitStack()
        self._open: dict[int, tuple[ExitStack, Runner]] = {}

    def told(self) -> Told:
        return self._make().told

    def clear(self) -> None:
        """Ends what runs here and removes the builds that the search has brought."""
        self.release()
        clear(self._make)

    def hold(self) -> None:
        """Waits for the device, which then is this search's until `release`."""
        self._held.enter_context(self._make().device.alone())

    def release(self) -> None:
        for handle in list(self._open):
            self.close(handle)
        self._held.close()

    def open(
        self, handle: int, artifact: Artifact, sha256: str, parcel: Sequence[Any]
    ) -> Mapping[str, float] | Refused | Missing:
        """The runner's facts. `parcel`: a reference to the build, fetched where it does not lie here yet."""
        site = self._make()
        here, artifact = site.folder / artifact.key, moved_to(artifact, NOWHERE, site.folder)
        try:
            if artifact.path and not here.is_dir():
                unpacked(ray.get(parcel[0]), sha256, artifact, here)
        except (ray.exceptions.ObjectLostError, OSError) as error:
            return Missing(str(error))
        return _answer(lambda: self._opened(handle, artifact))

    def _opened(self, handle: int, artifact: Artifact) -> Mapping[str, float]:
        stack = ExitStack()
        runner = stack.enter_context(self._make().target.open(artifact))
        self._open[handle] = (stack, runner)
        return dict(runner.facts)

    def close(self, handle: int) -> None:
        if handle in self._open:
            stack, _ = self._open.pop(handle)
            stack.close()

    def verify(self, handle: int) -> Check | Refused:
        return _answer(self._runner(handle).verify)

    def run(self, handle: int, n: int) -> Samples | Refused:
        return _answer(lambda: dict(self._runner(handle).run(n)))

    def measure(self, handle: int, best: Estimate | None) -> Samples | Refused:
        return _answer(lambda: dict(self._make().meter.measure(self._runner(handle), best)))

    def warm(self, handle: int) -> Refused | None:
        with self._others_still(handle):
            return _answer(lambda: self._make().meter.warm(self._runner(handle)))

    def visit(self, handle: int, seconds: float) -> Samples | Refused:
        with self._others_still(handle):
            return _answer(lambda: dict(self._make().meter.visit(self._runner(handle), seconds)))

    def _runner(self, handle: int) -> Runner:
        return self._open[handle][1]

    def _others_still(self, handle: int) -> ExitStack:
        stack = ExitStack()
        for other, (_, runner) in self._open.items():
            if other != handle:
                stack.enter_context(held_still(runner.pid))
        return stack


def _threads_as_started() -> None:
    """Ray tells every process of its own to use one thread; the programs that are measured here must not inherit it."""
    started = psutil.Process(os.getppid()).environ().get(THREADS)
    os.environ.pop(THREADS, None)
    if started is not None:
        os.environ[THREADS] = started
