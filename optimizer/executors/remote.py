"""How does a search measure on machines of a Ray cluster? By stand-ins for target, device and meter, whose work is done
by whichever machine is free."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import ray

from optimizer.device import Telemetry
from optimizer.errors import ConfigError
from optimizer.executors.machine import Missing, Refused
from optimizer.executors.site import Told
from optimizer.protocols import DeviceLost, Runner
from optimizer.recipe import Environment
from optimizer.space import Json, Point
from optimizer.stats import Estimate
from optimizer.trial import Artifact, Check, Reason, Samples, TrialError

LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
)
"""What Ray raises where a machine, or the process that worked on it, is gone."""
LOOK_S = 1.0  # between two looks at a cluster in which no machine is left
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Host:
    """A device of the cluster with the actor that measures on it."""

    actor: Any
    told: Told


class Hosts:
    """The devices of one kind: each serves one trial at a time, and any that is free replaces a lost one."""

    def __init__(
        self, found: Sequence[Host], again: Callable[[], Sequence[Host]], wait_s: float, tell: Callable[[str], None]
    ) -> None:
        self._free: SimpleQueue[Host] = SimpleQueue()
        self._again, self._wait_s, self._tell = again, wait_s, tell
        self._lock, self._alive = threading.Lock(), len(found)
        for host in found:
            self._free.put(host)

    def take(self) -> Host:
        """Waits for one that is free. Raises ConfigError where none is left and none comes."""
        while True:
            try:
                return self._free.get(timeout=LOOK_S)
            except Empty:
                self._look_again()

    def give(self, host: Host) -> None:
        self._free.put(host)

    def drop(self, host: Host, why: str) -> None:
        with self._lock:
            self._alive -= 1
            left = self._alive
        self._tell(
            f"The machine {host.told.machine} is lost ({why}); what it measured is measured again. Left: {left}."
        )

    def _look_again(self) -> None:
        """Where all are lost: what has joined the cluster meanwhile."""
        with self._lock:
            end_s = time.monotonic() + self._wait_s
            while not self._alive:
                found = self._again()
                self._alive = len(found)
                for host in found:
                    self._free.put(host)
                if not found and time.monotonic() > end_s:
                    raise ConfigError(
                        "No machine of the cluster is left to measure on. All trials so far are in the journal: go on "
                        "with --resume study=NAME when there is one (executor.wait_s says how long to wait for it)."
                    )
                if not found:
                    time.sleep(LOOK_S)


class Slot:
    """One of as many places as there were devices at the start; a place is one thread's at a time."""

    def __init__(self, hosts: Hosts, retries: int) -> None:
        self._hosts, self._retries, self._losses = hosts, retries, 0
        self._host: Host | None = None

    def host(self) -> Host:
        """The machine that serves this place now."""
        while self._host is None:
            host = self._hosts.take()
            try:
                ray.get(host.actor.hold.remote())
            except LOST as error:
                self._hosts.drop(host, said(error))
                continue
            self._host = host
        return self._host

    def leave(self) -> None:
        if self._host is not None:
            self._host.actor.release.remote()
            self._hosts.give(self._host)
            self._host, self._losses = None, 0

    def call(self, host: Host, method: str, *words: Any) -> Any:
        """What the machine answers. Raises TrialError as it does, DeviceLost where it is gone, and TrialError(CRASH)
        where that happened to one point too often: then it is most likely the point that ends machines."""
        if host is not self._host:
            raise DeviceLost(host.told.machine)
        try:
            return answer(ray.get(getattr(host.actor, method).remote(*words)))
        except LOST as error:
            self._hosts.drop(host, said(error))
            self._host = None
            self._losses += 1
            if self._losses <= self._retries:
                raise DeviceLost(host.told.machine) from None
            losses, self._losses = self._losses, 0
            raise TrialError(
                Reason.CRASH, f"{losses} machines were lost while they measured this point: {said(error)}"
            ) from None


class Parcels(Protocol):
    """Where builds are."""

    def built(self, point: Point, *, fresh: bool) -> tuple[Artifact, float]: ...
    def sent(self, artifact: Artifact, *, anew: bool) -> tuple[Artifact, str, Any]:
        """The artifact as it travels, the hash of its parcel and a reference to it. `anew`: the last did not arrive."""
        ...


@dataclass(frozen=True)
class RemoteDevice:
    slot: Slot
    told: Told

    @property
    def lock(self) -> str:
        return self.told.lock

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.slot.host()
        try:
            yield
        finally:
            self.slot.leave()

    @contextmanager
    def watch(self, pid: int | None) -> Iterator[Telemetry]:
        """The machine's own meter watches its device."""
        yield Telemetry()

    def describe(self) -> Environment:
        return self.told.environment


@dataclass(frozen=True)
class RemoteTarget:
    slot: Slot
    told: Told
    parcels: Parcels
    _handles: "count[int]" = field(default_factory=count)

    @property
    def shares_cpu(self) -> bool:
        return self.told.shares_cpu

    def fingerprint(self) -> Mapping[str, Json]:
        return self.told.fingerprint

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        return self.parcels.built(point, fresh=fresh)[0]

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator["RemoteRunner"]:
        host, handle = self.slot.host(), next(self._handles)
        facts = self._opened(host, handle, artifact)
        try:
            yield RemoteRunner(self.slot, host, handle, facts)
        finally:
            host.actor.close.remote(handle)

    def _opened(self, host: Host, handle: int, artifact: Artifact) -> Mapping[str, float]:
        for anew in (False, True):
            facts = self.slot.call(host, "open", handle, *_listed(self.parcels.sent(artifact, anew=anew)))
            if not isinstance(facts, Missing):
                return dict(facts)
        raise TrialError(Reason.CRASH, f"the build can't be brought to {host.told.machine}: {facts.why}")


def _listed(sent: tuple[Artifact, str, Any]) -> tuple[Artifact, str, list[Any]]:
    """A reference in a list is fetched by the machine when it needs it; a bare one always, by Ray."""
    artifact, sha256, reference = sent
    return artifact, sha256, [reference]


@dataclass(frozen=True)
class RemoteRunner:
    slot: Slot
    host: Host
    handle: int
    facts: Mapping[str, float]
    pid: int | None = None  # none of this machine's

    def verify(self) -> Check:
        check: Check = self.ask("verify")
        return check

    def run(self, n: int) -> Samples:
        samples: Samples = self.ask("run", n)
        return samples

    def ask(self, method: str, *words: Any) -> Any:
        return self.slot.call(self.host, method, self.handle, *words)


class RemoteMeter:
    """Measuring is one call: the readings, and the watch over the device, are the machine's own."""

    def measure(self, runner: Runner, best: Estimate | None) -> Samples:
        return self._samples(runner, "measure", best)

    def warm(self, runner: Runner) -> None:
        self._samples(runner, "warm")

    def visit(self, runner: Runner, seconds: float) -> Samples:
        return self._samples(runner, "visit", seconds)

    def _samples(self, runner: Runner, method: str, *words: Any) -> Samples:
        if not isinstance(runner, RemoteRunner):
            raise TypeError(f"{type(runner).__name__} does not run on a machine of the cluster")
        samples: Samples = runner.ask(method, *words)
        return samples


def answer(told: T | Refused) -> T:
    if isinstance(told, Refused):
        raise TrialError(told.reason, told.log, again=told.again)
    return told


def said(error: BaseException) -> str:
    """The first line of what Ray says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
