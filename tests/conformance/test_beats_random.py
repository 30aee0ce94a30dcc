"""TPE and the genetic search beat random search; experiments/strategies has the long form."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest
from compare import PROBLEMS, best_found, p_value

SEEDS, TRIALS = 20, 60


@pytest.mark.parametrize("problem", PROBLEMS)
def test_strategies_that_learn_beat_random_search(problem: str) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        bests = {
            strategy: list(pool.map(partial(best_found, problem, strategy, TRIALS), range(SEEDS)))
            for strategy in ("random", "tpe", "genetic")
        }
    for strategy in ("tpe", "genetic"):
        assert p_value(bests[strategy], bests["random"]) < 0.01, strategy
