"""Every strategy on every space: what the study relies on. A new strategy is one line in STRATEGIES."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from simple import CONTINUOUS, LATENCY, MIXED, SPACES, TINY, limit, recipe_of

from optimizer.config.objects import strategy_of
from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.objective import Goal, Objective
from optimizer.protocols import Strategy
from optimizer.recipe import Part, Recipe
from optimizer.space import Point, Space
from optimizer.targets.synthetic import SyntheticTarget
from optimizer.trial import Candidate, Check, Failed, Measured, Outcome, Reason, Stage, Trial

STRATEGIES: Mapping[str, Mapping[str, object]] = {
    "auto": {},
    "random": {},
    "grid": {},
    "tpe": {},
    "gp": {"n_startup_trials": 6},
    "cmaes": {"n_startup_trials": 1},
    "nsga2": {"population_size": 16},
    "genetic": {},
    "genetic_nsga2": {"selection": "nsga2"},
}
MODELS = [name for name in STRATEGIES if name not in ("random", "grid")]
SLOW = {"gp": 14}  # trials that a costly strategy gets

Evaluate = Callable[[Point], Outcome]


def made(name: str, space: Space, *, seed: int = 0, goal: Goal = LATENCY, start: Sequence[Point] = ()) -> Strategy:
    recipe = replace(recipe_of(space, seed=seed, goal=goal, start=start), strategy=Part(name, STRATEGIES[name]))
    return strategy_of(recipe, Feasible(space))


def latency(space: Space, *, failing: float = 0.0) -> Evaluate:
    target = SyntheticTarget(space, failing=failing)

    def evaluate(point: Point) -> Outcome:
        if target.fails(point):
            return Failed(Stage.BUILD, Reason.COMPILE)
        return Measured(
            Check(), {"latency_s": (target.latency_s(point),), "peak_memory_bytes": (target.peak_memory_bytes(point),)}
        )

    return evaluate


def run(strategy: Strategy, evaluate: Evaluate, count: int, ahead: int = 4) -> list[Trial]:
    """Asks ahead and tells in the order of asking, as the study does."""
    pending: deque[Candidate] = deque()
    trials: list[Trial] = []
    while len(trials) < count:
        pending.extend(strategy.ask(min(ahead, count - len(trials)) - len(pending)))
        if not pending:
            break
        candidate = pending.popleft()
        trial = Trial(candidate, evaluate(candidate.point))
        strategy.tell(trial)
        trials.append(trial)
    return trials


def trials_for(name: str, usual: int = 60) -> int:
    return SLOW.get(name, usual)


def unfit(name: str, space: Space) -> bool:
    return name == "grid" and (space is CONTINUOUS or not Feasible(space).enumerable)


CASES = [(n, s) for n in STRATEGIES for s in SPACES if not unfit(n, SPACES[s])]


@pytest.mark.parametrize(("name", "space_name"), CASES)
def test_asks_valid_points_each_once_numbered_in_order(name: str, space_name: str) -> None:
    space = SPACES[space_name]
    trials = run(made(name, space), latency(space, failing=0.3), trials_for(name))
    assert [t.number for t in trials] == list(range(len(trials)))
    assert all(t.point in space for t in trials)
    assert len({t.point for t in trials}) == len(trials)
    count = Feasible(space).count
    assert len(trials) == (trials_for(name) if count is None else min(count, trials_for(name)))


@pytest.mark.parametrize("name", STRATEGIES)
def test_begins_with_the_points_it_is_given(name: str) -> None:
    good = MIXED.active(dict(MIXED.baseline()) | {"bits": 4, "group": 32, "opt": "c"})
    trials = run(made(name, MIXED, start=[MIXED.baseline(), good, good]), latency(MIXED), 6)
    assert [t.point for t in trials[:2]] == [MIXED.baseline(), good]
    assert len({t.point for t in trials}) == 6


@pytest.mark.parametrize("name", STRATEGIES)
def test_law_1_a_seed_fixes_the_search(name: str) -> None:
    def points(seed: int) -> list[Point]:
        return [t.point for t in run(made(name, MIXED, seed=seed), latency(MIXED, failing=0.3), trials_for(name, 40))]

    assert points(0) == points(0)
    if name != "grid":
        assert points(0) != points(1)


@pytest.mark.parametrize("name", STRATEGIES)
def test_asking_for_several_is_asking_several_times(name: str) -> None:
    several, single = made(name, MIXED), made(name, MIXED)
    evaluate = latency(MIXED, failing=0.2)
    for _ in range(5):
        batch = list(several.ask(4))
        ones: list[Candidate] = []
        for _ in range(4):
            ones += single.ask(1)
        assert batch == ones
        for candidate in batch:
            trial = Trial(candidate, evaluate(candidate.point))
            several.tell(trial)
            single.tell(trial)


@pytest.mark.parametrize("name", STRATEGIES)
def test_finds_every_configuration_of_a_tiny_space_and_then_no_more(name: str) -> None:
    strategy = made(name, TINY)
    trials = run(strategy, latency(TINY), 50)
    assert {t.point for t in trials} == set(Feasible(TINY).points())
    assert strategy.ask(3) == []


@pytest.mark.parametrize("name", STRATEGIES)
def test_goes_on_when_everything_fails(name: str) -> None:
    trials = run(made(name, MIXED), lambda point: Failed(Stage.BUILD, Reason.COMPILE), trials_for(name, 40))
    assert len({t.point for t in trials}) == trials_for(name, 40)


@pytest.mark.parametrize("name", STRATEGIES)
def test_takes_several_objectives_and_limits(name: str) -> None:
    goal = Goal((Objective("latency_s"), Objective("peak_memory_bytes")), (limit("latency_s", "max", 0.003),))
    trials = run(made(name, MIXED, goal=goal), latency(MIXED, failing=0.2), trials_for(name, 40))
    assert len({t.point for t in trials}) == trials_for(name, 40)
    assert goal.front(trials, trials[0])


@pytest.mark.parametrize("name", STRATEGIES)
def test_flat_objectives_end_nothing(name: str) -> None:
    flat = Measured(Check(), {"latency_s": (1.0,)})
    assert len(run(made(name, MIXED), lambda point: flat, trials_for(name, 40))) == trials_for(name, 40)


def best_of(name: str, seed: int, count: int) -> float:
    target = SyntheticTarget(MIXED)
    trials = run(made(name, MIXED, seed=seed), latency(MIXED, failing=0.25), count)
    return min(target.latency_s(t.point) for t in trials if isinstance(t.outcome, Measured))


@pytest.mark.parametrize("name", [n for n in MODELS if n != "gp"])
def test_learns(name: str) -> None:
    """Better than random on most of several seeds, at the same number of evaluations."""
    count = 160 if name == "nsga2" else 80  # a population of 16 needs some generations
    won = sum(best_of(name, seed, count) <= best_of("random", seed, count) for seed in range(8))
    assert won >= 6


def test_a_gaussian_process_learns() -> None:
    assert sum(best_of("gp", seed, 30) <= best_of("random", seed, 30) for seed in range(3)) >= 2


@pytest.mark.parametrize("name", MODELS)
def test_learns_from_failures(name: str) -> None:
    """On a space half of which fails, fewer failures than random makes: a failure is not forgotten."""
    half = Space(tuple(k for k in MIXED.knobs if k.name != "group"))
    seeds = range(3 if name == "gp" else 6)
    count = 24 if name == "gp" else 100

    def fails(point: Point) -> bool:
        return int(point["unroll"]) > 8

    target = SyntheticTarget(half)

    def evaluate(point: Point) -> Outcome:
        if fails(point):
            return Failed(Stage.BUILD, Reason.COMPILE)
        return Measured(Check(), {"latency_s": (target.latency_s(point),)})

    def failures(which: str) -> int:
        runs = [run(made(which, half, seed=s), evaluate, count) for s in seeds]
        return sum(isinstance(t.outcome, Failed) for trials in runs for t in trials)

    assert failures(name) < 0.85 * failures("random")


def test_grid_refuses_what_it_can_t_list() -> None:
    with pytest.raises(ConfigError, match=r"can't list the values of x, y.*space\.x='choice"):
        made("grid", CONTINUOUS)
    with pytest.raises(ConfigError, match="pin or narrow some knobs"):
        made("grid", SPACES["switches"])


def test_an_unknown_strategy_is_named_with_the_nearest() -> None:
    recipe: Recipe = replace(recipe_of(), strategy=Part("gentic"))
    with pytest.raises(ConfigError, match="Did you mean 'genetic'"):
        strategy_of(recipe, Feasible(MIXED))


@pytest.mark.parametrize(
    "options", [{"population": 5}, {"selection": "roulette"}, {"mutation": 0.0}, {"surprise": 1}, {"tournament": 0}]
)
def test_options_that_make_no_sense_are_refused(options: Mapping[str, object]) -> None:
    recipe = replace(recipe_of(), strategy=Part("genetic", options))
    with pytest.raises(ConfigError):
        strategy_of(recipe, Feasible(MIXED))
