"""The search loop: ask, build ahead, verify, measure one at a time on each device, write down, tell."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from threading import Event

from optimizer.errors import ConfigError
from optimizer.objective import Objective
from optimizer.protocols import Clock, Device, DeviceLost, Executor, Listener, Meter, Strategy, Target
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
    lean,
    samples_of,
)

Build = Future[tuple[Artifact, float]]
_INHERITED = (Reason.WRONG, Reason.CRASH)  # what the same machine code would do again


@dataclass(frozen=True)
class Seat:
    """A device on which one point at a time is measured, with the target as it runs there."""

    target: Target
    device: Device
    meter: Meter


@dataclass(frozen=True)
class Bench:
    """Everything that evaluating a point needs. `more`: further devices like the first, for trials beside each other;
    what is compared in the end is compared on the first."""

    target: Target
    device: Device
    executor: Executor
    meter: Meter
    clock: Clock = time.perf_counter
    wall: Clock = time.time  # for the record alone
    more: tuple[Seat, ...] = ()

    @property
    def seats(self) -> tuple[Seat, ...]:
        return (Seat(self.target, self.device, self.meter), *self.more)


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


@dataclass
class _Pending:
    """A candidate that was asked for and whose trial was not told yet."""

    candidate: Candidate
    build: Build | None  # None: its trial is recorded
    asking_s: float
    trial: "Future[Trial | None] | None" = None  # where it is evaluated beside others; None of it: there was no time


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
    the outcomes fix the candidates, whatever order builds finish in and however many devices there are. On a target
    that is measured on the processor that builds, a batch is built to its end before any of it is measured. What is
    still being built when the time is spent is left: whoever asked for the search ends it.

    Raises ConfigError where the record was made by another search, or where the baseline fails: nothing can be proved
    better than a baseline that does not work.
    """
    seen, asked = _Seen(), 0
    pending: deque[_Pending] = deque()
    offset_s = recorded[-1].elapsed_s if recorded else 0.0
    start_s = bench.clock()

    def elapsed_s() -> float:
        return offset_s + bench.clock() - start_s

    def built(some: Sequence[_Pending]) -> bool:
        """Whether these are built while time is left."""
        return _ended(some, _left_s(budget, elapsed_s(), seen))

    def next_trial(one: _Pending) -> Trial | None:
        if one.trial is not None:
            return one.trial.result()
        return _evaluated(one, bench.seats[0], bench, seen, recipe) if built([one]) else None

    side_by_side = _SideBySide(bench, seen, recipe) if bench.more else None
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
                    pending.append(_Pending(candidate, build, asking_s))
                asked += len(candidates)
            if not pending:
                return
            if bench.target.shares_cpu and pending[0].build is not None and not built(pending):
                return
            if side_by_side is not None and seen.trials:
                side_by_side.start(pending, built)
            next_ = pending.popleft()
            trial = _recalled(next_.candidate, recorded) if next_.build is None else next_trial(next_)
            if trial is None:
                return  # what was asked ahead is asked again when the search is resumed
            if next_.build is not None:
                trial = lean(replace(trial, elapsed_s=elapsed_s()))
                for listener in listeners:
                    listener.on_trial(trial)
            seen.add(trial, recipe)
            if trial.number == 0:
                _accept(trial, recipe)
            strategy.tell(trial)
            yield trial
            if next_.build is not None and _drift_due(recipe, trial):
                _read_drift(seen.trials[0], trial.number, bench, listeners)
    finally:
        for waiting in pending:
            if waiting.build is not None:
                waiting.build.cancel()
        if side_by_side is not None:
            side_by_side.close()


