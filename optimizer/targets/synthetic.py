"""A known function of the point standing in for a kernel: for tests, for comparing strategies, for measuring the loop.

latency_s = base_s · exp(Σ wᵢ dᵢ² + Σ wᵢⱼ dᵢ dⱼ), where dᵢ is how far an ordered knob stands from a best place drawn for
it, or what a value of another knob costs; weights and best places are drawn from the seed and the knob's name, so the
function depends on the point alone. A share `failing` of one ordered knob's places does not compile. Readings differ by
`noise` (the standard deviation of their logarithm), drawn from the point, how often it was opened, and the reading.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from random import Random

from optimizer.space import Choice, Knob, Point, Space, Value, canonical, place
from optimizer.trial import Artifact, Check, Reason, Samples, TrialError


@dataclass(frozen=True)
class SyntheticTarget:
    """`build_s` and `run_s` are slept, for tests that need time to pass."""

    space: Space
    seed: int = 0
    noise: float = 0.0
    failing: float = 0.0
    base_s: float = 1e-3
    build_s: float = 0.0
    run_s: float = 0.0
    alike: bool = False  # every point as fast as every other: for A/A tests
    shares_cpu: bool = True
    _opened: Counter[str] = field(default_factory=Counter, repr=False, compare=False)

    def fingerprint(self) -> Mapping[str, float]:
        return {"seed": self.seed, "noise": self.noise, "failing": self.failing, "base_s": self.base_s} | (
            {"alike": True} if self.alike else {}
        )

    def latency_s(self, point: Point) -> float:
        if self.alike:
            return self.base_s
        costs = {name: self._cost(self.space.by_name[name], value) for name, value in point.items()}
        total = sum(self._drawn(name, "weight") * 2 * cost**2 for name, cost in costs.items())
        names = list(costs)
        for a, b in pairwise(names):
            total += 0.5 * self._drawn(f"{a}×{b}", "weight") * costs[a] * costs[b]
        return self.base_s * math.exp(total)

    def peak_memory_bytes(self, point: Point) -> float:
        """A second metric that pulls the other way: it falls where the places of ordered knobs grow."""
        places = [place(self.space.by_name[n], v) for n, v in point.items()]
        return 1e6 * math.exp(-sum(places) / max(1, len(places)))

    def fails(self, point: Point) -> bool:
        knob = self._fragile
        return knob is not None and knob.name in point and place(knob, point[knob.name]) > 1 - self.failing

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        if self.build_s:
            time.sleep(self.build_s)
        if self.fails(point):
            raise TrialError(Reason.COMPILE, f"this point does not compile: {dict(point)}")
        return Artifact(point.key, point.key, arguments=(canonical(dict(point)),), facts={"compile_time_s": 0.01})

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator["SyntheticRunner"]:
        point = Point(json.loads(artifact.arguments[0]))
        latency_s, memory = self.latency_s(point), self.peak_memory_bytes(point)
        rng = Random(f"{self.seed} {point.key} {self._opened[point.key]}")
        if self.noise:
            self._opened[point.key] += 1
        yield SyntheticRunner(latency_s, memory, self.noise, rng, self.run_s)

    def _cost(self, knob: Knob, value: Value) -> float:
        if isinstance(knob.domain, Choice) and not knob.domain.ordered:
            return self._drawn(f"{knob.name}={value}", "cost")
        return place(knob, value) - self._drawn(knob.name, "best")

    def _drawn(self, name: str, what: str) -> float:
        key = f"{self.seed} {name} {what}"
        return Random(key).random()

    @cached_property
    def _fragile(self) -> Knob | None:
        ordered = [k for k in self.space.knobs if k.domain.ordered and k.domain.size != 1 and k.when is None]
        return Random(self.seed).choice(ordered) if ordered and self.failing else None


@dataclass
class SyntheticRunner:
    latency_s: float
    memory_bytes: float
    noise: float
    rng: Random
    run_s: float
    pid: int | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    def verify(self) -> Check:
        return Check({"max_rel_error": 0.0})

    def run(self, n: int) -> Samples:
        if self.run_s:
            time.sleep(self.run_s * n)
        readings = tuple(self.latency_s * math.exp(self.rng.gauss(0.0, self.noise)) for _ in range(n))
        return {
            "latency_s": readings,
            "throughput_ips": tuple(1 / r for r in readings),
            "peak_memory_bytes": (self.memory_bytes,),
        }
