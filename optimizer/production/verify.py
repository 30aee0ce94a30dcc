"""Does an export keep its promise on this machine? Answers and speed of what was shipped, against the baseline.

Both sides are built and opened anew, their answers are checked, and they are measured interleaved as a winner is when
it is proved (confirm.py). The promise is broken where answers are wrong, a limit no longer holds, a file was edited, or
the whole interval of the new ratio lies below the floor: the proved one's low end, or what the search's own readings
told where that is less, less the tolerance. Where it lies on both sides of that floor nothing is shown, which is said.
Another environment is named and breaks nothing by itself. Each kind of file is also read by the program that it is for
(consumers.py), where that is here.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from optimizer.conditions import processors
from optimizer.config.reopened import Reopened, reopened
from optimizer.confirm import Entrant, Match, Rounds
from optimizer.errors import ConfigError
from optimizer.executors.local import InlineExecutor
from optimizer.export.exported import Exported
from optimizer.measure import LiveMeter, StillMeter, joined
from optimizer.process import place
from optimizer.production.consumers import Read, read_all
from optimizer.production.places import changes
from optimizer.protocols import Clock
from optimizer.recipe import Confirm, Environment, Plan, differences
from optimizer.space import Point
from optimizer.stats import FEWEST, Verdict, judge
from optimizer.study import Bench
from optimizer.trial import Artifact, Candidate, Check, Measured, Trial, TrialError

DISTURBED_PCT = 5.0  # of the machine, used by others: above it a ratio is not held against the promise


class Finding(StrEnum):
    KEPT = "kept"
    UNDECIDED = "undecided"  # the interval lies on both sides of the floor
    UNPROMISED = "unpromised"  # no ratio was ever proved: answers are checked, speed is told
    BROKEN = "broken"


@dataclass(frozen=True)
class Verification:
    """`verdict`: the ratio as it is now; `why`: what breaks the promise; `notes`: what a reader should know besides."""

    finding: Finding
    metric: str
    verdict: Verdict | None
    why: tuple[str, ...]
    notes: tuple[str, ...]
    environment: Environment | None  # None: an edited file is found before this machine is looked at
    gains: tuple[float, ...] = ()
    load_pct: float = 0.0  # of the machine that others used
    errors: Mapping[str, float] = field(default_factory=dict)  # of the winner's answers
    quality: Mapping[str, float] = field(default_factory=dict)
    reads: Mapping[str, Read] = field(default_factory=dict)  # by kind of export; empty where a file was edited


@dataclass(frozen=True)
class _Side:
    """A point as it was built, and what its answers are worth."""

    artifact: Artifact
    check: Check


def verified(exported: Exported, folder: Path, clock: Clock, confirm: Confirm) -> Verification:
    """`folder`: for builds; `confirm`: how many rounds, and how long. Raises ConfigError where nothing can be said:
    this machine can't build or run the baseline."""
    if edited := exported.edited():
        return Verification(Finding.BROKEN, exported.recipe.goal.first.metric, None, tuple(edited), (), None)
    reads = read_all(exported, folder / "read")
    broken = [line for read in reads.values() for line in read.broken]
    try:
        found = _measured(exported, folder, clock, confirm)
    except ConfigError as error:
        files = "; ".join(broken) or "are as they were exported"
        raise ConfigError(f"{error} Nothing was measured; the files: {files}.") from None
    finding = Finding.BROKEN if broken else found.finding
    return replace(found, finding=finding, why=(*broken, *found.why), reads=reads)


def _measured(exported: Exported, folder: Path, clock: Clock, confirm: Confirm) -> Verification:
    """Raises ConfigError where this machine can't build or run the baseline."""
    metric = exported.recipe.goal.first.metric
    both = reopened(exported, folder)
    recipe = replace(both.recipe, confirm=confirm)
    notes = _placed(recipe.plan)
    environment = both.made.device.describe()
    meter = LiveMeter(both.made.device, recipe.plan, recipe.goal, clock) if both.made.runs else StillMeter()
    bench = Bench(both.made.target, both.made.device, InlineExecutor(clock), meter, clock)
    notes += [*_elsewhere(exported, both, environment), *both.made.warnings]
    with closing(bench.executor), bench.device.alone():
        try:
            home = _side(bench, both.baseline)
        except TrialError as error:
            raise ConfigError(f"The baseline does not work here, so no ratio can be measured: {error}") from None
        try:
            mine = _side(bench, both.point)
            trials = (_trial(0, both.baseline, home), _trial(1, both.point, mine))
            entrants = [Entrant(t, s.artifact) for t, s in zip(trials, (home, mine), strict=True)]
            found = Match(recipe, bench).played(entrants[1], entrants[0], confirm.rounds, confirm.max_seconds)
        except TrialError as error:
            return Verification(Finding.BROKEN, metric, None, (str(error),), tuple(notes), environment)
    return _judged(exported, replace(both, recipe=recipe), trials, found, notes, environment)


