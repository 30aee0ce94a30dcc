"""Where do builds run in a Ray cluster, and which of its machines measure?

Machines that have the device get a measurer each (an actor; one a GPU), and any machine builds. The search itself, its
journal and its decisions stay in this process; what finishes first changes nothing.
"""

import contextlib
import logging
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from optimizer.errors import ConfigError
from optimizer.executors import machine
from optimizer.executors.parcels import hash_of, moved_to, packed, unpacked
from optimizer.executors.remote import LOST, Host, Hosts, RemoteDevice, RemoteTarget, Slot, answer, said
from optimizer.executors.site import Maker, Told, described
from optimizer.protocols import Target
from optimizer.space import Point
from optimizer.trial import Artifact, Reason, TrialError

START_S = 120.0  # for a machine to start a process, import this package and look at what it has
CONNECT_S = 5.0
POLL_S = 5.0
CLEAR_S = 10.0
KEPT = 64  # references to builds that are held in the object store; older ones are sent from the study's folder


@dataclass(frozen=True)
class Settings:
    """address: auto (the cluster of this machine) or HOST:PORT; measure_on, build_on: a Ray resource that machines must
    have for it; device: part of the device's name, where machines differ; retries: of what a lost machine did; wait_s:
    for a machine, where none is left."""

    address: str
    measure_on: str | None
    build_on: str | None
    device: str | None
    retries: int
    wait_s: float


class Cluster:
    """A Ray cluster as one search uses it. Raises ConfigError where there is none, or none of its machines can measure.

    measures: makes the site of a machine that measures; builds: gives what makes that of one that builds, for what the
    first has told; folder: of the study's builds, each of which is kept there too; gpus: a measurer for each GPU.
    """

    def __init__(
        self, settings: Settings, measures: Maker, builds: Callable[[Told], Maker], folder: Path, *, gpus: bool
    ) -> None:
        _connect(settings.address)
        self._settings, self._measures, self._gpus, self._folder = settings, measures, gpus, folder
        self._news: SimpleQueue[str] = SimpleQueue()
        self._running: set[Any] = set()
        self._kept: OrderedDict[str, tuple[str, Any]] = OrderedDict()
        self._lock = Lock()
        found = self._found()
        self.kinds = Counter(described(host.told.kind) for host in found)
        self.first = self._pinned(found)
        self.hosts = self._alike(found)
        self._make = builds(self.first)
        pool = Hosts(self.hosts, self._again, settings.wait_s, self._news.put)
        slots = [Slot(pool, settings.retries) for _ in self.hosts]
        self.seats = [(RemoteTarget(s, self.first, self), RemoteDevice(s, self.first)) for s in slots]
        resources = {settings.build_on: 1e-3} if settings.build_on else {}
        self._build = ray.remote(machine.build).options(num_cpus=1, num_returns=2, max_retries=0, resources=resources)
        self._prepare = ray.remote(machine.prepare).options(num_cpus=1, max_retries=2, resources=resources)

    def executor(self, ahead: int) -> "RayExecutor":
        """`ahead`: as many builds go on at once as the recipe asks ahead, if the cluster has room."""
        return RayExecutor(self, ahead)

    def prepare(self) -> None:
        """What every build needs, once somewhere: so that what is broken is told before the first trial."""
        ray.get(self._prepare.remote(self._make))

    def news(self) -> Sequence[str]:
        """What happened to machines since it was last asked for."""
        told = []
        with contextlib.suppress(Empty):
            while True:
                told.append(self._news.get_nowait())
        return told

    def built(self, point: Point, *, fresh: bool) -> tuple[Artifact, float]:
        """A point's artifact, built somewhere and brought here, and the seconds that building took there."""
        losses: list[str] = []
        while len(losses) <= self._settings.retries:
            try:
                delivered, content = self._ran(self._build.remote(self._make, dict(point), fresh, self.first))
            except LOST as error:
                losses.append(said(error))
                self._news.put(f"A machine was lost while it built ({losses[-1]}); the point is built elsewhere.")
                continue
            return self._arrived(answer(delivered), content, len(losses))
        raise TrialError(Reason.CRASH, "machines were lost while they built this point:\n" + "\n".join(losses))

    def sent(self, artifact: Artifact, *, anew: bool) -> tuple[Artifact, str, Any]:
        with self._lock:
            kept = None if anew else self._kept.get(artifact.key)
        if kept is None:
            content = packed(self._folder / artifact.key) if artifact.path else b""
            kept = hash_of(content), ray.put(content)
            self._keep(artifact.key, kept)
        return (moved_to(artifact, self._folder, machine.NOWHERE), *kept)

    def close(self) -> None:
        """Ends what still builds, removes what was built on the machines, and leaves the cluster."""
        for reference in list(self._running):
            with contextlib.suppress(*LOST):
                ray.cancel(reference, force=True)
        clear = ray.remote(machine.clear)
        waiting = [
            clear.options(num_cpus=0, max_retries=0, scheduling_strategy=_there(n)).remote(self._make)
            for n in _nodes(self._settings.build_on)
        ]
        waiting += [host.actor.clear.remote() for host in self.hosts]
        ray.wait(waiting, num_returns=len(waiting), timeout=CLEAR_S) if waiting else None
        for host in self.hosts:
            ray.kill(host.actor)
        ray.shutdown()

    def _ran(self, references: Any) -> tuple[Any, bytes]:
        """What a build gives; waits as long as there are machines that could do it."""
        told, parcel = references
        self._running.add(told)
        try:
            seen_s = time.monotonic()
            while not ray.wait([told], timeout=POLL_S)[0]:
                if _nodes(self._settings.build_on):
                    seen_s = time.monotonic()
                elif time.monotonic() - seen_s > self._settings.wait_s:
                    raise ConfigError("No machine of the cluster is left to build on; go on with --resume study=NAME.")
            return ray.get(told), ray.get(parcel)
        finally:
            self._running.discard(told)

    def _arrived(self, delivered: machine.Delivered, content: bytes, losses: int) -> tuple[Artifact, float]:
        artifact = moved_to(delivered.artifact, machine.NOWHERE, self._folder)
        if artifact.path:
            unpacked(content, delivered.sha256, artifact, self._folder / artifact.key)
        if losses:
            artifact = replace(artifact, facts={**artifact.facts, "builds_lost": float(losses)})
        return artifact, delivered.build_s

    def _again(self) -> list[Host]:
        """Machines that came, or whose measurer is gone; they are cleared at the end like the first."""
        found = self._alike(self._found())
        self.hosts += found
        return found

    def _keep(self, key: str, kept: tuple[str, Any]) -> None:
        with self._lock:
            self._kept[key] = kept
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def _found(self) -> list[Host]:
        """A measurer on every machine that has the device, in the order of the machines' names."""
        actor: Any = ray.remote(machine.Measurer)
        started: list[tuple[str, Any]] = []
        for node in _nodes(self._settings.measure_on):
            many = int(node["Resources"].get("GPU", 0)) if self._gpus else 1
            options = {"num_cpus": 0, "num_gpus": 1 if self._gpus else 0, "scheduling_strategy": _there(node)}
            started += [
                (node["NodeManagerHostname"], actor.options(**options).remote(self._measures)) for _ in range(many)
            ]
        found, problems = [], []
        waiting = [(name, one, one.told.remote()) for name, one in started]
        for name, one, reference in waiting:
            try:
                found.append(Host(one, ray.get(reference, timeout=START_S)))
            except (ConfigError, ModuleNotFoundError, ray.exceptions.RaySystemError, *LOST) as error:
                problems.append(f"{name}: {_cause(error)}")
                ray.kill(one)
            except ray.exceptions.GetTimeoutError:
                problems.append(f"{name}: did not answer in {START_S:.0f} s, or its GPU is in use by another Ray job")
                ray.kill(one)
        for text in dict.fromkeys(problems):
            self._news.put(f"left out: {text}")
        if not found and not hasattr(self, "first"):
            raise ConfigError(_nobody(problems, self._settings.measure_on, gpus=self._gpus))
        return found

    def _pinned(self, found: Sequence[Host]) -> Told:
        """The kind of device that most machines have, or the one that is asked for."""
        wanted = self._settings.device
        exactly = [h for h in found if wanted == described(h.told.kind)]
        fitting = exactly or [h for h in found if wanted is None or wanted.lower() in described(h.told.kind).lower()]
        if not fitting:
            listed = "; ".join(f"{n} × {kind}" for kind, n in self.kinds.items())
            raise ConfigError(f"executor.device={wanted} is on no machine of the cluster. There are: {listed}.")
        counts = Counter(h.told.kind for h in fitting)
        kind = min(counts, key=lambda k: (-counts[k], k))
        return next(h.told for h in fitting if h.told.kind == kind)

    def _alike(self, found: Sequence[Host]) -> list[Host]:
        """Those whose readings may be compared with the first's."""
        alike = []
        for host in found:
            if (host.told.kind, host.told.space, host.told.fingerprint) == (
                self.first.kind, self.first.space, self.first.fingerprint,
            ):  # fmt: skip
                alike.append(host)
            else:
                self._news.put(
                    f"left out: {host.told.machine} has {described(host.told.kind)}, and this study is one of "
                    f"{described(self.first.kind)}; executor.device=NAME searches another kind, in a study of its own."
                )
                ray.kill(host.actor)
        return alike


