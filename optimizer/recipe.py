"""What is a search? Everything that decides which candidates come and how they are judged, named by its hash."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

from optimizer.objective import STATISTICS, Bound, Direction, Goal, Limit, Objective
from optimizer.space import Json, Point, Space, digest, space_from

VERSION = 1
"""Of the recipe's document: raised when a field changes its meaning, so that old journals are told apart."""


NO_DEVICE = "none ("
"""How the description of a device that is not here begins."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How hard to measure. Sampling stops when the median is known well enough, when a point is hopeless, or at a
    bound."""

    warmups: int = 2  # runs thrown away first
    min_samples: int = 7
    max_samples: int = 100
    rel_error: float = 0.02  # half the width of the median's 95% interval, relative to the median
    max_seconds: float = 3.0  # of sampling, a trial
    timeout_s: float = 60.0  # of a build, a start, a verification or one block of runs
    memory_bytes: int = 8 << 30  # address space that a program under test may take
    max_foreign_load_pct: float = 5.0  # above it a block of readings is taken again, while time lasts
    give_up_early: bool = True  # stop sampling a point that is worse than the best with high confidence
    drift_every: int = 20  # trials between two new readings of the baseline; 0: never
    cpus: str = ""  # processors that programs under test may use: 2-3,6; "": those that the search may use
    nice: int = 0  # added to the priority of programs under test; below 0 takes a right


@dataclass(frozen=True, slots=True)
class Confirm:
    """How the winner is proved: finalists and baseline again, interleaved, in processes started anew each round."""

    finalists: int = 3
    rounds: int = 10  # of the winner against the baseline; the interval of 10 rounds covers 97.9%
    max_seconds: float = 30.0
    min_gain: float = 0.01  # a gain below it is called the same


@dataclass(frozen=True, slots=True)
class Part:
    """A named choice from the configuration with its options: a target, a strategy."""

    name: str
    options: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    target: Part
    space: Space
    strategy: Part
    goal: Goal
    plan: Plan
    confirm: Confirm
    seed: int
    ahead: int  # candidates asked ahead of the results; never the pool's size, so that a seed fixes the search
    start: tuple[Point, ...]  # the baseline, then known good points; tried first, in this order
    device: str = "cpu"

    def document(self) -> Json:
        return {
            "version": VERSION,
            "target": asdict(self.target),
            "space": self.space.document(),
            "strategy": asdict(self.strategy),
            "objectives": [asdict(o) for o in self.goal.objectives],
            "limits": [asdict(x) for x in self.goal.limits],
            "plan": asdict(self.plan),
            "confirm": asdict(self.confirm),
            "seed": self.seed,
            "ahead": self.ahead,
            "start": [dict(p) for p in self.start],
            "device": self.device,
        }

    @cached_property
    def key(self) -> str:
        """The search's name: the hash of its document. Budget, study name, tracking and pool size are not in it."""
        return digest(self.document())


@dataclass(frozen=True, slots=True)
class Budget:
    """When the search ends; not part of the recipe, so a search can be resumed with more."""

    trials: int | None = None  # candidates, number 0 and failed ones included
    seconds: float | None = None  # of the search's own clock; confirmation comes on top
    patience: int | None = None  # trials without a new best


@dataclass(frozen=True)
class Environment:
    """Where it ran. Device, driver and compilers must agree before two trials are compared; the rest is recorded."""

    device: str  # the CPU's or GPU's model name
    driver: str = ""
    compilers: Mapping[str, str] = field(default_factory=dict)  # {"g++": "g++ (Debian …) 12.2.0"}
    host: Mapping[str, Json] = field(default_factory=dict)  # name, system, cores, memory, governor, packages
    commit: str = ""

    @property
    def runs(self) -> bool:
        """False where code is only built, for a device that is not here."""
        return not self.device.startswith(NO_DEVICE)

    def document(self) -> Json:
        return asdict(self)


def _statistic(name: str) -> str:
    if name not in STATISTICS:
        raise ValueError(f"the statistic {name} is not known")
    return name


def recipe_from(document: Json) -> Recipe:
    """The inverse of Recipe.document. Raises KeyError, TypeError, ValueError or ConfigError on anything else."""
    if document["version"] != VERSION:
        raise ValueError(f"a recipe of version {document['version']}; this program writes and reads {VERSION}")
    objectives = tuple(
        Objective(o["metric"], Direction(o["direction"]), _statistic(o["statistic"])) for o in document["objectives"]
    )
    limits = tuple(
        Limit(x["metric"], Bound(x["bound"]), x["value"], Direction(x["direction"]), _statistic(x["statistic"]))
        for x in document["limits"]
    )
    return Recipe(
        target=Part(**document["target"]),
        space=space_from(document["space"]),
        strategy=Part(**document["strategy"]),
        goal=Goal(objectives, limits),
        plan=Plan(**document["plan"]),
        confirm=Confirm(**document["confirm"]),
        seed=document["seed"],
        ahead=document["ahead"],
        start=tuple(Point(p) for p in document["start"]),
        device=document["device"],
    )


def environment_from(document: Json) -> Environment:
    """The inverse of Environment.document. Raises TypeError on anything else."""
    if not all(isinstance(document.get(name, {}), dict) for name in ("compilers", "host")):
        raise TypeError("the compilers and the host of an environment are objects")
    return Environment(**document)


def differences(old: Json, new: Json, path: str = "") -> list[str]:
    """Where two documents differ, one line each: 'space.knobs.3.domain.choice: [1, 2] → [1, 2, 4]'."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{path}.{k}" if path else str(k))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}.{_label(a, i)}")]
    return [] if old == new else [f"{path}: {old!r} → {new!r}"]


def _label(item: Json, index: int) -> str:
    return str(item["name"]) if isinstance(item, dict) and "name" in item else str(index)
