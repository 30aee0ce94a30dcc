"""Proving the winner: interleaving, fresh processes, A/A, limits, finalists that fail."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from simple import LATENCY, TINY, FakeDevice, bench_of, limit, measured, recipe_of, searched, synthetic

from optimizer.confirm import confirm
from optimizer.objective import Direction, Goal, Objective
from optimizer.space import Point
from optimizer.stats import Judgement
from optimizer.trial import Artifact, Check, Reason, Samples, Trial, TrialError

A, B, C = Point({"a": 1, "b": "x"}), Point({"a": 2, "b": "x"}), Point({"a": 3, "b": "x"})
D, E = Point({"a": 1, "b": "y"}), Point({"a": 2, "b": "y"})


@dataclass
class Duel:
    """Latencies by point; `drift` makes every run slower than the one before; `events` tells who ran when."""

    latency_s: Mapping[str, float]
    noise: float = 0.0
    drift: float = 0.0
    facts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    crashes: tuple[str, ...] = ()
    moody: str = ""  # the point whose every second process is a hundred times as slow
    starts: int = 0  # of it
    events: list[str] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    runs: int = 0
    rng: Random = field(default_factory=lambda: Random(0))
    shares_cpu: bool = True

    def fingerprint(self) -> Mapping[str, str]:
        return {}

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        if fresh:
            self.events.append(f"built {point['a']}")
        return Artifact(point.key, point.key, arguments=(str(point["a"]),), facts=self.facts.get(point.key, {}))

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator["DuelRunner"]:
        if artifact.key in self.crashes:
            raise TrialError(Reason.CRASH, "now it crashes")
        self.events.append(f"opened {artifact.arguments[0]}")
        self.opened.add(artifact.key)
        self.starts += artifact.key == self.moody
        slow = artifact.key == self.moody and self.starts % 2 == 0
        yield DuelRunner(self, artifact.key, artifact.arguments[0], factor=100.0 if slow else 1.0)


@dataclass
class DuelRunner:
    duel: Duel
    key: str
    name: str
    pid: int | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    factor: float = 1.0

    def verify(self) -> Check:
        return Check()

    def run(self, n: int) -> Samples:
        self.duel.events.append(self.name)
        readings = []
        for _ in range(n):
            self.duel.runs += 1
            luck = math.exp(self.duel.rng.gauss(0, self.duel.noise))
            readings.append(self.factor * self.duel.latency_s[self.key] * luck * (1 + self.duel.drift * self.duel.runs))
        return {"latency_s": tuple(readings), "tokens_per_s": tuple(1 / r for r in readings)}


def trials_of(duel: Duel, *points: Point) -> list[Trial]:
    found = []
    for number, point in enumerate(points):
        latency_s = duel.latency_s[point.key]
        trial = measured(number, point, latency_s=latency_s, tokens_per_s=1 / latency_s)
        found.append(Trial(trial.candidate, trial.outcome, artifact=duel.build(point)))
    return found


def recorded(duel: Duel, latencies_s: Mapping[Point, float]) -> list[Trial]:
    """Trials as a search recorded them, whatever the truth is."""
    outcomes = [measured(number, point, latency_s=s) for number, (point, s) in enumerate(latencies_s.items())]
    return [Trial(t.candidate, t.outcome, artifact=duel.build(t.candidate.point)) for t in outcomes]


def test_a_better_configuration_is_better_by_its_ratio() -> None:
    duel = Duel({A.key: 2.0, B.key: 1.0}, noise=0.02)
    recipe = recipe_of(TINY)
    ending = confirm(recipe, trials_of(duel, A, B), bench_of(duel, recipe))
    assert ending.verdict is not None
    assert ending.verdict.judgement is Judgement.BETTER
    assert ending.verdict.number == 1
    assert 1.95 < ending.verdict.low <= ending.verdict.ratio <= ending.verdict.high < 2.05
    assert len(ending.gains) == recipe.confirm.rounds


def test_the_ratio_is_the_gain_when_more_is_better_too() -> None:
    duel = Duel({A.key: 2.0, B.key: 1.0})
    recipe = recipe_of(TINY, goal=Goal((Objective("tokens_per_s", Direction.MAXIMIZE),)))
    ending = confirm(recipe, trials_of(duel, A, B), bench_of(duel, recipe))
    assert ending.verdict is not None
    assert ending.verdict.ratio == pytest.approx(2.0)


def test_rounds_are_interleaved_in_processes_started_anew() -> None:
    duel = Duel({A.key: 2.0, B.key: 1.0})
    recipe = recipe_of(TINY)
    confirm(recipe, trials_of(duel, A, B), bench_of(duel, recipe))
    assert duel.events.count("opened 1") == duel.events.count("opened 2") == recipe.confirm.rounds
    first_round = duel.events[: duel.events.index("opened 2", 2)]
    order = [e for i, e in enumerate(first_round) if e in "12" and (i == 0 or first_round[i - 1] != e)]
    assert order[:2] == ["2", "1"], "both are warmed up"
    assert order[2:] == ["2", "1", "2"], "winner, baseline, baseline, winner"


def test_steady_drift_does_not_decide() -> None:
    duel = Duel({A.key: 1.0, B.key: 1.0}, drift=1e-4)
    recipe = recipe_of(TINY)
    ending = confirm(recipe, trials_of(duel, A, B), bench_of(duel, recipe))
    assert ending.verdict is not None
    assert ending.verdict.judgement is Judgement.SAME
    assert ending.verdict.ratio == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_an_a_a_search_says_same(seed: int) -> None:
    duel = Duel({p.key: 1.0 for p in (A, B, C)}, noise=0.1, rng=Random(seed))
    recipe = recipe_of(TINY)
    trials = recorded(duel, {A: 1.0, B: 0.7, C: 0.8})
    ending = confirm(recipe, trials, bench_of(duel, recipe))
    assert ending.verdict is not None
    assert ending.verdict.judgement is Judgement.SAME


def test_nothing_better_is_the_baseline_against_itself() -> None:
    duel = Duel({A.key: 1.0, B.key: 2.0}, noise=0.01)
    recipe = recipe_of(TINY)
    ending = confirm(recipe, trials_of(duel, A, B), bench_of(duel, recipe))
    assert ending.verdict is not None
    assert (ending.verdict.number, ending.verdict.judgement) == (0, Judgement.SAME)
    assert 0.95 < ending.verdict.ratio < 1.05


def test_the_rematch_and_not_the_lucky_reading_chooses_the_leader() -> None:
    duel = Duel({A.key: 2.0, B.key: 1.5, C.key: 1.0}, noise=0.01)
    recipe = recipe_of(TINY)
    trials = trials_of(duel, A, B, C)
    swapped = [
        trials[0],
        Trial(trials[1].candidate, measured(1, B, latency_s=0.9).outcome, artifact=trials[1].artifact),
        trials[2],
    ]
    ending = confirm(recipe, swapped, bench_of(duel, recipe))
    assert ending.verdict is not None
    assert ending.verdict.number == 2


def test_what_promises_more_than_the_finalists_have_shown_becomes_one() -> None:
    duel = Duel({A.key: 2.0, B.key: 1.9, C.key: 2.1, D.key: 1.2, E.key: 1.0}, noise=0.01)
    recipe = recipe_of(TINY)
    recipe = replace(recipe, confirm=replace(recipe.confirm, finalists=2))
    trials = recorded(duel, {A: 2.0, B: 0.8, C: 0.9, D: 1.1, E: 1.3})
    ending = confirm(recipe, trials, bench_of(duel, recipe))
    assert ending.verdict is not None
    assert (ending.verdict.number, ending.verdict.judgement) == (3, Judgement.BETTER)
    assert {B.key, C.key} < duel.opened, "the lucky ones were tried"
    assert E.key not in duel.opened, "it promised less than had been shown by then"


def test_what_is_slow_in_every_second_process_does_not_win() -> None:
    duel = Duel({A.key: 2.0, B.key: 1.0, C.key: 1.6}, noise=0.01, moody=B.key)
    recipe = recipe_of(TINY)
    ending = confirm(recipe, trials_of(duel, A, B, C), bench_of(duel, recipe))
    assert ending.verdict is not None
    assert (ending.verdict.number, ending.verdict.judgement) == (2, Judgement.BETTER)


def test_a_finalist_that_fails_now_gives_way_to_the_next() -> None:
    duel = Duel({A.key: 2.0, B.key: 1.5, C.key: 1.0}, crashes=(C.key,))
    recipe = recipe_of(TINY)
    ending = confirm(recipe, trials_of(duel, A, B, C), bench_of(duel, recipe))
    assert ending.verdict is not None
    assert (ending.verdict.number, ending.verdict.judgement) == (1, Judgement.BETTER)


def test_rounds_on_a_busy_machine_are_taken_again_and_the_load_is_told() -> None:
    duel = Duel({A.key: 2.0, B.key: 1.0})
    recipe = recipe_of(TINY)
    device = FakeDevice(loads=[50.0] * 8 + [0.0] * 1000)
    ending = confirm(recipe, trials_of(duel, A, B), bench_of(duel, recipe, device))
    assert duel.events.count("opened 2") == recipe.confirm.rounds + 2, "two rounds were disturbed"
    assert ending.load_pct == 0.0
    device = FakeDevice(loads=[50.0] * 1000)
    ending = confirm(recipe, trials_of(duel, A, B), bench_of(duel, recipe, device))
    assert ending.load_pct == 50.0
    assert len(ending.gains) > recipe.confirm.rounds, "all that there is"


def test_without_a_baseline_that_runs_there_is_no_verdict() -> None:
    duel = Duel({A.key: 2.0, B.key: 1.0}, crashes=(A.key,))
    recipe = recipe_of(TINY)
    assert confirm(recipe, trials_of(duel, A, B), bench_of(duel, recipe)).verdict is None


def test_a_winner_that_breaks_a_limit_in_the_rounds_gives_way() -> None:
    duel = Duel({A.key: 2.0, B.key: 1.5, C.key: 1.0})
    goal = Goal((Objective("tokens_per_s", Direction.MAXIMIZE),), (limit("latency_s", "min", 1.2, "maximize"),))
    recipe = recipe_of(TINY, goal=goal)
    trials = trials_of(duel, A, B, C)
    flattered = Trial(
        trials[2].candidate, measured(2, C, latency_s=1.3, tokens_per_s=1.0).outcome, artifact=trials[2].artifact
    )
    ending = confirm(recipe, [*trials[:2], flattered], bench_of(duel, recipe))
    assert ending.verdict is not None
    assert ending.verdict.number == 1


def test_twins_of_the_baseline_are_no_finalists() -> None:
    duel = Duel({A.key: 1.0, B.key: 1.0})
    recipe = recipe_of(TINY)
    trials = trials_of(duel, A)
    twin = Trial(
        measured(1, B, latency_s=0.5).candidate, measured(1, B, latency_s=0.5).outcome, artifact=trials[0].artifact
    )
    ending = confirm(recipe, [*trials, twin], bench_of(duel, recipe))
    assert ending.verdict is not None
    assert ending.verdict.number == 0
    assert "opened 2" not in duel.events


def test_what_the_build_tells_is_compared_by_building_anew() -> None:
    facts = {A.key: {"compile_time_s": 4.0}, B.key: {"compile_time_s": 2.0}}
    duel = Duel({A.key: 1.0, B.key: 1.0}, facts=facts)
    recipe = recipe_of(TINY, goal=Goal((Objective("compile_time_s"),)))
    ending = confirm(recipe, trials_of(duel, A, B), bench_of(duel, recipe))
    assert ending.verdict is not None
    assert ending.verdict.ratio == 2.0
    assert duel.events.count("built 2") == 2 * recipe.confirm.rounds
    assert "opened 2" not in duel.events


def test_the_device_is_held_alone_throughout() -> None:
    duel, device = Duel({A.key: 2.0, B.key: 1.0}), FakeDevice()
    recipe = recipe_of(TINY)
    confirm(recipe, trials_of(duel, A, B), bench_of(duel, recipe, device))
    assert device.most_holders == 1


def test_a_whole_search_on_the_synthetic_target_ends_better() -> None:
    recipe = recipe_of(seed=1)
    target = synthetic(noise=0.02, failing=0.2)
    trials, _ = searched(recipe, target, 60)
    ending = confirm(recipe, trials, bench_of(target, recipe))
    assert ending.verdict is not None
    best = LATENCY.best(trials, trials[0])
    assert best is not None
    assert ending.verdict.judgement is Judgement.BETTER
    winner = trials[ending.verdict.number].point
    assert ending.verdict.ratio == pytest.approx(target.latency_s(trials[0].point) / target.latency_s(winner), rel=0.05)