class RayExecutor:
    """A pool of threads, each waiting for a build somewhere in the cluster."""

    def __init__(self, cluster: Cluster, ahead: int) -> None:
        self._cluster = cluster
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="ray-build")

    def build(self, target: Target, point: Point, *, fresh: bool = False) -> Future[tuple[Artifact, float]]:
        return self._pool.submit(self._cluster.built, point, fresh=fresh)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._cluster.close()


def _connect(address: str) -> None:
    """Raises ConfigError where no cluster answers."""
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdigit()):
        raise ConfigError(f"executor.address={address} is neither auto nor HOST:PORT, the head's address.")
    try:
        if address != "auto":
            with socket.create_connection((host, int(port)), timeout=CONNECT_S):
                pass
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (OSError, ConnectionError) as error:
        raise ConfigError(
            f"No Ray cluster answers at {address} ({str(error).splitlines()[0]}). Start one with `ray start --head` "
            "(docs/cluster.md), or search with executor=local, which needs none."
        ) from None


def _nodes(resource: str | None) -> list[dict[str, Any]]:
    nodes: Any = ray.nodes
    alive = [n for n in nodes() if n["Alive"] and (resource is None or n["Resources"].get(resource))]
    return sorted(alive, key=lambda n: (n["NodeManagerHostname"], n["NodeID"]))


def _there(node: dict[str, Any]) -> Any:
    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def _cause(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ModuleNotFoundError | ray.exceptions.RaySystemError):
        return f"this package can't be imported there ({said(cause)}): install the same version on every machine"
    return str(cause)


def _nobody(problems: Sequence[str], resource: str | None, *, gpus: bool) -> str:
    if problems:
        return "No machine of the cluster can measure.\n" + "\n".join(dict.fromkeys(problems))
    wanted = "a GPU that Ray knows of" if gpus else f"the resource {resource}" if resource else "started"
    return f"No machine of the cluster has {wanted}: `ray status` lists what there is."
