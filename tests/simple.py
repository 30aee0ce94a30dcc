"""Small spaces, targets and machines that many tests use."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from optimizer.executors.local import InlineExecutor, LocalExecutor
from optimizer.expression import parse
from optimizer.feasible import Feasible
from optimizer.measure import LiveMeter
from optimizer.objective import Direction, Goal, Limit, Objective
from optimizer.protocols import Ending, Meter, Strategy, Target
from optimizer.recipe import Budget, Confirm, Environment, Part, Plan, Recipe
from optimizer.space import Choice, Constraint, Domain, Effect, Float, Int, Knob, Point, Space, Value
from optimizer.strategies.proposals import Proposals, Proposer
from optimizer.strategies.random import RandomProposer
from optimizer.study import Bench, search
from optimizer.targets.synthetic import SyntheticTarget
from optimizer.trial import Candidate, Check, Failed, Measured, Reason, Samples, Stage, Trial

SETTING = Effect("setting", "x")
LATENCY = Goal((Objective("latency_s"),))


def knob(name: str, domain: Domain, default: Value | None = None, when: str | None = None) -> Knob:
    first = domain.low if isinstance(domain, Float) else domain.at(0)
    return Knob(name, domain, SETTING, first if default is None else default, parse(when) if when else None)


def constraints(**expressions: str) -> tuple[Constraint, ...]:
    return tuple(Constraint(name, parse(text)) for name, text in expressions.items())


MIXED = Space(
    (
        knob("unroll", Int(1, 16)),
        knob("batch", Choice((1, 2, 4, 8, 16, 32), ordered=True)),
        knob("opt", Choice(("a", "b", "c")), "b"),
        knob("fast", Choice((False, True))),
        knob("bits", Choice((4, 8, 16, 32), ordered=True), 32),
        knob("group", Choice((32, 64, 128), ordered=True), 64, when="bits < 16"),
    ),
    constraints(budget="unroll * batch <= 128"),
)
SWITCHES = Space(tuple(knob(f"f{i}", Choice((False, True))) for i in range(40)))
TINY = Space((knob("a", Choice((1, 2, 3), ordered=True)), knob("b", Choice(("x", "y")))))
PINNED = Space((knob("only", Choice((7,))), knob("free", Int(1, 4))))
CONTINUOUS = Space((knob("x", Float(0.0, 1.0)), knob("y", Float(1e-3, 1.0, log=True)), knob("n", Int(1, 64, log=True))))

SPACES: Mapping[str, Space] = {
    "mixed": MIXED,
    "switches": SWITCHES,
    "tiny": TINY,
    "pinned": PINNED,
    "continuous": CONTINUOUS,
}
"""Every kind of space that a strategy must search."""


@dataclass
class FakeClock:
    """Time that passes only when somebody says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeDevice:
    """Nothing is locked; the load of others is what the test says; counts how many hold it at once."""

    lock: str = "fake"
    loads: list[float] = field(default_factory=list)
    environment: Environment = field(default_factory=lambda: Environment("fake processor"))
    holders: int = 0
    most_holders: int = 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.holders += 1
        self.most_holders = max(self.most_holders, self.holders)
        try:
            yield
        finally:
            self.holders -= 1

    @contextmanager
    def watch(self, pid: int | None) -> Iterator["FakeTelemetry"]:
        telemetry = FakeTelemetry()
        yield telemetry
        if self.loads:
            telemetry.samples = {"foreign_load_pct": (self.loads.pop(0),)}

    def describe(self) -> Environment:
        return self.environment


@dataclass
class FakeTelemetry:
    samples: Samples = field(default_factory=dict)


@dataclass
class Tape:
    """A listener that remembers; `events` has everything in order."""

    trials: list[Trial] = field(default_factory=list)
    drift: list[int] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    ending: Ending | None = None

    def on_start(self, recipe: Recipe, environment: Environment) -> None:
        self.events.append("start")

    def on_trial(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.events.append(f"trial {trial.number}")

    def on_drift(self, after: int, samples: Samples) -> None:
        self.drift.append(after)
        self.events.append(f"drift {after}")

    def on_end(self, ending: Ending) -> None:
        self.ending = ending
        self.events.append("end")


def recipe_of(
    space: Space = MIXED,
    *,
    goal: Goal = LATENCY,
    strategy: str = "random",
    seed: int = 0,
    ahead: int = 4,
    plan: Plan | None = None,
    start: Sequence[Point] = (),
) -> Recipe:
    return Recipe(
        target=Part("fake"),
        space=space,
        strategy=Part(strategy),
        goal=goal,
        plan=plan or Plan(warmups=1, max_seconds=0.01, drift_every=0, min_samples=6, max_samples=12),
        confirm=Confirm(max_seconds=10.0),
        seed=seed,
        ahead=ahead,
        start=tuple(start) or (space.baseline(),),
    )


def bench_of(
    target: Target, recipe: Recipe, device: FakeDevice | None = None, *, workers: int = 0, meter: Meter | None = None
) -> Bench:
    device = device or FakeDevice()
    executor = LocalExecutor(workers) if workers else InlineExecutor()
    return Bench(target, device, executor, meter or LiveMeter(device, recipe.plan, recipe.goal))


def strategy_of(recipe: Recipe, proposer: Proposer | None = None) -> Strategy:
    feasible = Feasible(recipe.space)
    return Proposals(
        proposer or RandomProposer(feasible, Random(recipe.seed)),
        feasible,
        recipe.goal,
        Random(recipe.seed),
        recipe.start,
    )


def searched(
    recipe: Recipe,
    target: Target,
    trials: int,
    *,
    strategy: Strategy | None = None,
    workers: int = 0,
    recorded: Sequence[Trial] = (),
    device: FakeDevice | None = None,
    meter: Meter | None = None,
) -> tuple[list[Trial], Tape]:
    """A whole search, without confirmation."""
    tape = Tape()
    bench = bench_of(target, recipe, device, workers=workers, meter=meter)
    found = list(
        search(recipe, strategy or strategy_of(recipe), bench, Budget(trials=trials), recorded, listeners=[tape])
    )
    bench.executor.close()
    return found, tape


def synthetic(space: Space = MIXED, **options: float) -> SyntheticTarget:
    return SyntheticTarget(space, **options)  # type: ignore[arg-type]


def measured(number: int, point: Point | None = None, **metrics: float | tuple[float, ...]) -> Trial:
    samples = {name: value if isinstance(value, tuple) else (value,) for name, value in metrics.items()}
    return Trial(Candidate(number, point or Point({"n": number})), Measured(Check(), samples))


def failed(number: int, reason: Reason = Reason.COMPILE, point: Point | None = None, log: str = "no") -> Trial:
    return Trial(Candidate(number, point or Point({"n": number})), Failed(Stage.BUILD, reason, log))


def limit(metric: str, bound: str, value: float, direction: str = "minimize") -> Limit:
    from optimizer.objective import Bound

    return Limit(metric, Bound(bound), value, Direction(direction))


def until(what: Callable[[], bool]) -> None:
    """Waits for it, 20 s at most."""
    end_s = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.005)
