"""Is the winner really better? Finalists and baseline again, interleaved, in processes started anew every round.

Two stages, so that a lucky reading does not choose the winner and prove it too: the finalists are ranked in rounds of
their own, and the leader then meets the baseline in fresh rounds. A round is A B B A, so that drift which is linear in
time cancels, and gives one gain; starting the processes anew makes the luck of a process (where its memory came to lie)
part of the interval instead of part of the answer. The number of rounds is fixed beforehand: nothing is peeked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optimizer.measure import BLOCK_S, joined
from optimizer.objective import Goal
from optimizer.protocols import Ending
from optimizer.recipe import Recipe
from optimizer.stats import FEWEST, Judgement, estimate, judge
from optimizer.study import Bench
from optimizer.trial import Artifact, Samples, Trial, TrialError, metrics_of

VISIT_S = BLOCK_S / 2


@dataclass(frozen=True)
class _Entrant:
    """A trial that takes part, built again (from the cache where it is still there)."""

    trial: Trial
    artifact: Artifact


@dataclass(frozen=True)
class _Rounds:
    """What came of some rounds: a gain each, and all readings of both sides."""

    gains: tuple[float, ...] = ()
    mine: Samples | None = None
    theirs: Samples | None = None


def confirm(recipe: Recipe, trials: Sequence[Trial], bench: Bench) -> Ending:
    """The verdict on the best trial: the first finalist that holds its ground, or the baseline against itself.

    Where no finalist beats the baseline, the baseline meets itself: the verdict is `same`, with this machine's noise.
    Without a baseline that can be built and run there is no verdict.
    """
    match = _Match(recipe, bench)
    home = match.entrant(trials[0])
    if home is None:
        return Ending(None)
    entrants = [e for t in _finalists(recipe, trials) if (e := match.entrant(t)) is not None]
    with bench.device.alone():
        for entrant in match.by_rematch(entrants, home):
            rounds = match.rounds(entrant, home, recipe.confirm.rounds)
            if not rounds.gains or match.breaks_a_limit(rounds):
                continue
            verdict = judge(rounds.gains, match.metric, entrant.trial.number, recipe.confirm.min_gain)
            if verdict.judgement is not Judgement.WORSE:
                return Ending(verdict, rounds.gains)
        rounds = match.rounds(home, home, recipe.confirm.rounds)
    if not rounds.gains:
        return Ending(None)
    verdict = judge(rounds.gains, match.metric, 0, recipe.confirm.min_gain)
    return Ending(replace(verdict, judgement=Judgement.SAME), rounds.gains)


def _finalists(recipe: Recipe, trials: Sequence[Trial]) -> list[Trial]:
    """The best feasible trials, one for each distinct program; none that runs what the baseline runs."""
    baseline = trials[0]
    taken = {baseline.artifact.identity} if baseline.artifact else set()
    chosen: list[Trial] = []
    for trial in recipe.goal.ranked(trials, baseline):
        if len(chosen) == recipe.confirm.finalists:
            break
        if trial.artifact is not None and trial.artifact.identity not in taken:
            taken.add(trial.artifact.identity)
            chosen.append(trial)
    return chosen


class _Match:
    """How two entrants are compared in one search."""

    def __init__(self, recipe: Recipe, bench: Bench) -> None:
        self._recipe, self._bench = recipe, bench
        self._goal: Goal = recipe.goal
        self.metric = recipe.goal.first.metric

    def entrant(self, trial: Trial) -> _Entrant | None:
        try:
            artifact, _ = self._bench.executor.build(self._bench.target, trial.point).result()
        except TrialError:
            return None
        return _Entrant(trial, artifact)

    def by_rematch(self, entrants: Sequence[_Entrant], home: _Entrant) -> list[_Entrant]:
        """Best first, by a few rounds against the baseline; entrants that fail now are left out."""
        if len(entrants) < 2:
            return list(entrants)
        count = max(3, self._recipe.confirm.rounds // 3)
        gains = {id(e): self.rounds(e, home, count).gains for e in entrants}
        alive = [e for e in entrants if gains[id(e)]]
        return sorted(alive, key=lambda e: -estimate(gains[id(e)]).median)

    def rounds(self, a: _Entrant, b: _Entrant, count: int) -> _Rounds:
        """Rounds of A B B A, as many as time allows but enough for an interval; none where one side fails now."""
        start = self._bench.clock()
        gains: list[float] = []
        mine: list[Samples] = []
        theirs: list[Samples] = []
        for done in range(count):
            late = self._bench.clock() - start > self._recipe.confirm.max_seconds
            if late and done >= min(FEWEST, count):
                break
            try:
                visits = self._round(a, b)
            except TrialError:
                return _Rounds()
            values = [self._goal.first.of(v[self.metric]) for v in visits if v.get(self.metric)]
            if len(values) != len(visits) or min(values) <= 0:
                return _Rounds()
            one, two, three, four = values
            gains.append((self._goal.first.gain(two, one) * self._goal.first.gain(three, four)) ** 0.5)
            mine += [visits[0], visits[3]]
            theirs += visits[1:3]
        return _Rounds(tuple(gains), joined(mine), joined(theirs))

    def _round(self, a: _Entrant, b: _Entrant) -> list[Samples]:
        order = (a, b, b, a)
        if self.metric in a.artifact.facts:
            return [self._build_reading(entrant) for entrant in order]
        if self.metric in _known_without_running(a.trial):
            return [{self.metric: (metrics_of(e.trial)[self.metric],)} for e in order]
        with (
            self._bench.target.open(a.artifact) as mine,
            self._bench.target.open(b.artifact) as theirs,
        ):
            return [self._bench.meter.visit(runner, VISIT_S) for runner in (mine, theirs, theirs, mine)]

    def _build_reading(self, entrant: _Entrant) -> Samples:
        """What a build tells, from a build made anew: the compile time is what is compared."""
        artifact, _ = self._bench.executor.build(self._bench.target, entrant.trial.point, fresh=True).result()
        return {name: (value,) for name, value in artifact.facts.items()}

    def breaks_a_limit(self, rounds: _Rounds) -> bool:
        """Whether the readings of the rounds break a limit that the search's few readings kept."""
        mine, theirs = rounds.mine or {}, rounds.theirs or {}
        for limit in self._goal.limits:
            if mine.get(limit.metric) and theirs.get(limit.metric):
                value, base = (limit.of(samples[limit.metric]) for samples in (mine, theirs))
                if limit.violation(value, base) > 0:
                    return True
        return False


def _known_without_running(trial: Trial) -> Mapping[str, float]:
    """Metrics that a run does not measure: quality and errors, the same at every reading."""
    sampled = getattr(trial.outcome, "samples", {})
    return {name: value for name, value in metrics_of(trial).items() if name not in sampled}
