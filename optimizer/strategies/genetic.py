"""A genetic search of DEAP's operators: (μ + λ) with elitism, by tournament or by NSGA-II.

A generation is bred when all of the one before has been told. Parents are picked by tournament (the better of a few,
feasible before infeasible: Deb's rules, 2000) or by NSGA-II's crowded tournament; children cross uniformly and mutate
knob by knob, ordered knobs mostly by a short step. A genome has a gene for every knob, active or not, so that a
condition that opens later finds the gene it had. The best of parents and children survive; a hall of fame keeps the
best that was ever seen among the parents. DEAP draws from Python's global generator: it is lent ours meanwhile.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from random import Random
from typing import Any

from deap import base, tools

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.objective import Score
from optimizer.space import Float, Knob, Point, Value

FAMOUS = 2  # the best ever seen that are always among the parents


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
    def __init__(self, genes: list[Value], fitness: type[_Fitness]) -> None:
        super().__init__(genes)
        self.fitness = fitness()


class GeneticProposer:
    """`selection`: tournament or nsga2. `objectives`: how many losses a score has; tournament uses the first alone."""

    def __init__(
        self,
        feasible: Feasible,
        objectives: int,
        rng: Random,
        *,
        selection: str = "tournament",
        population: int = 8,
        mutation: float = 0.15,
        crossover: float = 0.9,
        tournament: int = 3,
        local: float = 0.3,
    ) -> None:
        if selection not in ("tournament", "nsga2"):
            raise ConfigError(f"strategy.selection={selection} is not known: write tournament or nsga2.")
        if population < 4 or population % 4:
            raise ConfigError(f"strategy.population={population} must be a multiple of 4, and at least 4.")
        if not (0 < mutation <= 1 and 0 <= crossover <= 1 and 0 <= local <= 1 and tournament >= 1):
            raise ConfigError(
                "strategy.mutation, strategy.crossover and strategy.local are probabilities, tournament at least 1."
            )
        self._feasible, self._rng, self._nsga2 = feasible, rng, selection == "nsga2"
        self._size, self._mutation, self._crossover, self._rounds = population, mutation, crossover, tournament
        self._local = local
        self._losses = objectives if self._nsga2 else 1
        self._fitness = type("Fitness", (_Fitness,), {"weights": (-1.0,) * (1 + self._losses)})
        self._hall = tools.HallOfFame(FAMOUS)
        self._parents: list[_Genome] = []
        self._children: list[_Genome] = []  # bred, not yet proposed
        self._last: _Genome | None = None  # proposed, neither accepted nor refused
        self._out: dict[str, _Genome] = {}  # accepted, not yet told
        self._told: list[_Genome] = []

    def propose(self) -> Mapping[str, Value] | None:
        if not self._children:
            if self._born() >= self._size:
                if self._out:
                    return None  # the generation is complete when all of it has been told
                self._select()
            self._children = self._breed(self._size - self._born())
        self._last = self._children.pop()
        return {k.name: v for k, v in zip(self._feasible.space.knobs, self._last, strict=True)}

    def refuse(self) -> None:
        self._last = None

    def accept(self, point: Point) -> None:
        genome, self._last = self._last or self._random(), None
        for i, knob in enumerate(self._feasible.space.knobs):
            genome[i] = point.get(knob.name, genome[i])
        self._out[point.key] = genome

    def learn(self, point: Point, score: Score) -> None:
        genome = self._out.pop(point.key)
        if score.losses is None:
            genome.fitness.values = (inf,) * (1 + self._losses)
        else:
            genome.fitness.values = (score.violation, *score.losses[: self._losses])
        self._told.append(genome)
        if score.losses is not None:
            self._hall.update([genome])

    def _born(self) -> int:
        return len(self._out) + len(self._told)

    def _select(self) -> None:
        """μ survivors out of parents and children; failures die."""
        alive = [g for g in self._parents + self._told if g.fitness.values[0] < inf]
        with self._lent():
            if self._nsga2:
                self._parents = tools.selNSGA2(alive, min(self._size, len(alive)))
            else:
                self._parents = tools.selBest(alive, min(self._size, len(alive)))
        self._told = []

    def _breed(self, count: int) -> list[_Genome]:
        if len(self._parents) < 4:  # the first generation, or hardly anything survived
            return [self._random() for _ in range(count)]
        with self._lent():
            mothers, fathers = self._picked(count), self._picked(count)
        elite = [g for g in self._hall if g.fitness.values[0] == 0.0]
        return [
            self._step(self._rng.choice(elite)) if elite and self._rng.random() < self._local else self._child(a, b)
            for a, b in zip(mothers, fathers, strict=True)
        ]

    def _step(self, famous: _Genome) -> _Genome:
        """A neighbour of one of the best: what local search would try (a memetic algorithm, Moscato 1989)."""
        knobs = self._feasible.space.knobs
        free = [i for i, k in enumerate(knobs) if k.domain.size != 1]
        genes = list(famous)
        if free:
            i = self._rng.choice(free)
            genes[i] = mutated(knobs[i], genes[i], self._rng)
        return _Genome(genes, self._fitness)

    def _picked(self, count: int) -> list[_Genome]:
        pool = self._parents + [g for g in self._hall if g not in self._parents]
        if self._nsga2:
            tools.selNSGA2(pool, len(pool))  # assigns the crowding distances that the tournament compares
            whole = pool[: len(pool) // 4 * 4]
            picked: list[_Genome] = []
            while len(picked) < count:
                picked += tools.selTournamentDCD(whole, len(whole))
            return picked[:count]
        chosen: list[_Genome] = tools.selTournament(pool, count, self._rounds)
        return chosen

    def _child(self, mother: _Genome, father: _Genome) -> _Genome:
        crossed = self._rng.random() < self._crossover
        genes = [b if crossed and self._rng.random() < 0.5 else a for a, b in zip(mother, father, strict=True)]
        knobs = self._feasible.space.knobs
        free = [i for i, k in enumerate(knobs) if k.domain.size != 1]
        hit = [i for i in free if self._rng.random() < self._mutation]
        for i in hit or ([self._rng.choice(free)] if free and genes == list(mother) else []):
            genes[i] = mutated(knobs[i], genes[i], self._rng)
        return _Genome(genes, self._fitness)

    def _random(self) -> _Genome:
        point = self._feasible.sample(self._rng)
        genes = [point[k.name] if k.name in point else k.domain.sample(self._rng) for k in self._feasible.space.knobs]
        return _Genome(genes, self._fitness)

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
