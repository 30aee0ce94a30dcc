"""A genetic search of DEAP's operators: steady state, memetic, its children chosen by what their relatives came to.

It begins with points that lie far apart. From then on every ask breeds a brood: children of two parents (tournament
under Deb's rules, 2000: feasible before infeasible; or NSGA-II's crowded tournament), crossed uniformly and mutated
knob by knob, ordered knobs mostly by a short step; neighbours of the best (a memetic algorithm, Moscato 1989); a few
newcomers. The one whose nearest relatives rank best is proposed (pre-selection, Jin 2005; kinship.py), now and then
any. What is told takes its place among the parents at once (μ + 1), so nothing waits for a generation, and the best
are never lost. When nothing better was found for a while, every second proposal goes through the neighbours of the
best, the most promising first, until all of them are known.

A genome has a gene for every knob, active or not, so that a condition that opens later finds the gene it had. DEAP
draws from Python's global generator: it is lent ours meanwhile.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from random import Random
from typing import Any

import numpy as np
from deap import base, tools

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.objective import Score
from optimizer.space import Float, Knob, Point, Value
from optimizer.strategies.kinship import Floats, Places, Spread, promise

ELITE = 2  # the best whose neighbours are tried
FRESH = 0.2  # of a brood that is drawn at random
BLIND = 0.15  # of asks that propose any child, whatever it promises
LITTERS = 4  # times a brood is bred when too many of it are known or invalid


class _Fitness(base.Fitness):  # type: ignore[misc]
    """Lexicographic: violation first, then the losses (DEAP compares weighted values in order)."""

    weights = (-1.0, -1.0)

    def dominates(self, other: "_Fitness", obj: slice = slice(None)) -> bool:
        """Constrained domination (Deb et al. 2002): less violation wins, then Pareto dominance of the losses."""
        mine, theirs = self.wvalues, other.wvalues
        if mine[0] != theirs[0]:
            return bool(mine[0] > theirs[0])
        return bool(mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True)))


class _Genome(list[Value]):
    def __init__(self, genes: Sequence[Value], fitness: type[_Fitness]) -> None:
        super().__init__(genes)
        self.fitness = fitness()


_Child = tuple[Point, _Genome]


class GeneticProposer:
    """`selection`: tournament or nsga2. `objectives`: how many losses a score has; tournament uses the first alone."""

    def __init__(
        self,
        feasible: Feasible,
        objectives: int,
        rng: Random,
        *,
        selection: str = "tournament",
        startup: int = 12,
        population: int = 12,
        brood: int = 8,
        mutation: float = 0.2,
        crossover: float = 0.9,
        tournament: int = 3,
        local: float = 0.3,
        stagnation: int = 20,
    ) -> None:
        if selection not in ("tournament", "nsga2"):
            raise ConfigError(f"strategy.selection={selection} is not known: write tournament or nsga2.")
        if population < 4 or population % 4:
            raise ConfigError(f"strategy.population={population} must be a multiple of 4, and at least 4.")
        if startup < 2 or min(brood, tournament, stagnation) < 1:
            raise ConfigError(
                "strategy.startup is at least 2; strategy.brood, tournament and stagnation are at least 1."
            )
        if not (0 < mutation <= 1 and 0 <= crossover <= 1 and 0 <= local <= 1):
            raise ConfigError("strategy.mutation, strategy.crossover and strategy.local are probabilities.")
        self._feasible, self._rng, self._nsga2 = feasible, rng, selection == "nsga2"
        self._startup, self._size, self._brood, self._patience = startup, population, brood, stagnation
        self._mutation, self._crossover, self._rounds, self._local = mutation, crossover, tournament, local
        self._losses = objectives if self._nsga2 else 1
        self._fitness = type("Fitness", (_Fitness,), {"weights": (-1.0,) * (1 + self._losses)})
        self._knobs = feasible.space.knobs
        self._free = [i for i, k in enumerate(self._knobs) if k.domain.size != 1]
        self._places = Places(self._knobs)
        self._last: _Genome | None = None  # proposed, neither accepted nor refused
        self._out: dict[str, _Genome] = {}  # accepted, not yet told
        self._rows: dict[str, Floats] = {}  # places of every accepted point, by its key
        self._known: list[Floats] = []  # the same in the order of acceptance
        self._tried: list[Floats] = []  # of those that were told, in the order of telling
        self._scores: list[tuple[float, ...]] = []  # theirs: violation, then losses
        self._parents: list[_Genome] = []  # the survivors, best first
        self._best: tuple[Point, _Genome] | None = None
        self._idle = 0  # results since the best was told
        self._near: list[_Child] | None = None  # the best's neighbours
        self._spread: Spread | None = None

    def propose(self) -> Mapping[str, Value] | None:
        chosen = None
        if len(self._known) >= self._startup and len(self._parents) >= 2:
            if self._best and self._local and self._idle >= self._patience and self._rng.random() < 0.5:
                chosen = self._promising(self._neighbours(*self._best))
            if chosen is None:
                blind = self._rng.random() < BLIND
                chosen = self._promising(self._bred(1 if blind else self._brood))
        self._last = chosen or self._farthest()
        return self._values(self._last)

    def refuse(self) -> None:
        self._last = None

    def accept(self, point: Point) -> None:
        genome, self._last = self._last or self._genome(self._feasible.sample(self._rng)), None
        for i, knob in enumerate(self._knobs):
            genome[i] = point.get(knob.name, genome[i])
        self._out[point.key] = genome
        self._rows[point.key] = self._places.of([point])[0]
        self._known.append(self._rows[point.key])

    def learn(self, point: Point, score: Score) -> None:
        genome = self._out.pop(point.key)
        failed = (inf,) * (1 + self._losses)
        values = failed if score.losses is None else (score.violation, *score.losses[: self._losses])
        self._tried.append(self._rows[point.key])
        self._scores.append(values)
        self._idle += 1
        if values == failed:
            return
        genome.fitness.values = values
        if self._best is None or genome.fitness > self._best[1].fitness:
            self._best, self._near, self._idle = (point, genome), None, 0
        pool = [*self._parents, genome]
        with self._lent():
            select = tools.selNSGA2 if self._nsga2 else tools.selBest
            self._parents = select(pool, min(self._size, len(pool)))

    # --- where proposals come from

    def _farthest(self) -> _Genome:
        """Of random points the one whose nearest known point is farthest."""
        if self._spread is None:
            self._spread = Spread(self._places, self._feasible, self._rng)
        return self._genome(self._spread.farthest(self._known))

    def _neighbours(self, point: Point, genome: _Genome) -> list[_Child]:
        """The unknown points that differ from the best in a knob."""
        if self._near is None:
            knobs = self._feasible.space.knobs
            self._near = [
                (p, _Genome([p.get(k.name, gene) for k, gene in zip(knobs, genome, strict=True)], self._fitness))
                for p in self._feasible.neighbours(point)
            ]
        return [(p, near) for p, near in self._near if p.key not in self._rows]

    def _promising(self, children: Sequence[_Child]) -> _Genome | None:
        """The one whose relatives rank best; the first of equals."""
        if len(children) < 2:
            return children[0][1] if children else None
        new = self._places.of([p for p, _ in children])
        return children[int(np.argmin(promise(self._places, np.array(self._tried), self._ranks(), new)))][1]

    def _ranks(self) -> Floats:
        """The logarithm of each told point's rank, as a share: what is best is told apart more finely. Several losses
        are weighed anew each time (as ParEGO does, Knowles 2006), each by its rank."""
        scores = np.array(self._scores)
        losses = np.argsort(np.argsort(scores[:, 1:], axis=0, kind="stable"), axis=0)
        weights = [self._rng.random() for _ in range(self._losses)] if self._losses > 1 else [1.0]
        order = np.lexsort(((losses * weights).max(axis=1), scores[:, 0]))
        ranks = np.empty(len(order))
        ranks[order] = np.log1p(np.arange(len(order))) / np.log1p(len(order))
        ranks[np.isinf(scores[:, 0])] = 1.0
        return ranks

    # --- breeding

    def _bred(self, count: int) -> list[_Child]:
        """So many valid unknown children, no two the same; fewer where they do not come up."""
        found: dict[str, _Child] = {}
        for _ in range(LITTERS if count > 1 else 4 * LITTERS):
            for child in self._litter(count):
                point = self._feasible.space.active(self._values(child))
                if point.key not in self._rows and point.key not in found and point in self._feasible.space:
                    found[point.key] = point, child
                    if len(found) == count:
                        return list(found.values())
        return list(found.values())

    def _litter(self, count: int) -> list[_Genome]:
        """Newcomers where there are several to choose from, neighbours of the best, children of two."""
        fresh = FRESH if count > 1 else 0.0
        fates = [self._rng.random() for _ in range(count)]
        pairs = iter(self._crossed(sum(fate >= fresh + self._local for fate in fates)))
        litter = []
        for fate in fates:
            if fate < fresh:
                litter.append(self._genome(self._feasible.sample(self._rng)))
            elif fate < fresh + self._local:
                litter.append(self._step(self._rng.choice(self._parents[:ELITE])))
            else:
                litter.append(self._mutant(*next(pairs)))
        return litter

    def _crossed(self, count: int) -> list[tuple[_Genome, _Genome]]:
        """So many children, each with the parent that it has most of."""
        with self._lent():
            mothers, fathers = self._picked(count), self._picked(count)
            pairs = []
            for mother, father in zip(mothers, fathers, strict=True):
                child, other = _Genome(mother, self._fitness), _Genome(father, self._fitness)
                if random.random() < self._crossover:
                    tools.cxUniform(child, other, 0.5)
                pairs.append((child, mother))
        return pairs

    def _picked(self, count: int) -> list[_Genome]:
        if self._nsga2 and len(self._parents) >= 4:
            whole = self._parents[: len(self._parents) // 4 * 4]  # their crowding distances were assigned by selection
            picked: list[_Genome] = []
            while len(picked) < count:
                picked += tools.selTournamentDCD(whole, len(whole))
            return picked[:count]
        chosen: list[_Genome] = tools.selTournament(self._parents, count, self._rounds)
        return chosen

    def _mutant(self, child: _Genome, mother: _Genome) -> _Genome:
        hit = [i for i in self._free if self._rng.random() < self._mutation]
        for i in hit or ([self._rng.choice(self._free)] if self._free and child == mother else []):
            child[i] = mutated(self._knobs[i], child[i], self._rng)
        return child

    def _step(self, famous: _Genome) -> _Genome:
        """A neighbour of one of the best: what local search would try."""
        genome = _Genome(famous, self._fitness)
        if self._free:
            i = self._rng.choice(self._free)
            genome[i] = mutated(self._knobs[i], genome[i], self._rng)
        return genome

    def _genome(self, point: Point) -> _Genome:
        genes = [point[k.name] if k.name in point else k.domain.sample(self._rng) for k in self._knobs]
        return _Genome(genes, self._fitness)

    def _values(self, genome: _Genome) -> dict[str, Value]:
        return {k.name: v for k, v in zip(self._knobs, genome, strict=True)}

    @contextmanager
    def _lent(self) -> Iterator[None]:
        kept = random.getstate()
        random.setstate(self._rng.getstate())
        try:
            yield
        finally:
            self._rng.setstate(random.getstate())
            random.setstate(kept)


def mutated(knob: Knob, value: Value, rng: Random) -> Value:
    """Another value of the knob: along an ordered domain mostly a step or two away, else any."""
    domain = knob.domain
    if isinstance(domain, Float):
        width = (domain.high / domain.low) if domain.log else domain.high - domain.low
        step = rng.gauss(0.0, 0.15)
        moved = float(value) * width**step if domain.log else float(value) + step * width
        return min(domain.high, max(domain.low, moved))
    here = domain.index(value)
    others: list[Any] = [i for i in range(domain.size) if i != here] if domain.size <= 1000 else []
    if domain.ordered and rng.random() < 0.7:
        step = 1 if rng.random() < 0.7 else 1 + rng.randrange(max(1, domain.size // 4))
        moved_index = here + (step if rng.random() < 0.5 else -step)
        if 0 <= moved_index < domain.size and moved_index != here:
            return domain.at(moved_index)
    return domain.at(rng.choice(others)) if others else domain.sample(rng)
