"""The seams: what a search needs from the parts that plug into it."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from optimizer.recipe import Environment, Recipe
from optimizer.space import Json, Point
from optimizer.stats import Estimate, Verdict
from optimizer.trial import Artifact, Candidate, Check, Samples, Trial


class DeviceLost(Exception):  # noqa: N818, a thing that happens and no mistake
    """The machine of a device is gone. What went on there is done again: `Device.alone` then gives another machine's
    device of the same kind, or raises what ends the search where there is none."""


class Strategy(Protocol):
    """Proposes points. It starts no process and reads no clock; ask(n) gives what n times ask(1) would."""

    def ask(self, limit: int) -> Sequence[Candidate]:
        """At most `limit` new candidates; none with no trial pending means that the space is exhausted."""
        ...

    def tell(self, trial: Trial) -> None:
        """Trials are told in the order in which they were asked."""
        ...


class Runner(Protocol):
    """A live process (or model) holding one artifact."""

    @property
    def pid(self) -> int | None:
        """The process that does the work; None where there is none of its own."""
        ...

    @property
    def facts(self) -> Mapping[str, float]:
        """What is known once it is open: load_s, model_bytes, …"""
        ...

    def verify(self) -> Check:
        """Runs once and compares with the reference. Raises TrialError(WRONG) where an error exceeds its tolerance."""
        ...

    def run(self, n: int) -> Samples:
        """`n` more readings of every metric; metrics that are not sampled (peak memory) have one. Raises TrialError."""
        ...


class Target(Protocol):
    """Something that can be built and run at a point of a space. Raises TrialError for a bad point, nothing else."""

    @property
    def shares_cpu(self) -> bool:
        """Whether it is measured on the processor that builds: then no build runs while a measurement does."""
        ...

    def fingerprint(self) -> Mapping[str, Json]:
        """What the target itself adds to the recipe: hashes of its sources, its scenario."""
        ...

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        """Runs in the pool, maybe on another host; touches no device. `fresh`: even where a cache has it, because
        the build itself is what is measured."""
        ...

    def open(self, artifact: Artifact) -> AbstractContextManager[Runner]: ...


class Meter(Protocol):
    """How an open runner is measured."""

    def measure(self, runner: Runner, best: Estimate | None) -> Samples:
        """Samples of every metric. `best`: the losses of the best point so far, for giving up on a hopeless one."""
        ...

    def warm(self, runner: Runner) -> None:
        """Runs whose readings are thrown away."""
        ...

    def visit(self, runner: Runner, seconds: float) -> Samples:
        """Readings of a warm runner for about `seconds` (at least one): a turn in an interleaved comparison."""
        ...


class Watch(Protocol):
    """What a device tells of the time between the entry and the exit of `Device.watch`."""

    @property
    def samples(self) -> Samples: ...


class Device(Protocol):
    @property
    def lock(self) -> str:
        """The name of the device's lock."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """A lock across processes: two searches never measure on one device at once."""
        ...

    def watch(self, pid: int | None) -> AbstractContextManager[Watch]:
        """Telemetry of the device while a runner works; its samples are complete after the exit."""
        ...

    def describe(self) -> Environment: ...


class Executor(Protocol):
    """Where builds run: a local pool, a cluster."""

    def build(self, target: Target, point: Point, *, fresh: bool = False) -> Future[tuple[Artifact, float]]:
        """The artifact and the seconds that building it took; the future's exception may be a TrialError."""
        ...

    def close(self) -> None:
        """Drops what has not started and waits for what has."""
        ...


@dataclass(frozen=True)
class Ending:
    """How a search ended."""

    verdict: Verdict | None  # None: nothing could be confirmed
    gains: tuple[float, ...] = ()  # of the verdict's rounds: winner over baseline, above 1 is better
    load_pct: float = 0.0  # of the machine that others used during those rounds
    interrupted: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)  # wall time by stage, the whole search
    passed_over: Mapping[int, str] = field(default_factory=dict)  # finalists that lost their place when measured again


class Listener(Protocol):
    """Hears of what happens, in the order: on_start, then on_trial and on_drift, then on_end."""

    def on_start(self, recipe: Recipe, environment: Environment) -> None: ...
    def on_trial(self, trial: Trial) -> None: ...
    def on_drift(self, after: int, samples: Samples) -> None:
        """The baseline read again after trial number `after`."""
        ...

    def on_end(self, ending: Ending) -> None: ...


Clock = Callable[[], float]
"""Seconds that only grow. Passed in, so that tests and replay have a clock of their own."""
