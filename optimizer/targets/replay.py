"""Recorded trials served again, as if compiled and measured anew."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from optimizer.protocols import Runner
from optimizer.space import Json, Point, digest
from optimizer.stats import Estimate
from optimizer.trial import Artifact, Check, Failed, Measured, Outcome, Reason, Samples, Stage, Trial, TrialError

READINGS = "recorded_latency_s"  # single readings beside a mean that was recorded as latency_s


@dataclass
class SimulatedClock:
    """Seconds that pass only when a record says that something took them."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def charge(self, seconds: float) -> None:
        self.now_s += seconds


class Replay:
    """A target made of a record. A point that was not recorded is `rejected`.

    `noise`: a point answers with one of its recorded readings, drawn by `seed` and the point, instead of their mean.
    `clock` is charged what the record says that building and running took.
    """

    shares_cpu = False

    def __init__(
        self, trials: Iterable[Trial], *, noise: bool = False, seed: int = 0, clock: SimulatedClock | None = None
    ) -> None:
        self._trials = {t.point.key: t for t in trials}
        self._noise, self._seed = noise, seed
        self._clock = clock or SimulatedClock()
        self._by_identity: dict[str, Trial] = {}
        for trial in self._trials.values():
            self._by_identity.setdefault(_artifact(trial).identity, trial)

    def fingerprint(self) -> Mapping[str, Json]:
        noise = {"noise": self._seed} if self._noise else {}
        return {"record": digest(sorted(self._trials)), **noise}

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        if (trial := self._trials.get(point.key)) is None:
            raise TrialError(Reason.REJECTED, f"not recorded: {dict(point)}")
        self._charge(trial, Stage.BUILD)
        _raise_if(Stage.BUILD, trial.outcome)
        return _artifact(trial)

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator["PlayedRunner"]:
        trial = self._by_identity[artifact.identity]
        self._charge(trial, Stage.VERIFY)
        yield PlayedRunner(self, trial, self._answer(trial))

    def _charge(self, trial: Trial, stage: Stage) -> None:
        self._clock.charge(trial.seconds.get(stage, 0.0))

    def ran(self, trial: Trial) -> None:
        """A runner has run it."""
        self._charge(trial, Stage.MEASURE)

    def _answer(self, trial: Trial) -> Outcome:
        outcome = trial.outcome
        if isinstance(outcome, Failed):
            return outcome
        told = {name: (s.typical,) for name, s in outcome.summaries.items() if s.typical is not None}
        outcome = Measured(outcome.check, {**told, **outcome.samples})
        if READINGS not in outcome.samples:
            return outcome
        kept = {name: values for name, values in outcome.samples.items() if name != READINGS}
        if self._noise:
            drawn = Random(f"{self._seed} {trial.point.key}").choice(outcome.samples[READINGS])
            kept |= {"latency_s": (drawn,), "throughput_ips": (1 / drawn,)}
        return Measured(outcome.check, kept)


@dataclass(frozen=True)
class PlayedRunner:
    target: Replay
    trial: Trial
    outcome: Outcome
    pid: int | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    def verify(self) -> Check:
        _raise_if(Stage.VERIFY, self.outcome)
        return Check() if isinstance(self.outcome, Failed) else self.outcome.check

    def run(self, n: int) -> Samples:
        """All that was recorded, however many readings are asked for."""
        self.target.ran(self.trial)
        _raise_if(Stage.MEASURE, self.outcome)
        assert not isinstance(self.outcome, Failed)
        return self.outcome.samples


class PlayedMeter:
    """Takes a record for what it is: its samples are not sampled again."""

    def measure(self, runner: Runner, best: Estimate | None) -> Samples:
        return runner.run(1)

    def warm(self, runner: Runner) -> None:
        pass

    def visit(self, runner: Runner, seconds: float) -> Samples:
        return runner.run(1)


def _artifact(trial: Trial) -> Artifact:
    return trial.artifact or Artifact(trial.point.key, trial.point.key)


def _raise_if(stage: Stage, outcome: Outcome) -> None:
    if isinstance(outcome, Failed) and outcome.stage is stage:
        raise TrialError(outcome.reason, outcome.log)