class _SideBySide:
    """Trials on several devices at once, in the order of asking: a device that is free takes the next. What a trial
    must know of earlier ones, that they run the same code, it waits for."""

    def __init__(self, bench: Bench, seen: _Seen, recipe: Recipe) -> None:
        self._bench, self._seen, self._recipe = bench, seen, recipe
        self._pool = ThreadPoolExecutor(len(bench.seats), thread_name_prefix="measure")
        self._closed = Event()
        self._free: SimpleQueue[Seat] = SimpleQueue()
        for seat in bench.seats:
            self._free.put(seat)

    def start(self, pending: Sequence[_Pending], built: Callable[[Sequence[_Pending]], bool]) -> None:
        """Begins what was not begun yet."""
        earlier: list[_Pending] = []
        for one in pending:
            if one.build is not None and one.trial is None:
                one.trial = self._pool.submit(self._trial, one, tuple(earlier), built)
            if one.build is not None:
                earlier.append(one)

    def _trial(
        self, one: _Pending, earlier: Sequence[_Pending], built: Callable[[Sequence[_Pending]], bool]
    ) -> Trial | None:
        seat = self._free.get()  # there are as many as threads
        try:
            if not built([one]):  # the time is looked at when measuring could begin
                return None
            return _evaluated(one, seat, self._bench, self._seen, self._recipe, earlier, self._closed.is_set)
        finally:
            self._free.put(seat)

    def close(self) -> None:
        """Begins nothing more. What still runs ends by itself: after an interrupt its programs are killed."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _spent(budget: Budget, elapsed_s: float, seen: _Seen) -> bool:
    stalled = budget.patience is not None and len(seen.trials) > 0 and seen.stalled >= budget.patience
    return stalled or _left_s(budget, elapsed_s, seen) == 0.0


def _left_s(budget: Budget, elapsed_s: float, seen: _Seen) -> float | None:
    """Of the time; None where it never ends: without a limit, and before the baseline, which may take what it takes."""
    if budget.seconds is None or not seen.trials:
        return None
    return max(0.0, budget.seconds - elapsed_s)


def _ended(some: Sequence[_Pending], left_s: float | None) -> bool:
    """Whether these builds end while time is left; None: it never ends."""
    builds = [one.build for one in some if one.build is not None]
    return not builds or (left_s != 0.0 and not wait(builds, left_s).not_done)


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
    pending: _Pending,
    seat: Seat,
    bench: Bench,
    seen: _Seen,
    recipe: Recipe,
    earlier: Sequence[_Pending] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Trial:
    """A trial. `earlier`: what is evaluated beside it. What somebody else ended (the system short of memory kills
    whatever is large) is tried once more, unless the search was `stopped`: it says nothing of the point."""
    trial, again = _tried(pending, seat, bench, seen, recipe, earlier)
    if not again or stopped():
        return trial
    if trial.artifact is None:
        pending.build = bench.executor.build(bench.target, pending.candidate.point)
    return _tried(pending, seat, bench, seen, recipe, earlier)[0]


def _tried(
    pending: _Pending, seat: Seat, bench: Bench, seen: _Seen, recipe: Recipe, earlier: Sequence[_Pending]
) -> tuple[Trial, bool]:
    """A trial, and whether it is worth trying once more. A bad point's TrialError is caught here or in `_measured`."""
    seconds: dict[str, float] = {"ask": pending.asking_s}
    artifact, again = None, False
    started_at_s = bench.wall()
    outcome: Outcome
    assert pending.build is not None
    try:
        artifact, seconds[Stage.BUILD] = pending.build.result()
        if (twin := seen.by_identity.get(artifact.identity) or _twin(artifact.identity, earlier)) is not None:
            outcome = _taken_over(twin)
        else:
            best = seen.estimate(recipe.goal.first)
            while (found := _measured(artifact, seat, bench, best, seconds)) is None:
                pass
            outcome, again = found
    except TrialError as error:
        outcome, again = Failed(Stage.BUILD, error.reason, error.log), error.again
    return Trial(pending.candidate, outcome, seconds, artifact, started_at_s), again


def _measured(
    artifact: Artifact, seat: Seat, bench: Bench, best: Estimate | None, seconds: dict[str, float]
) -> tuple[Outcome, bool] | None:
    """What comes of an artifact, and whether it is worth trying once more. None where the device's machine was lost
    meanwhile: the time that went is that of the stage `lost`."""
    stage, again, spent, start_s = Stage.VERIFY, False, dict[str, float](), bench.clock()
    try:
        with seat.device.alone():
            with _timed(spent, stage, bench.clock):
                stack = ExitStack()
                runner = stack.enter_context(seat.target.open(artifact))
                with _closed_on_error(stack):
                    check = runner.verify()
            with stack:
                stage = Stage.MEASURE
                with _timed(spent, stage, bench.clock):
                    outcome: Outcome = Measured(check, seat.meter.measure(runner, best))
    except DeviceLost:
        seconds["lost"] = seconds.get("lost", 0.0) + bench.clock() - start_s
        return None
    except TrialError as error:
        outcome, again = Failed(stage, error.reason, error.log), error.again
    seconds.update(spent)
    return outcome, again


def _twin(identity: str, earlier: Sequence[_Pending]) -> Trial | None:
    """The first trial that runs the same code among those that were asked before and are not told yet."""
    for one in earlier:
        if one.build is None or one.trial is None or one.build.exception() is not None:
            continue
        if one.build.result()[0].identity != identity or (trial := one.trial.result()) is None:
            continue
        if _lasting(trial.outcome) and trial.outcome.same_as is None:
            return trial
    return None


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
    except (TrialError, DeviceLost):
        return  # the reading is for information; the final comparison starts the baseline again
    for listener in listeners:
        listener.on_drift(after, samples)
