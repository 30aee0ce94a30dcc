"""Our own strategy: what its model learns, and its face to Optuna."""

import math
from random import Random
from statistics import NormalDist

import numpy as np
import optuna
import pytest
from simple import LATENCY, MIXED, SWITCHES, constraints, knob

from optimizer.feasible import Feasible
from optimizer.objective import Score
from optimizer.space import Choice, Float, Int, Space
from optimizer.strategies.auto import AutoSampler
from optimizer.strategies.model import ModelProposer, log_expected_improvement, normal_share
from optimizer.strategies.surrogate import SQRT5, Encoding, Numbers, Surrogate, compressed


def test_distances_are_the_kernels_terms() -> None:
    """Two categories that differ are 1 apart; ordinal places are squared differences; what is equal is 0 apart."""
    space = Space((knob("tile", Choice((16, 32, 48, 64), ordered=True)), knob("layout", Choice(("row", "col")))))
    feasible = Feasible(space)
    encoding = Encoding(space.knobs)
    rows = encoding.rows(feasible.rows)
    points = list(feasible.points())
    a, b = (next(i for i, p in enumerate(points) if p["tile"] == t and p["layout"] == "row") for t in (16, 64))
    squares = np.zeros(encoding.terms)
    np.add.at(squares, encoding.term, (rows[a] - rows[b]).astype(float) ** 2)
    # tile: from one end to the other (log2); layout, a switch; tile's halvings: 4 of 16 against 6 of 64, of a range of
    # 2; its category
    assert squares == pytest.approx([1.0, 0.0, 1.0, 1.0])
    assert encoding.points([points[a]])[0] == pytest.approx(rows[a])


def test_the_posterior_agrees_with_the_formulas() -> None:
    """Rasmussen and Williams 2006, eq. 2.23 and 2.24, written plainly."""
    space = Space((knob("x", Int(1, 3)), knob("y", Int(1, 3))))
    encoding = Encoding(space.knobs)
    rows = encoding.rows(Feasible(space).rows)
    seen, at, y = rows[:5], rows[5:], np.array([0.3, -1.0, 0.2, 1.1, -0.6])
    scale = np.sqrt(np.exp(encoding.prior))[encoding.term]

    def kernel(a: Numbers, b: Numbers) -> Numbers:
        r = np.linalg.norm((a * scale)[:, None] - (b * scale)[None], axis=2)
        return np.asarray((1 + SQRT5 * r + 5 / 3 * r**2) * np.exp(-SQRT5 * r))

    inverse = np.linalg.inv(kernel(seen, seen) + (0.01 + 1e-6) * np.eye(5))
    mean = kernel(at, seen) @ inverse @ y
    deviation = np.sqrt(1 - np.einsum("ij,jk,ik->i", kernel(at, seen), inverse, kernel(at, seen)))
    for parts in ([seen], [seen[:2], seen[2:]], [seen[i : i + 1] for i in range(5)]):
        outlook = Surrogate(encoding).outlook(at, noise=0.01, signal=1.0)
        for part in parts:
            outlook.observe(part)
        found = outlook.posterior(y)
        assert found[0] == pytest.approx(mean, abs=1e-3)
        assert found[1] == pytest.approx(deviation, abs=1e-3)


def test_what_is_waited_for_counts_as_expected() -> None:
    """The mean stays as it was; only the doubt shrinks (Kriging believer)."""
    space = Space((knob("x", Int(1, 8)),))
    encoding = Encoding(space.knobs)
    rows = encoding.rows(Feasible(space).rows)
    outlook = Surrogate(encoding).outlook(rows)
    outlook.observe(rows[:2])
    mean, deviation = outlook.posterior(np.array([0.5, -1.0]))
    outlook.observe(rows[5:6])
    after, surer = outlook.posterior(np.array([0.5, -1.0]))
    assert after == pytest.approx(mean, abs=1e-6)
    assert surer[5] < 0.1 * deviation[5]