def _placed(plan: Plan) -> list[str]:
    """Programs run where, and as urgently as, they ran when the promise was made; what this machine does not allow."""
    try:
        place(processors(plan.cpus), plan.nice)
    except ConfigError as error:
        return [f"{error} Programs ran where the system put them"]
    return []


def _judged(
    exported: Exported,
    both: Reopened,
    trials: tuple[Trial, Trial],
    found: Rounds,
    notes: list[str],
    environment: Environment,
) -> Verification:
    goal, promise = both.recipe.goal, exported.promise
    metric = goal.first.metric
    if len(found.gains) < FEWEST:
        raise ConfigError(f"{metric} could not be read on both sides often enough: give --seconds more.")
    baseline, winner = (
        replace(t, outcome=replace(t.outcome, samples={**t.outcome.samples, **samples}))
        for t, samples in zip(
            trials, (joined([r.theirs for r in found.rounds]), joined([r.mine for r in found.rounds])), strict=True
        )
        if isinstance(t.outcome, Measured)
    )
    why = [f"it breaks the limit on {name}" for name in goal.violations(winner, baseline)]
    verdict = judge(found.gains, metric, int(exported.document["number"]), both.recipe.confirm.min_gain)
    finding = _finding(verdict, promise.floor)
    if finding is Finding.BROKEN and found.load_pct > DISTURBED_PCT:
        finding = Finding.UNDECIDED  # programs that use all cores lose the most to others: the ratio tells of them too
        notes = [*notes, "the ratio lies below the floor, on a busy machine: measure again on a quiet one"]
    if finding is Finding.BROKEN and promise.verdict is not None:
        why.append(
            f"{metric} is {_told(verdict)} times as good as the baseline's; "
            f"promised were {_told(promise.verdict)}, less at most {promise.tolerance_pct:g} %: "
            f"at least {promise.floor:.3f}"
        )
    if found.load_pct > DISTURBED_PCT:
        notes = [*notes, f"others used {found.load_pct:.0f} % of the machine meanwhile"]
    if winner.artifact is not None and exported.code_key not in ("", winner.artifact.code_key):
        notes = [*notes, "what was built runs other machine code than what was proved"]
    check = winner.outcome.check if isinstance(winner.outcome, Measured) else Check()
    return Verification(
        Finding.BROKEN if why else finding,
        metric,
        verdict,
        tuple(why),
        tuple(notes),
        environment,
        found.gains,
        found.load_pct,
        check.errors,
        check.quality,
    )


def _finding(verdict: Verdict, floor: float | None) -> Finding:
    if floor is None:
        return Finding.UNPROMISED
    if verdict.high < floor:
        return Finding.BROKEN
    return Finding.KEPT if verdict.low >= floor else Finding.UNDECIDED


def _told(verdict: Verdict) -> str:
    return f"{verdict.ratio:.3f} ({verdict.low:.3f} to {verdict.high:.3f})"


def _side(bench: Bench, point: Point) -> _Side:
    """Raises TrialError where it can't be built, does not run, or answers wrongly."""
    artifact, _ = bench.executor.build(bench.target, point).result()
    with bench.target.open(artifact) as runner:
        return _Side(artifact, runner.verify())


def _trial(number: int, point: Point, side: _Side) -> Trial:
    return Trial(Candidate(number, point), Measured(side.check, {}), artifact=side.artifact)


def _elsewhere(exported: Exported, both: Reopened, environment: Environment) -> list[str]:
    """What is not as it was when the ratio was proved."""
    then, now = exported.recipe.target.options, both.made.target.fingerprint()
    work = differences(dict(then), dict(now))
    return [f"another program than was proved: {line}" for line in work] + changes(exported.environment, environment)
