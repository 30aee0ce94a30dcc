"""The search loop and its laws."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from simple import (
    LATENCY,
    MIXED,
    TINY,
    FakeDevice,
    Tape,
    bench_of,
    limit,
    recipe_of,
    searched,
    strategy_of,
    synthetic,
)

from optimizer.errors import ConfigError
from optimizer.executors.local import InlineExecutor
from optimizer.objective import Goal
from optimizer.protocols import Runner
from optimizer.recipe import Budget, Plan
from optimizer.space import Point
from optimizer.study import search
from optimizer.targets.replay import PlayedMeter, Replay
from optimizer.targets.synthetic import SyntheticRunner, SyntheticTarget
from optimizer.trial import (
    Artifact,
    Check,
    Failed,
    Measured,
    Numbers,
    Packed,
    Reason,
    Samples,
    Stage,
    Trial,
    TrialError,
)


def test_number_0_is_the_baseline_then_the_known_good_points() -> None:
    good = MIXED.active(dict(MIXED.baseline()) | {"bits": 8, "group": 32})
    trials, _ = searched(recipe_of(start=[MIXED.baseline(), good]), synthetic(), 6)
    assert [t.number for t in trials] == list(range(6))
    assert trials[0].point == MIXED.baseline()
    assert trials[1].point == good


def test_a_small_space_is_searched_to_its_end_and_no_further() -> None:
    trials, _ = searched(recipe_of(TINY), synthetic(TINY), 100)
    assert len(trials) == len({t.point for t in trials}) == 6


def test_every_trial_is_told_to_the_listeners_in_order() -> None:
    trials, tape = searched(recipe_of(), synthetic(), 9)
    assert tape.events == [f"trial {i}" for i in range(9)]
    assert tape.trials == trials


def test_stages_are_timed() -> None:
    trials, _ = searched(recipe_of(), synthetic(run_s=0.002), 3)
    assert {"ask", "build", "verify", "measure"} == trials[0].seconds.keys()
    assert trials[0].seconds["measure"] > trials[0].seconds["verify"]
    assert trials[2].elapsed_s > trials[0].elapsed_s > 0


@pytest.mark.parametrize("shares_cpu", [True, False])
def test_law_1_the_pool_size_changes_nothing(shares_cpu: bool) -> None:
    recipe = recipe_of(seed=3)
    alone, _ = searched(recipe, synthetic(failing=0.3, noise=0.02, shares_cpu=shares_cpu), 40, workers=1)
    slow = synthetic(failing=0.3, noise=0.02, shares_cpu=shares_cpu, build_s=0.001)
    many, _ = searched(recipe, slow, 40, workers=8)
    assert [t.candidate for t in alone] == [t.candidate for t in many]
    assert [t.outcome for t in alone] == [t.outcome for t in many]
    assert any(isinstance(t.outcome, Failed) for t in alone)


@dataclass
class Instrumented:
    """Wraps a target and writes down when builds and runs overlap."""

    inner: object
    shares_cpu: bool = True
    building: int = 0
    most_building: int = 0
    running: int = 0
    together: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fingerprint(self) -> Mapping[str, str]:
        return {}

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        with self._lock:
            self.building += 1
            self.most_building = max(self.most_building, self.building)
            self.together += self.running
        time.sleep(0.004)
        with self._lock:
            self.building -= 1
        return self.inner.build(point)  # type: ignore[attr-defined, no-any-return]

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator[Runner]:
        with self._lock:
            self.running += 1
            self.together += self.building
        time.sleep(0.002)
        with self.inner.open(artifact) as runner:  # type: ignore[attr-defined]
            yield runner
        with self._lock:
            self.together += self.building
            self.running -= 1


def test_law_2_on_a_cpu_target_no_build_runs_while_a_measurement_does() -> None:
    target = Instrumented(synthetic())
    _, tape = searched(recipe_of(), target, 20, workers=4)
    assert len(tape.trials) == 20
    assert target.most_building > 1, "builds of a batch run in parallel"
    assert target.together == 0


def test_law_2_elsewhere_builds_run_ahead_and_measurements_one_at_a_time() -> None:
    target, device = Instrumented(synthetic(), shares_cpu=False), FakeDevice()
    searched(recipe_of(), target, 20, workers=4, device=device)
    assert target.together > 0
    assert device.most_holders == 1


def test_law_4_a_recorded_study_served_back_gives_identical_outcomes() -> None:
    recipe = recipe_of(seed=5)
    first, _ = searched(recipe, synthetic(failing=0.3, noise=0.05), 50)
    again, _ = searched(recipe, Replay(first), 50, meter=PlayedMeter())
    assert [(t.candidate, t.outcome) for t in first] == [(t.candidate, t.outcome) for t in again]
    assert {type(t.outcome) for t in first} == {Measured, Failed}


@pytest.mark.parametrize("kept", [0, 1, 3, 17, 39])
def test_law_5_a_search_resumes_by_being_told_its_record(kept: int) -> None:
    # the number of samples ends a measurement, not the clock of a busy machine
    unhurried = Plan(warmups=1, max_seconds=30.0, drift_every=0, min_samples=6, max_samples=12)
    recipe = recipe_of(seed=7, plan=unhurried)
    target = synthetic(failing=0.3, noise=0.05)
    whole, _ = searched(recipe, target, 40)
    rest, tape = searched(recipe, synthetic(failing=0.3, noise=0.05), 40, recorded=whole[:kept])
    assert [(t.candidate, t.outcome) for t in rest] == [(t.candidate, t.outcome) for t in whole]
    assert [t.number for t in tape.trials] == list(range(kept, 40)), "what is recorded is not recorded again"


def test_a_search_goes_on_with_a_larger_budget_as_if_it_had_been_large_from_the_start() -> None:
    recipe = recipe_of(seed=8)
    whole, _ = searched(recipe, synthetic(), 30)
    part, _ = searched(recipe, synthetic(), 13)
    rest, _ = searched(recipe, synthetic(), 30, recorded=part)
    assert [t.candidate for t in rest] == [t.candidate for t in whole]


def test_a_record_of_another_search_is_refused() -> None:
    trials, _ = searched(recipe_of(seed=1), synthetic(), 10)
    with pytest.raises(ConfigError, match="made by another search"):
        searched(recipe_of(seed=2), synthetic(), 20, recorded=trials)


@dataclass
class Scripted:
    """Fails as the test says: by point key → (stage, reason)."""

    script: Mapping[str, tuple[Stage, Reason]]
    code: Mapping[str, str] = field(default_factory=dict)  # point key → code key
    opened: list[str] = field(default_factory=list)
    shares_cpu: bool = True

    def fingerprint(self) -> Mapping[str, str]:
        return {}

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        self._maybe(point.key, Stage.BUILD)
        facts = {"compile_time_s": 0.1 + len(self.opened)}
        return Artifact(point.key, self.code.get(point.key, point.key), log="built", facts=facts)

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator["ScriptedRunner"]:
        self.opened.append(artifact.key)
        yield ScriptedRunner(self, artifact.key)

    def _maybe(self, key: str, stage: Stage) -> None:
        if key in self.script and self.script[key][0] is stage:
            raise TrialError(self.script[key][1], f"scripted {stage}")


@dataclass
class ScriptedRunner:
    target: Scripted
    key: str
    pid: int | None = None
    facts: Mapping[str, float] = field(default_factory=lambda: {"load_s": 0.5})

    def verify(self) -> Check:
        self.target._maybe(self.key, Stage.VERIFY)
        return Check({"max_rel_error": 1e-6}, {"perplexity": 3.0})

    def run(self, n: int) -> Samples:
        self.target._maybe(self.key, Stage.MEASURE)
        return {"latency_s": (1.0 + int(self.key, 16) % 100 / 100,) * n, "peak_memory_bytes": (5.0,)}


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("reason", list(Reason))
def test_a_bad_point_fails_its_trial_and_the_search_goes_on(stage: Stage, reason: Reason) -> None:
    recipe = recipe_of(TINY)
    bad = Point({"a": 2, "b": "y"})
    trials, _ = searched(recipe, Scripted({bad.key: (stage, reason)}), 6)
    outcome = next(t.outcome for t in trials if t.point == bad)
    assert isinstance(outcome, Failed)
    assert (outcome.stage, outcome.reason, outcome.log) == (stage, reason, f"scripted {stage}")
    assert sum(isinstance(t.outcome, Measured) for t in trials) == 5
    best = LATENCY.best(trials, trials[0])
    assert best is not None
    assert best.point != bad


def test_a_bug_of_a_target_stops_the_search() -> None:
    class Buggy(Scripted):
        def build(self, point: Point, *, fresh: bool = False) -> Artifact:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        searched(recipe_of(TINY), Buggy({}), 6)


def test_a_baseline_that_fails_ends_the_search_with_its_log_and_is_recorded() -> None:
    tape, recipe = Tape(), recipe_of(TINY)
    target = Scripted({TINY.baseline().key: (Stage.BUILD, Reason.COMPILE)})
    with pytest.raises(ConfigError, match=r"(?s)baseline itself failed \(build: compile\).*scripted build"):
        list(search(recipe, strategy_of(recipe), bench_of(target, recipe), Budget(trials=5), listeners=[tape]))
    assert len(tape.trials) == 1


def test_a_goal_that_the_baseline_does_not_report_ends_the_search() -> None:
    recipe = recipe_of(TINY, goal=Goal(LATENCY.objectives, (limit("power_w", "max", 5.0),)))
    with pytest.raises(ConfigError, match=r"needs power_w.*It reports: .*latency_s"):
        searched(recipe, Scripted({}), 5)


def test_the_same_machine_code_is_measured_once() -> None:
    x, y = Point({"a": 2, "b": "x"}), Point({"a": 2, "b": "y"})
    target = Scripted({}, code={x.key: "same", y.key: "same"})
    trials, _ = searched(recipe_of(TINY), target, 6)
    first, second = sorted((t for t in trials if t.point in (x, y)), key=lambda t: t.number)
    assert isinstance(first.outcome, Measured)
    assert isinstance(second.outcome, Measured)
    assert first.outcome.same_as is None
    assert second.outcome.same_as == first.number
    assert second.outcome.samples == first.outcome.samples
    assert len(target.opened) == 5
    assert second.artifact is not None
    assert first.artifact is not None
    assert second.artifact.facts != first.artifact.facts, "the compile time is its own"


@pytest.mark.parametrize(
    ("reason", "inherited"),
    [(Reason.WRONG, True), (Reason.CRASH, True), (Reason.TIMEOUT, False), (Reason.MEMORY, False)],
)
def test_a_failure_that_may_be_bad_luck_is_not_taken_over(reason: Reason, inherited: bool) -> None:
    x, y = Point({"a": 2, "b": "x"}), Point({"a": 2, "b": "y"})
    script = {p.key: (Stage.VERIFY, reason) for p in (x, y)}
    target = Scripted(script, code={x.key: "same", y.key: "same"})
    trials, _ = searched(recipe_of(TINY), target, 6)
    assert all(isinstance(t.outcome, Failed) for t in trials if t.point in (x, y))
    assert any(t.outcome.same_as is not None for t in trials) is inherited
    assert len(target.opened) == (5 if inherited else 6)


def test_samples_of_a_trial_have_everything_that_was_told() -> None:
    from optimizer.trial import metrics_of

    trials, _ = searched(recipe_of(TINY), Scripted({}), 1)
    assert metrics_of(trials[0]).keys() >= {
        "compile_time_s", "load_s", "max_rel_error", "perplexity", "latency_s", "peak_memory_bytes",
    }  # fmt: skip


def test_the_baseline_is_read_again_now_and_then() -> None:
    plan = Plan(warmups=1, max_seconds=0.01, drift_every=5, min_samples=6)
    _, tape = searched(recipe_of(plan=plan), synthetic(), 17)
    assert tape.drift == [5, 10, 15]
    assert tape.events.index("drift 5") == tape.events.index("trial 5") + 1


def test_patience_ends_a_search_that_finds_nothing_better() -> None:
    recipe = recipe_of(seed=2)
    bench = bench_of(synthetic(), recipe)
    trials = list(search(recipe, strategy_of(recipe), bench, Budget(patience=10)))
    best = LATENCY.best(trials, trials[0])
    assert best is not None
    assert 10 <= len(trials) - 1 - best.number <= 10 + recipe.ahead


def test_a_budget_in_seconds_counts_those_of_earlier_runs() -> None:
    recipe = recipe_of()
    now = [0.0]

    def clock() -> float:
        now[0] += 0.1
        return now[0]

    def run(seconds: float, recorded: list[Trial]) -> list[Trial]:
        bench = replace(bench_of(synthetic(), recipe), clock=clock)
        return list(search(recipe, strategy_of(recipe), bench, Budget(seconds=seconds), recorded))

    part = run(10.0, [])
    assert part
    assert 9 <= part[-1].elapsed_s <= 12
    assert run(10.0, part)[len(part) :] == []
    assert len(run(20.0, part)) > len(part)


@pytest.mark.parametrize("shares_cpu", [True, False])
def test_a_build_that_takes_longer_than_there_is_time_for_is_left(shares_cpu: bool) -> None:
    class Stuck(InlineExecutor):
        count = 0

        def build(self, *args: Any, **kwargs: Any) -> Future[tuple[Artifact, float]]:
            self.count += 1
            return Future() if self.count == 7 else super().build(*args, **kwargs)

    recipe = recipe_of()  # which asks four ahead
    bench = replace(bench_of(synthetic(shares_cpu=shares_cpu), recipe), executor=Stuck())
    trials = list(search(recipe, strategy_of(recipe), bench, Budget(seconds=0.2)))
    assert len(trials) == (4 if shares_cpu else 6)
    again = replace(bench, executor=InlineExecutor())
    going_on = list(search(recipe, strategy_of(recipe), again, Budget(trials=8), trials))
    assert going_on[: len(trials)] == trials
    assert len(going_on) == 8
    assert list(search(recipe, strategy_of(recipe), again, Budget(seconds=0.001), going_on[:6])) == going_on[:6]


def test_an_interrupt_leaves_what_was_yielded() -> None:
    class Interrupting(InlineExecutor):
        count = 0

        def build(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            self.count += 1
            if self.count > 6:
                raise KeyboardInterrupt
            return super().build(*args, **kwargs)  # type: ignore[arg-type]

    recipe = recipe_of()
    bench = replace(bench_of(synthetic(), recipe), executor=Interrupting())  # type: ignore[arg-type]
    seen: list[Trial] = []
    with pytest.raises(KeyboardInterrupt):
        for trial in search(recipe, strategy_of(recipe), bench, Budget(trials=50)):
            seen.append(trial)  # noqa: PERF402
    assert [t.number for t in seen] == [0, 1, 2, 3]


def test_readings_are_kept_small_and_read_as_they_were() -> None:
    samples = {"latency_s": (0.25, 1e-300, -3.0), "none": (), "peak_memory_bytes": (2.0**60,)}
    packed = Packed(samples)
    assert packed == samples and dict(packed) == samples
    assert list(packed) == list(samples)
    assert packed["none"] == ()
    with pytest.raises(KeyError):
        packed["other"]
    trials, _ = searched(recipe_of(), synthetic(), 3)
    assert all(isinstance(t.outcome.samples, Packed) for t in trials if isinstance(t.outcome, Measured))
    assert all(isinstance(t.seconds, Numbers) for t in trials)


@dataclass
class Killed:
    """A synthetic target whose programs somebody kills `kills` times, at a stage of its own."""

    inner: SyntheticTarget
    stage: Stage
    kills: int
    point: Point | None = None
    shares_cpu: bool = True

    def fingerprint(self) -> Mapping[str, float]:
        return self.inner.fingerprint()

    def _hit(self, stage: Stage, point: Point) -> None:
        if stage is self.stage and point == self.point and self.kills:
            self.kills -= 1
            raise TrialError(Reason.MEMORY, "killed by the system", again=True)

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        self._hit(Stage.BUILD, point)
        return self.inner.build(point)

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator[SyntheticRunner]:
        self._hit(Stage.VERIFY, Point(json.loads(artifact.arguments[0])))
        with self.inner.open(artifact) as runner:
            yield runner


@pytest.mark.parametrize("stage", [Stage.BUILD, Stage.VERIFY])
def test_what_somebody_else_killed_is_tried_once_more(stage: Stage) -> None:
    recipe = recipe_of(MIXED)
    undisturbed, _ = searched(recipe, synthetic(), 6)
    once, _ = searched(recipe, Killed(synthetic(), stage, 1, undisturbed[3].point), 6)
    assert [(t.point, t.outcome) for t in once] == [(t.point, t.outcome) for t in undisturbed]
    twice, _ = searched(recipe, Killed(synthetic(), stage, 2, undisturbed[3].point), 6)
    failed = twice[3].outcome
    assert isinstance(failed, Failed)
    assert (failed.stage, failed.reason) == (stage, Reason.MEMORY)