def test_fitting_finds_the_knob_that_matters() -> None:
    space = Space((knob("matters", Int(1, 16)), knob("idle", Int(1, 16))))
    feasible = Feasible(space)
    encoding = Encoding(space.knobs)
    some = np.random.default_rng(0).choice(256, 40, replace=False)
    x = encoding.rows(feasible.rows[some])
    y = np.sin(feasible.rows[some][:, 0] / 3.0)
    surrogate = Surrogate(encoding)
    surrogate.fit(x, (y - y.mean()) / y.std(), steps=60)
    near = feasible.rows[[0, 15]].copy()
    base = encoding.rows(near[:1])
    moved = {name: near[:1].copy() for name in ("matters", "idle")}
    moved["matters"][0, 0], moved["idle"][0, 1] = 12, 12
    weights = np.exp(surrogate._weights.terms)[encoding.term]
    far = {n: float((weights * (encoding.rows(m) - base)[0] ** 2).sum()) for n, m in moved.items()}
    assert far["matters"] > 10 * far["idle"]


def test_expected_improvement_is_the_integral() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(0.5, 0.8, 400_000)
    expected = np.maximum(0.2 - drawn, 0).mean()
    found = log_expected_improvement(np.array([0.5]), np.array([0.8]), 0.2)[0]
    assert math.exp(found) == pytest.approx(expected, rel=0.01)
    far = log_expected_improvement(np.array([3.8, 3.95, 4.05, 4.2, 60.0]), np.ones(5), 0.0)
    assert np.isfinite(far).all()
    assert (np.diff(far) < 0).all()
    assert far[1] - far[2] == pytest.approx((far[0] - far[3]) / 4, abs=0.05), "no step where the asymptote begins"
    z = np.linspace(-6, 6, 101)
    assert normal_share(z) == pytest.approx([NormalDist().cdf(v) for v in z], abs=1e-7)


def test_losses_become_ratios_whatever_their_sign() -> None:
    slow = compressed(np.array([1.0, 2.0, 4.0]))
    assert slow == pytest.approx(compressed(np.array([10.0, 20.0, 40.0])))
    assert slow[0] == 0.0
    assert compressed(np.array([-4.0, -2.0, -1.0])) == pytest.approx(slow), "tokens a second, maximised"
    assert np.isfinite(compressed(np.array([-1.0, 0.0, 2.0]))).all()
    assert (compressed(np.array([3.0, 3.0])) == 0).all()


def best_of(space: Space, seed: int, count: int, batch: int = 1, *, random: bool = False) -> float:
    """The least loss that the proposer finds of a function of many switches or of numbers."""
    from simple import recipe_of, searched, strategy_of, synthetic

    from optimizer.trial import Measured, samples_of

    recipe = recipe_of(space, ahead=batch, seed=seed)
    proposer = None if random else ModelProposer(Feasible(space), len(LATENCY.objectives), seed)
    found, _ = searched(recipe, synthetic(space), count, strategy=strategy_of(recipe, proposer))
    points = [t.point for t in found]
    assert all(p in space for p in points)
    assert len(set(points)) == len(points)
    return min(samples_of(t)["latency_s"][0] for t in found if isinstance(t.outcome, Measured))


@pytest.mark.parametrize("space", [SWITCHES, Space((knob("x", Float(0.0, 1.0)), knob("n", Int(1, 64, log=True))))])
def test_spaces_that_cannot_be_listed_are_searched(space: Space) -> None:
    from simple import recipe_of, searched, synthetic

    from optimizer.trial import samples_of

    ours = [best_of(space, seed, 60) for seed in range(3)]
    random = []
    for seed in range(3):
        found, _ = searched(recipe_of(space, seed=seed), synthetic(space), 60)
        random.append(min(samples_of(t)["latency_s"][0] for t in found))
    assert sum(map(math.log, ours)) < sum(map(math.log, random))


