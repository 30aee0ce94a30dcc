"""The search loop: ask, build ahead, verify, measure one at a time, write down, tell."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from optimizer.errors import ConfigError
from optimizer.objective import Objective
from optimizer.protocols import Clock, Device, Executor, Listener, Meter, Strategy, Target
from optimizer.recipe import Budget, Recipe
from optimizer.stats import Estimate, estimate
from optimizer.trial import (
    Artifact,
    Candidate,
    Failed,
    Measured,
    Outcome,
    Reason,
    Stage,
    Trial,
    TrialError,
    samples_of,
)

Build = Future[tuple[Artifact, float]]
_INHERITED = (Reason.WRONG, Reason.CRASH)  # what the same machine code would do again


@dataclass(frozen=True)
class Bench:
    """Everything that evaluating a point needs."""

    target: Target
    device: Device
    executor: Executor
    meter: Meter
    clock: Clock = time.perf_counter
    wall: Clock = time.time  # for the record alone


@dataclass
class _Seen:
    """What the trials so far have shown."""

    trials: list[Trial] = field(default_factory=list)
    by_identity: dict[str, Trial] = field(default_factory=dict)
    best: Trial | None = None
    best_number: int = 0

    def add(self, trial: Trial, recipe: Recipe) -> None:
        self.trials.append(trial)
        if trial.artifact and trial.outcome.same_as is None and _lasting(trial.outcome):
            self.by_identity.setdefault(trial.artifact.identity, trial)
        contenders = [t for t in (self.best, trial) if t is not None]
        self.best = recipe.goal.best(contenders, self.trials[0])

    @property
    def stalled(self) -> int:
        """Trials since the best one."""
        return len(self.trials) - 1 - (self.best.number if self.best else -1)

    def estimate(self, objective: Objective) -> Estimate | None:
        """The losses of the best trial so far."""
        if self.best is None or not (values := samples_of(self.best).get(objective.metric)):
            return None
        return estimate([objective.loss(v) for v in values])


def _lasting(outcome: Outcome) -> bool:
    return isinstance(outcome, Measured) or outcome.reason in _INHERITED


def search(
    recipe: Recipe,
    strategy: Strategy,
    bench: Bench,
    budget: Budget,
    recorded: Sequence[Trial] = (),
    listeners: Sequence[Listener] = (),
) -> Iterator[Trial]:
    """Yields each trial as it ends, the recorded ones first: a search resumes by being told its record again.

    Builds run up to `recipe.ahead` candidates in advance and results are told in the order of asking, so a seed and
    the outcomes fix the candidates, whatever order builds finish in. On a target that is measured on the processor
    that builds, a batch is built to its end before any of it is measured.

    Raises ConfigError where the record was made by another search, or where the baseline fails: nothing can be proved
    better than a baseline that does not work.
    """
    seen, asked = _Seen(), 0
    pending: deque[tuple[Candidate, Build | None, float]] = deque()
    offset_s = recorded[-1].elapsed_s if recorded else 0.0
    start_s = bench.clock()

    def elapsed_s() -> float:
        return offset_s + bench.clock() - start_s

    try:
        while True:
            if not (pending and bench.target.shares_cpu):
                room = recipe.ahead - len(pending)
                if budget.trials is not None:
                    room = min(room, budget.trials - asked)
                if asked >= len(recorded) and _spent(budget, elapsed_s(), seen):
                    room = 0
                before = bench.clock()
                candidates = strategy.ask(room) if room > 0 else ()
                asking_s = (bench.clock() - before) / max(1, len(candidates))
                for candidate in candidates:
                    known = candidate.number < len(recorded)
                    build = None if known else bench.executor.build(bench.target, candidate.point)
                    pending.append((candidate, build, asking_s))
                asked += len(candidates)
            if not pending:
                return
            if bench.target.shares_cpu:
                _wait(pending)
            candidate, build, asking_s = pending.popleft()
            if build is None:
                trial = _recalled(candidate, recorded)
            else:
                if candidate.number >= len(recorded) and seen.trials and _late(budget, elapsed_s()):
                    return  # what was asked ahead is asked again when the search is resumed
                trial = _evaluated(candidate, build, bench, seen, recipe, elapsed_s, asking_s)
                for listener in listeners:
                    listener.on_trial(trial)
            seen.add(trial, recipe)
            if trial.number == 0:
                _accept(trial, recipe)
            strategy.tell(trial)
            yield trial
            if build is not None and _drift_due(recipe, trial):
                _read_drift(seen.trials[0], trial.number, bench, listeners)
    finally:
        for _, build, _ in pending:
            if build is not None:
                build.cancel()


def _spent(budget: Budget, elapsed_s: float, seen: _Seen) -> bool:
    stalled = budget.patience is not None and len(seen.trials) > 0 and seen.stalled >= budget.patience
    return stalled or (len(seen.trials) > 0 and _late(budget, elapsed_s))


def _late(budget: Budget, elapsed_s: float) -> bool:
    return budget.seconds is not None and elapsed_s >= budget.seconds


def _wait(pending: Sequence[tuple[Candidate, Build | None, float]]) -> None:
    for _, build, _ in pending:
        if build is not None:
            build.exception()


def _recalled(candidate: Candidate, recorded: Sequence[Trial]) -> Trial:
    trial = recorded[candidate.number]
    if trial.candidate != candidate:
        raise ConfigError(
            f"The journal was made by another search: its trial {candidate.number} is {dict(trial.point)}, and this "
            f"search asks for {dict(candidate.point)}. Most likely a package that proposes points has changed its "
            "version; start a new study with study=NAME."
        )
    return trial


def _accept(baseline: Trial, recipe: Recipe) -> None:
    """Trial 0 must work and report what the goal is about."""
    if isinstance(baseline.outcome, Failed):
        failed = baseline.outcome
        raise ConfigError(
            f"The baseline itself failed ({failed.stage}: {failed.reason}), so nothing can be proved better than it. "
            f"Its point: {dict(baseline.point)}. Mend what it says below, or choose another baseline with "
            f"baseline.KNOB=VALUE.\n{failed.log}"
        )
    recipe.goal.check(baseline)


def _evaluated(
    candidate: Candidate,
    build: Build,
    bench: Bench,
    seen: _Seen,
    recipe: Recipe,
    elapsed_s: Clock,
    asking_s: float,
) -> Trial:
    """The one place in which a bad point's TrialError is caught."""
    seconds: dict[str, float] = {"ask": asking_s}
    stage, artifact = Stage.BUILD, None
    started_at_s = bench.wall()
    outcome: Outcome
    try:
        artifact, seconds[Stage.BUILD] = build.result()
        if (twin := seen.by_identity.get(artifact.identity)) is not None:
            outcome = _taken_over(twin)
        else:
            with bench.device.alone():
                stage = Stage.VERIFY
                with _timed(seconds, stage, bench.clock):
                    stack = ExitStack()
                    runner = stack.enter_context(bench.target.open(artifact))
                    with _closed_on_error(stack):
                        check = runner.verify()
                with stack:
                    stage = Stage.MEASURE
                    with _timed(seconds, stage, bench.clock):
                        outcome = Measured(check, bench.meter.measure(runner, seen.estimate(recipe.goal.first)))
    except TrialError as error:
        outcome = Failed(stage, error.reason, error.log)
    return Trial(candidate, outcome, seconds, artifact, started_at_s, elapsed_s())


def _taken_over(twin: Trial) -> Outcome:
    """What came of the same machine code, run in the same way."""
    outcome = twin.outcome
    if isinstance(outcome, Failed):
        return Failed(outcome.stage, outcome.reason, outcome.log, same_as=twin.number)
    return Measured(outcome.check, outcome.samples, same_as=twin.number)


@contextmanager
def _closed_on_error(stack: ExitStack) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stack.close()
        raise


@contextmanager
def _timed(seconds: dict[str, float], stage: str, clock: Clock) -> Iterator[None]:
    start = clock()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + clock() - start


def _drift_due(recipe: Recipe, trial: Trial) -> bool:
    every = recipe.plan.drift_every
    return every > 0 and trial.number > 0 and trial.number % every == 0


def _read_drift(baseline: Trial, after: int, bench: Bench, listeners: Sequence[Listener]) -> None:
    """The baseline once more: a machine that has become slower or faster shows."""
    assert baseline.artifact is not None
    try:
        with bench.device.alone(), bench.target.open(baseline.artifact) as runner:
            samples = bench.meter.measure(runner, None)
    except TrialError:
        return  # the reading is for information; the final comparison starts the baseline again
    for listener in listeners:
        listener.on_drift(after, samples)
