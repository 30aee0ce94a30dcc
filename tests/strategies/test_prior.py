"""What is known elsewhere: that it helps where it holds, and costs little where it misleads."""

from collections.abc import Mapping
from random import Random

import numpy as np
import pytest
from simple import LATENCY, MIXED, knob, recipe_of, searched, strategy_of, synthetic

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.objective import Goal, Objective
from optimizer.space import Choice, Int, Point, Space
from optimizer.strategies.candidates import Offer
from optimizer.strategies.model import ModelProposer
from optimizer.strategies.prior import Known, Prior
from optimizer.strategies.surrogate import Encoding
from optimizer.targets.synthetic import SyntheticTarget
from optimizer.trial import Measured, samples_of

LINE = Space((knob("n", Int(1, 40)), knob("kind", Choice(("a", "b")))))


def known(space: Space, seed: int = 0, count: int | None = None) -> Known:
    target = SyntheticTarget(space, seed=seed)
    points = list(Feasible(space).points())
    return Known("elsewhere", {p: target.latency_s(p) for p in points[:count]})


def offer(space: Space) -> tuple[Offer, list[Point], Encoding]:
    encoding, feasible = Encoding(space.knobs), Feasible(space)
    rows = encoding.rows(feasible.rows)
    return Offer(rows, np.ones(len(rows), dtype=bool)), list(feasible.points()), encoding


def test_the_best_of_a_source_comes_first() -> None:
    offered, points, encoding = offer(LINE)
    source = known(LINE)
    best = points[Prior([source], encoding).best(offered, 0)]
    assert source.losses[best] == min(v for v in source.losses.values() if v is not None)


def test_what_a_source_did_not_record_is_guessed_from_what_it_did() -> None:
    offered, points, encoding = offer(LINE)
    losses = {p: 1.0 + abs(int(p["n"]) - 20) for p in points if int(p["n"]) % 3}
    expected = dict(zip(points, Prior([Known("some", losses)], encoding)._told(offered.rows)[0], strict=True))
    unknown = [p for p in points if p not in losses]
    order = sorted(unknown, key=lambda p: expected[p])
    assert abs(int(order[0]["n"]) - 20) <= 2
    assert abs(int(order[-1]["n"]) - 20) >= 16


def test_a_failure_elsewhere_is_as_bad_as_the_worst() -> None:
    offered, points, encoding = offer(LINE)
    losses: dict[Point, float | None] = {p: float(int(p["n"])) for p in points}
    losses[Point({"n": 1, "kind": "a"})] = None
    told = dict(zip(points, Prior([Known("failing", losses)], encoding)._told(offered.rows)[0], strict=True))
    assert told[Point({"n": 1, "kind": "a"})] == max(told.values())


@pytest.mark.parametrize("agrees", [True, False])
def test_a_source_is_weighed_by_how_well_it_tells(agrees: bool) -> None:
    offered, points, encoding = offer(LINE)
    source = known(LINE)
    seen = Random(0).sample(range(len(points)), 20)
    told = np.array([source.losses[points[i]] for i in seen], dtype=float)
    losses = np.log(told) if agrees else -np.log(told)
    told_of = Prior([source], encoding).expected(offered.rows[seen], losses, offered.rows)
    order = np.array([source.losses[p] for p in points], dtype=float)
    if agrees:
        assert told_of is not None
        assert np.corrcoef(told_of[1], np.log(order))[0, 1] > 0.8
        assert np.ptp(told_of[1]) > 0
    else:
        assert told_of is None, "what is the other way round has no weight"


def test_chance_agreement_has_no_weight() -> None:
    offered, points, encoding = offer(LINE)
    weightless = 0
    for seed in range(20):
        losses = dict.fromkeys(points, 0.0) | {p: Random(f"{seed} {p.key}").random() + 0.1 for p in points}
        seen = Random(seed).sample(range(len(points)), 20)
        measured = np.array([Random(f"other {seed} {i}").random() for i in seen])
        prior = Prior([Known("noise", losses)], encoding)
        weightless += prior.expected(offered.rows[seen], measured, offered.rows) is None
    assert weightless >= 15


def evaluations_to(share: float, seed: int, prior: Mapping[Point, float | None] | None) -> int:
    """How many evaluations until within `share` of the optimum of the synthetic function on MIXED."""
    recipe = recipe_of(MIXED, seed=seed)
    sources = [Known("elsewhere", prior)] if prior else []
    proposer = ModelProposer(Feasible(MIXED), len(LATENCY.objectives), seed, prior=sources)
    trials, _ = searched(recipe, synthetic(MIXED), 60, strategy=strategy_of(recipe, proposer))
    least = min(SyntheticTarget(MIXED).latency_s(p) for p in Feasible(MIXED).points())
    values = [samples_of(t)["latency_s"][0] if isinstance(t.outcome, Measured) else np.inf for t in trials]
    return next((i for i, v in enumerate(values, start=1) if v <= least * (1 + share)), len(values))


def test_a_prior_saves_evaluations_and_one_that_misleads_costs_few() -> None:
    target = SyntheticTarget(MIXED)
    truth = {p: target.latency_s(p) for p in Feasible(MIXED).points()}
    order = sorted(truth, key=lambda p: truth[p])
    inverted: dict[Point, float | None] = dict(zip(order, sorted(truth.values(), reverse=True), strict=True))
    stretched: dict[Point, float | None] = {p: v**1.3 for p, v in truth.items()}
    seeds = range(4)
    without = [evaluations_to(0.05, s, None) for s in seeds]
    helped = [evaluations_to(0.05, s, stretched) for s in seeds]
    misled = [evaluations_to(0.05, s, inverted) for s in seeds]
    assert max(helped) <= 3, "the baseline, then what the prior calls best"
    assert sum(misled) <= sum(without) + 8 * len(seeds)


def test_too_little_and_several_objectives_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"empty holds 0 measured points of this space"):
        Prior([Known("empty", {Point({"n": 1, "kind": "a"}): None})], Encoding(LINE.knobs))
    two = Goal((Objective("latency_s"), Objective("peak_memory_bytes")))
    with pytest.raises(ConfigError, match="one objective"):
        ModelProposer(Feasible(LINE), len(two.objectives), 0, prior=[known(LINE)])


def test_a_recipe_names_what_was_known() -> None:
    assert known(LINE).document() == known(LINE).document()
    assert known(LINE).document() != known(LINE, count=10).document()
