"""Recorded trials served again, as if compiled and measured anew."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from optimizer.protocols import Runner
from optimizer.space import Json, Point, digest
from optimizer.stats import Estimate
from optimizer.trial import Artifact, Check, Failed, Outcome, Reason, Samples, Stage, Trial, TrialError


class Replay:
    """A target made of a record. A point that was not recorded is `rejected`."""

    shares_cpu = False

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._trials = {t.point.key: t for t in trials}
        self._by_identity: dict[str, Trial] = {}
        for trial in self._trials.values():
            self._by_identity.setdefault(_artifact(trial).identity, trial)

    def fingerprint(self) -> Mapping[str, Json]:
        return {"record": digest(sorted(self._trials))}

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        if (trial := self._trials.get(point.key)) is None:
            raise TrialError(Reason.REJECTED, f"not recorded: {dict(point)}")
        _raise_if(Stage.BUILD, trial.outcome)
        return _artifact(trial)

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator["PlayedRunner"]:
        yield PlayedRunner(self._by_identity[artifact.identity].outcome)


@dataclass(frozen=True)
class PlayedRunner:
    outcome: Outcome
    pid: int | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    def verify(self) -> Check:
        _raise_if(Stage.VERIFY, self.outcome)
        return Check() if isinstance(self.outcome, Failed) else self.outcome.check

    def run(self, n: int) -> Samples:
        """All that was recorded, however many readings are asked for."""
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
