"""What does a plain genetic algorithm of DEAP find on a course, as its documentation has people write one?

    python -m optimizer race KERNEL.json.gz --strategies experiments/race/deap_peers.py:genetic

`eaSimple` with a population of 20, tournaments of 3, uniform crossover of half the genes with probability 0.5 and a
mutation with probability 0.5 that gives a fifth of the genes another value. A gene is a place in the list of a
parameter's values. A configuration that failed or is not in the recording has the worst fitness. A run is given up
after 20 proposals for each evaluation of the budget.
"""

import random
from math import inf
from time import perf_counter
from typing import Any

from deap import algorithms, base, tools

from optimizer.race import Course, FinishedRace, Racer
from optimizer.space import Point

POPULATION, TOURNAMENT = 20, 3
CROSSOVER, MUTATION = 0.5, 0.5  # of a child
CROSSED, MUTATED = 0.5, 0.2  # of a gene of such a child
PROPOSALS = 20  # for each evaluation of the budget


class GivenUp(Exception):  # noqa: N818 - it is no error
    """Most proposals bring nothing new."""


class Fitness(base.Fitness):  # type: ignore[misc]
    weights = (-1.0,)


class Genome(list[int]):
    def __init__(self, genes: Any) -> None:
        super().__init__(genes)
        self.fitness = Fitness()


def genetic(course: Course, seed: int) -> None:
    """DEAP draws from Python's global generator."""
    random.seed(seed)
    choices = course.track.choices()
    highest = [len(values) - 1 for values in choices.values()]
    evaluating_s, proposals = 0.0, 0

    def evaluate(genome: Genome) -> tuple[float]:
        nonlocal evaluating_s, proposals
        proposals += 1
        if proposals > PROPOSALS * course.budget:
            raise GivenUp
        before = perf_counter()
        value = course.evaluate(Point({k: v[i] for (k, v), i in zip(choices.items(), genome, strict=True)}))
        evaluating_s += perf_counter() - before
        return (inf if value is None else value,)

    toolbox = base.Toolbox()
    toolbox.register("genes", lambda: [random.randint(0, high) for high in highest])
    toolbox.register("individual", tools.initIterate, Genome, toolbox.genes)
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("evaluate", evaluate)
    toolbox.register("mate", tools.cxUniform, indpb=CROSSED)
    toolbox.register("mutate", tools.mutUniformInt, low=[0] * len(highest), up=highest, indpb=MUTATED)
    toolbox.register("select", tools.selTournament, tournsize=TOURNAMENT)
    before = perf_counter()
    try:
        population = toolbox.population(n=POPULATION)
        generations = PROPOSALS * course.budget  # never reached: a generation proposes more than one
        algorithms.eaSimple(population, toolbox, CROSSOVER, MUTATION, generations, verbose=False)
    except (FinishedRace, GivenUp):
        return
    finally:
        course.asked_s += perf_counter() - before - evaluating_s


RACERS: dict[str, Racer] = {"genetic": genetic}
