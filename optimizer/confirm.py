"""Is the winner really better? Finalists and baseline again, interleaved, in processes started anew every round.

Two stages, so that a lucky reading does not choose the winner and prove it too: the finalists are ranked in rounds of
their own, and the leader then meets the baseline in fresh rounds. Readings of one process may be lucky together, so
while a trial that is left promises more than the best of the finalists has shown, it becomes one. A round is A B B A,
so that drift which is linear in time cancels, and gives one gain; starting the processes anew makes the luck of a
process (where its memory came to lie) part of the interval instead of part of the answer. The number of rounds is fixed
beforehand: nothing is peeked at. Rounds in which others used the machine are taken again while time lasts, and said to
be disturbed where it does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import geometric_mean, median

from optimizer.measure import BLOCK_S, is_throttled, joined
from optimizer.process import held_still
from optimizer.protocols import DeviceLost, Ending
from optimizer.recipe import Recipe
from optimizer.stats import FEWEST, Judgement, judge
from optimizer.study import Bench
from optimizer.trial import Artifact, Samples, Trial, TrialError, metrics_of, once_more

VISIT_S = BLOCK_S / 2
REMATCH_SHARE = 0.3  # of the time for the whole confirmation
MORE_FINALISTS = 3  # times as many as were asked for, where those don't hold what their readings promised


@dataclass(frozen=True)
class Entrant:
    """A trial that takes part, built again (from the cache where it is still there)."""

    trial: Trial
    artifact: Artifact


@dataclass(frozen=True)
class _Round:
    gain: float
    mine: Samples
    theirs: Samples
    load_pct: float = 0.0  # of others, meanwhile
    throttled: bool = False  # a GPU, by heat


@dataclass(frozen=True)
class Rounds:
    """What came of some rounds."""

    rounds: tuple[_Round, ...] = ()

    @property
    def gains(self) -> tuple[float, ...]:
        return tuple(r.gain for r in self.rounds)

    @property
    def load_pct(self) -> float:
        return median(r.load_pct for r in self.rounds) if self.rounds else 0.0


def confirm(recipe: Recipe, trials: Sequence[Trial], bench: Bench) -> Ending:
    """The verdict on the best trial: the first finalist that holds its ground, or the baseline against itself.

    Where no finalist beats the baseline, the baseline meets itself: the verdict is `same`, with this machine's noise.
    Without a baseline that can be built and run there is no verdict.
    """
    match = Match(recipe, bench)
    home = match.entrant(trials[0])
    if home is None:
        return Ending(None)
    passed_over: dict[int, str] = {}
    with bench.device.alone():
        for entrant in match.by_rematch(_distinct(recipe, trials), home):
            found = match.rounds(entrant, home, recipe.confirm.rounds, recipe.confirm.max_seconds)
            if not found.gains:
                passed_over[entrant.trial.number] = "it failed"
                continue
            if broken := match.broken_limits(found):
                passed_over[entrant.trial.number] = f"it breaks the limit on {', '.join(broken)}"
                continue
            verdict = judge(found.gains, match.metric, entrant.trial.number, recipe.confirm.min_gain)
            if verdict.judgement is not Judgement.WORSE:
                return Ending(verdict, found.gains, found.load_pct, passed_over=passed_over)
            passed_over[entrant.trial.number] = f"it was worse than the baseline, {verdict.ratio:.3f}×"
        found = match.rounds(home, home, recipe.confirm.rounds, recipe.confirm.max_seconds)
    if not found.gains:
        return Ending(None, passed_over=passed_over)
    verdict = judge(found.gains, match.metric, 0, recipe.confirm.min_gain)
    return Ending(replace(verdict, judgement=Judgement.SAME), found.gains, found.load_pct, passed_over=passed_over)


def _distinct(recipe: Recipe, trials: Sequence[Trial]) -> list[Trial]:
    """The feasible trials, best first, one for each distinct program; none that runs what the baseline runs. Where the
    build is what is measured, programs are as distinct as the ways in which they are built."""
    baseline = trials[0]
    by_build = baseline.artifact is not None and recipe.goal.first.metric in baseline.artifact.facts

    def identity(artifact: Artifact) -> str:
        return artifact.key if by_build else artifact.identity

    taken = {identity(baseline.artifact)} if baseline.artifact else set()
    chosen: list[Trial] = []
    for trial in recipe.goal.ranked(trials, baseline):
        if trial.artifact is not None and identity(trial.artifact) not in taken:
            taken.add(identity(trial.artifact))
            chosen.append(trial)
    return chosen


@dataclass(frozen=True)
class Match:
    """How two entrants are compared in one search."""

    recipe: Recipe
    bench: Bench
    metric: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", self.recipe.goal.first.metric)

    def entrant(self, trial: Trial) -> Entrant | None:
        bench = self.bench
        try:
            artifact, _ = once_more(lambda: bench.executor.build(bench.target, trial.point).result())
        except TrialError:
            return None
        return Entrant(trial, artifact)

    def by_rematch(self, trials: Sequence[Trial], home: Entrant) -> list[Entrant]:
        """Best first, by a few rounds against the baseline: the first `finalists` that run, and of the rest those that
        promise more than has been shown, while rounds took no longer than the final may. The mean counts, of gains'
        logarithms: what is slow in one start of three is not saved by the other two."""
        confirm, first = self.recipe.confirm, self.recipe.goal.first
        if min(confirm.finalists, len(trials)) < 2:
            return [e for t in trials[:1] if (e := self.entrant(t)) is not None]
        count = max(3, confirm.rounds // 3)
        seconds = confirm.max_seconds * REMATCH_SHARE / min(confirm.finalists, len(trials))
        start = self.bench.clock()
        shown: list[tuple[float, Entrant]] = []
        for trial in trials[: MORE_FINALISTS * confirm.finalists]:
            if len(shown) >= confirm.finalists and (
                (first.gain_of(trial, home.trial) or 0.0) <= max(gain for gain, _ in shown)
                or self.bench.clock() - start > confirm.max_seconds
            ):
                break
            entrant = self.entrant(trial)
            if entrant is not None and (gains := self.rounds(entrant, home, count, seconds).gains):
                shown.append((geometric_mean(gains), entrant))
        return [entrant for _, entrant in sorted(shown, key=lambda s: -s[0])]

    def rounds(self, a: Entrant, b: Entrant, count: int, seconds: float) -> Rounds:
        """What `played` gives; none where one side fails now."""
        try:
            return self.played(a, b, count, seconds)
        except TrialError:
            return Rounds()

    def played(self, a: Entrant, b: Entrant, count: int, seconds: float) -> Rounds:
        """`count` undisturbed rounds, or what `seconds` leave time for (but enough for an interval, where an interval
        is wanted); none where a side lacks the metric. Raises TrialError as the sides do; what somebody else ended is
        tried once more."""
        start = self.bench.clock()
        quiet: list[_Round] = []
        disturbed: list[_Round] = []
        fewest, ended_by_others, lost = FEWEST if count >= FEWEST else 1, 0, 0
        while len(quiet) < count:
            taken = len(quiet) + len(disturbed) + lost
            if taken >= fewest and self.bench.clock() - start > seconds:
                break
            if taken >= 3 * count:
                break
            try:
                found = self._round(a, b)
            except DeviceLost:
                lost += 1  # a round is of one machine: it is played again on another
                continue
            except TrialError as error:
                ended_by_others += error.again
                if ended_by_others == 1 and error.again:
                    continue
                raise
            if found is None:
                return Rounds()
            busy = found.load_pct > self.recipe.plan.max_foreign_load_pct or found.throttled
            (disturbed if busy else quiet).append(found)
        enough = len(quiet) >= fewest
        return Rounds(tuple(quiet if enough else quiet + disturbed))

    def _round(self, a: Entrant, b: Entrant) -> _Round | None:
        """A B B A; None where the metric is missing or can't give a ratio."""
        if self.metric in a.artifact.facts:
            visits, load_pct = [self._build_reading(entrant) for entrant in (a, b, b, a)], 0.0
        elif self.metric in _known_without_running(a.trial):
            visits = [{self.metric: (metrics_of(e.trial)[self.metric],)} for e in (a, b, b, a)]
            load_pct = 0.0
        else:
            visits, load_pct = self._visits(a, b)
        first = self.recipe.goal.first
        values = [first.of(v[self.metric]) for v in visits if v.get(self.metric)]
        if len(values) != len(visits) or min(values) <= 0:
            return None
        one, two, three, four = values
        gain = (first.gain(two, one) * first.gain(three, four)) ** 0.5
        throttled = any(map(is_throttled, visits))
        return _Round(gain, joined([visits[0], visits[3]]), joined(visits[1:3]), load_pct, throttled)

    def _visits(self, a: Entrant, b: Entrant) -> tuple[list[Samples], float]:
        """Readings of four turns, and the load of others during them."""
        meter, target = self.bench.meter, self.bench.target
        with target.open(a.artifact) as mine, target.open(b.artifact) as theirs:
            for runner, other in ((mine, theirs), (theirs, mine)):
                with held_still(other.pid):
                    meter.warm(runner)
            visits = []
            for runner, other in ((mine, theirs), (theirs, mine), (theirs, mine), (mine, theirs)):
                with held_still(other.pid):
                    visits.append(meter.visit(runner, VISIT_S))
        loads = [v["foreign_load_pct"][0] for v in visits if v.get("foreign_load_pct")]
        return visits, median(loads) if loads else 0.0

    def _build_reading(self, entrant: Entrant) -> Samples:
        """What a build tells, from a build made anew: the compile time is what is compared."""
        artifact, _ = self.bench.executor.build(self.bench.target, entrant.trial.point, fresh=True).result()
        return {name: (value,) for name, value in artifact.facts.items()}

    def broken_limits(self, found: Rounds) -> list[str]:
        """The limits that the readings of the rounds break, though the search's few readings kept them."""
        mine, theirs = joined([r.mine for r in found.rounds]), joined([r.theirs for r in found.rounds])
        broken = []
        for limit in self.recipe.goal.limits:
            if mine.get(limit.metric) and theirs.get(limit.metric):
                value, base = (limit.of(samples[limit.metric]) for samples in (mine, theirs))
                if limit.violation(value, base) > 0:
                    broken.append(limit.metric)
        return broken


def _known_without_running(trial: Trial) -> Mapping[str, float]:
    """Metrics that a run does not measure: quality and errors, the same at every reading."""
    sampled = getattr(trial.outcome, "samples", {})
    return {name: value for name, value in metrics_of(trial).items() if name not in sampled}
