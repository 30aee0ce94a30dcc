"""What did a search not have to do, and what would it have cost? From the trials alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from optimizer.targets.builds import CACHED
from optimizer.trial import Measured, Stage, Trial, samples_of

GIVEN_UP, UNITS = "given_up", "units_cached"


@dataclass(frozen=True, slots=True)
class Saving:
    """trials: how many it concerned; seconds: what they would have cost on top, estimated as `how` says; None where
    that can't be said."""

    what: str
    trials: int
    seconds: float | None
    how: str


def savings(trials: Sequence[Trial]) -> list[Saving]:
    """Each kind that concerned a trial at all."""
    found = (_same_code(trials), _racing(trials), _cached(trials), _units(trials), _pool(trials))
    return [saving for saving in found if saving.trials]


def _same_code(trials: Sequence[Trial]) -> Saving:
    same = [t for t in trials if t.outcome.same_as is not None]
    run_s = _typical(trials, lambda t: t.seconds.get(Stage.VERIFY, 0.0) + t.seconds.get(Stage.MEASURE, 0.0))
    seconds = len(same) * run_s if run_s is not None else None
    return Saving("same machine code as an earlier trial", len(same), seconds, "the median time of a run, each")


def _racing(trials: Sequence[Trial]) -> Saving:
    raced = [t for t in _ran(trials) if GIVEN_UP in samples_of(t)]
    whole_s = _typical(
        [t for t in trials if GIVEN_UP not in samples_of(t)], lambda t: t.seconds.get(Stage.MEASURE, 0.0)
    )
    seconds = sum(max(0.0, whole_s - t.seconds.get(Stage.MEASURE, 0.0)) for t in raced) if whole_s is not None else None
    return Saving("hopeless: sampling stopped early", len(raced), seconds, "the median time of measuring a point whole")


def _cached(trials: Sequence[Trial]) -> Saving:
    cached = [t for t in trials if t.artifact is not None and CACHED in t.artifact.facts]
    known = [s for t in cached if (s := _spared_s(t)) is not None]
    return Saving(
        "built before: taken from the build cache",
        len(cached),
        sum(known) if known else None,
        "the compile times of the first builds",
    )


def _spared_s(trial: Trial) -> float | None:
    """Of a build that was not made."""
    if trial.artifact is None or (first_s := trial.artifact.facts.get("compile_time_s")) is None:
        return None
    return max(0.0, first_s - trial.seconds.get(Stage.BUILD, 0.0))


def _units(trials: Sequence[Trial]) -> Saving:
    some = [t for t in trials if t.artifact and UNITS in t.artifact.facts and CACHED not in t.artifact.facts]
    return Saving("translation units compiled before", len(some), None, "")


def _pool(trials: Sequence[Trial]) -> Saving:
    """Builds beside each other and beside measurements: what they took less what was waited for them."""
    built = [t for t in trials if t.seconds.get(Stage.BUILD, 0.0) > 0]
    rest_s = sum(s for t in trials for stage, s in t.seconds.items() if stage in ("ask", Stage.VERIFY, Stage.MEASURE))
    waited_s = (trials[-1].elapsed_s if trials else 0.0) - rest_s
    spared_s = sum(t.seconds[Stage.BUILD] for t in built) - waited_s
    beside = waited_s >= 0 and spared_s > 0
    how = "the builds' own time less what was waited for them"
    return Saving("builds beside each other and beside runs", len(built) if beside else 0, spared_s, how)


def _ran(trials: Sequence[Trial]) -> list[Trial]:
    return [t for t in trials if isinstance(t.outcome, Measured) and t.outcome.same_as is None]


def _typical(trials: Sequence[Trial], seconds: Callable[[Trial], float]) -> float | None:
    """The median over trials that ran."""
    ran = [seconds(t) for t in _ran(trials)]
    return median(ran) if ran else None
