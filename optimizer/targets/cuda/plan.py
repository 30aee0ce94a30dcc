"""What does one run of a CUDA kernel consist of? Buffers and launches as plain values, the same for a GPU, for the
check on the processor (host.py) and for the occupancy that a build is worth.

A kernel's folder holds launch.py, whose class `Operation` says how a point of the space is launched. It knows no GPU:
runner.py runs its work with CUDA, host.py on the processor.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.space import Value
from optimizer.trial import Check

Array = NDArray[Any]
Dim = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of an `extern "C" __global__` function. An argument is a buffer's name (it arrives as a pointer to the
    buffer's start) or a NumPy scalar of exactly the parameter's type (np.int32, np.int64, np.float32)."""

    kernel: str
    grid: Dim
    block: Dim
    arguments: tuple[str | np.generic, ...]
    shared_bytes: int = 0  # dynamic shared memory


@dataclass(frozen=True)
class Work:
    """Launches over buffers, in order. Running it again gives the same: what it reads it does not overwrite first.

    phases: launches by the name under which their time is told, as {"run": …} or {"prefill": …, "decode": …}.
    """

    buffers: Mapping[str, Array]  # contents at the start, C order
    phases: Mapping[str, tuple[Launch, ...]]
    outputs: tuple[str, ...] = ()  # buffers that are read back

    @property
    def launches(self) -> tuple[Launch, ...]:
        return tuple(launch for phase in self.phases.values() for launch in phase)


@dataclass(frozen=True)
class Case:
    """A work whose outputs are compared with a reference. `judge` takes the outputs by name; its errors may be at most
    the `tolerances` of their names."""

    name: str
    work: Work
    judge: Callable[[Mapping[str, Array]], Check]
    tolerances: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Block:
    """What a launch of a kernel takes of a multiprocessor."""

    threads: int
    shared_bytes: int = 0  # dynamic


class Operation(Protocol):
    """The class `Operation` of a kernel's launch.py. Everything is known from the constructor's arguments.

    options: the scenario, as text; files: data by option; knobs: the active knobs of the point (a knob that its
    condition switches off is absent and may not matter). Raises TrialError(REJECTED) for options out of range.
    """

    def __init__(self, options: Mapping[str, str], files: Mapping[str, Path], knobs: Mapping[str, Value]) -> None: ...

    @property
    def macros(self) -> Mapping[str, int]:
        """What the source must be told beside the knobs' own macros: BLOCK_THREADS, SHARED_BYTES, … The source
        asserts (static_assert) that they fit what it needs."""
        ...

    @property
    def blocks(self) -> Mapping[str, Block]:
        """Every kernel of the source that this point launches, with the block it is launched with."""
        ...

    @property
    def tensor_cores(self) -> bool:
        """Whether this point's kernels multiply on tensor cores."""
        ...

    def small(self) -> Sequence[Case]:
        """Cases small enough for the processor (at most a few million thread steps), with remainders everywhere."""
        ...

    def full(self) -> Sequence[Case]:
        """Cases for a GPU: the scenario itself, with the quality of the answers where there is one."""
        ...

    def scenario(self) -> Work:
        """What is timed."""
        ...

    def readings(self, seconds: Mapping[str, float]) -> Mapping[str, float]:
        """Metrics of one run from the seconds of its phases: latency_s, throughput_ips, tokens_per_s, …"""
        ...

    @property
    def facts(self) -> Mapping[str, float]:
        """flop and bytes_moved of one run (from which the achieved rates are computed), model_bytes, …"""
        ...


def combined(judged: Iterable[tuple[Case, Check]]) -> tuple[Check, Mapping[str, float]]:
    """One check of several: of an error that several cases have, the one that comes nearest to its tolerance or goes
    furthest beyond."""
    errors: dict[str, float] = {}
    tolerances: dict[str, float] = {}
    quality: dict[str, float] = {}
    worst: dict[str, float] = {}
    for case, check in judged:
        quality |= check.quality
        for name, error in check.errors.items():
            allowed = case.tolerances.get(name, 0.0)
            if (share := _share(error, allowed)) >= worst.get(name, -1.0):
                worst[name], errors[name], tolerances[name] = share, error, allowed
    return Check(errors, quality), tolerances


def _share(error: float, allowed: float) -> float:
    if error <= 0:
        return 0.0
    return error / allowed if allowed > 0 and math.isfinite(error) else math.inf


def max_rel_error(actual: Array, expected: Array) -> float:
    """The largest |actual − expected| relative to the largest |expected|; NaN where any actual is not finite."""
    if not np.isfinite(actual).all():
        return float("nan")
    scale = float(np.abs(expected).max(initial=0.0))
    worst = float(np.abs(actual.astype(np.float64) - expected).max(initial=0.0))
    return worst / scale if scale > 0 else worst


@dataclass(frozen=True)
class Compared:
    """A judge that compares one output with what is expected of it, as `metric`."""

    output: str
    expected: Array
    metric: str = "max_rel_error"
    quality: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, outputs: Mapping[str, Array]) -> Check:
        return Check({self.metric: max_rel_error(outputs[self.output], self.expected)}, self.quality)