def test_a_space_of_a_billion_is_searched_with_its_constraints() -> None:
    """Bred, not listed: every point valid, none twice, better than random."""
    knobs = (*tuple(knob(f"k{i}", Int(1, 8)) for i in range(10)), knob("s", Choice(("x", "y", "z")), when="k0 > 4"))
    space = Space(knobs, constraints(few="k0 * k1 * k2 <= 64"))
    assert (Feasible(space).count or 0) > 10**8
    assert sum(math.log(best_of(space, seed, 60)) for seed in range(2)) < sum(
        math.log(best_of(space, seed, 60, random=True)) for seed in range(2)
    )


@pytest.mark.parametrize("batch", [4, 16])
def test_asking_for_several_at_once_finds_what_one_at_a_time_does_not_miss_by_much(batch: int) -> None:
    single = sum(math.log(best_of(MIXED, seed, 48)) for seed in range(4))
    several = sum(math.log(best_of(MIXED, seed, 48, batch)) for seed in range(4))
    assert several / 4 < single / 4 + math.log(1.15)


def test_a_batch_holds_no_point_twice() -> None:
    feasible = Feasible(MIXED)
    proposer = ModelProposer(feasible, 1, 0)
    rng = Random(0)
    for _ in range(3):
        batch = []
        for _ in range(16):
            point = proposer.propose()
            assert point is not None
            proposer.accept(point)
            batch.append(point)
        assert len(set(batch)) == 16
        for point in batch:
            proposer.learn(point, Score((1.0 + rng.random(),), 0.0))


# --- Optuna


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -5, 5)
    n = trial.suggest_int("n", 1, 64, log=True)
    c = trial.suggest_categorical("c", ["a", None, "c"])
    tile = trial.suggest_categorical("tile", [16, 32, 64])
    s = trial.suggest_float("s", 0, 1, step=0.25)
    if c == "c" and n > 40:
        raise optuna.TrialPruned
    return (x - 1) ** 2 + (n - 12) ** 2 / 50 + (c != "a") + abs(tile - 32) / 16 + abs(s - 0.5)


def best_value(sampler: optuna.samplers.BaseSampler, count: int = 40) -> float:
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=count)
    return study.best_value


def test_the_sampler_beats_random_sampling() -> None:
    ours = [best_value(AutoSampler(seed=seed)) for seed in range(3)]
    random = [best_value(optuna.samplers.RandomSampler(seed=seed)) for seed in range(3)]
    assert sum(ours) < 0.7 * sum(random)


def test_the_sampler_is_stable_by_its_seed() -> None:
    assert best_value(AutoSampler(seed=4), 20) == best_value(AutoSampler(seed=4), 20)


def test_the_sampler_takes_trials_of_others_into_account() -> None:
    study = optuna.create_study(sampler=AutoSampler(seed=0))
    study.enqueue_trial({"x": 1.0, "n": 12, "c": "a", "tile": 32, "s": 0.5})
    study.optimize(objective, n_trials=20)
    assert study.best_value == 0.0


def constrained(seed: int) -> list[float]:
    """The x that are tried where less is better by both objectives, but nothing below 0.3 keeps the limit."""

    def two(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("limit", 0.3 - x)
        return x, (1 - x) ** 2

    sampler = AutoSampler(seed=seed, constraints_func=lambda t: (t.user_attrs["limit"],))
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    study.optimize(two, n_trials=30)
    return [t.params["x"] for t in study.trials]


@pytest.mark.parametrize("seed", range(4))
def test_several_objectives_and_constraints(seed: int) -> None:
    tried = constrained(seed)
    assert min(x for x in tried if x >= 0.3) < 0.32, "the best lies where the limit begins"
    assert all(x > 0.2 for x in tried[15:]), "what breaks it by much is left alone once that is known"


def test_a_space_that_is_tried_out_goes_on_at_random() -> None:
    study = optuna.create_study(sampler=AutoSampler(seed=0))
    study.optimize(lambda t: t.suggest_int("n", 1, 4), n_trials=10)
    assert {t.params["n"] for t in study.trials} == {1, 2, 3, 4}
