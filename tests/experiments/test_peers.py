"""The racers of other tuners keep the race's protocol; bayes_opt is repaired where it says so, and needs to be."""

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
from simple import failed, knob, measured

from optimizer.errors import ConfigError
from optimizer.race import Course, FinishedRace, Track, raced, track_of
from optimizer.readers.recording import Recording
from optimizer.space import Choice, Point, Space
from optimizer.trial import Reason

VALUES = {"a": (1, 2, 4, 8, 16), "b": (0, 1, 2), "c": (16, 32, 64, 128), "pinned": (7,)}
BUDGET = 40
OPTUNA = ("tpe_categorical", "tpe_ordinal", "tpe_constrained", "gp", "gp_constrained", "cmaes", "nsga2")
KERNEL_TUNER = (
    "random_sample",
    "minimize",
    "basinhopping",
    "diff_evo",
    "genetic_algorithm",
    "greedy_mls",
    "ordered_greedy_mls",
    "greedy_ils",
    "mls",
    "dual_annealing",
    "pso",
    "simulated_annealing",
    "firefly_algorithm",
    "bayes_opt",
    "bayes_opt_repaired",
    "hybrid_vndx",
    "adaptive_tabu_greywolf",
    "nsga2",
    "nsga3",
)


def extra(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"needs {package}: pip install '.[race]'")


def kernel_tuner_peers() -> ModuleType:
    return importlib.import_module("kernel_tuner_peers")


@pytest.fixture(scope="module")
def track() -> Track:
    """45 of 60 combinations are recorded; every seventh of them failed."""
    space = Space(tuple(knob(name, Choice(values, ordered=len(values) > 1)) for name, values in VALUES.items()))
    grid = [Point({"a": a, "b": b, "c": c, "pinned": 7}) for a in VALUES["a"] for b in VALUES["b"] for c in VALUES["c"]]
    points = [p for p in grid if int(p["a"]) * int(p["c"]) <= 512]
    trials = tuple(
        failed(n, Reason.COMPILE if n % 2 else Reason.CRASH, p)
        if n % 7 == 3
        else measured(n, p, latency_s=1e-3 * (1 + (n * 37 % 41) / 10 + abs(int(p["a"]) - 4)))
        for n, p in enumerate(points)
    )
    return track_of("tiny", Recording("tiny", space.listing(points), trials))


def keeps_the_protocol(module: str, name: str, track: Track, budget: int = BUDGET) -> None:
    peer = importlib.import_module(module)
    asked: list[str] = []
    evaluate = Course.evaluate

    class Watched(Course):
        def evaluate(self, point: Point) -> float | None:
            value = evaluate(self, point)
            asked.append(point.key)
            return value

    runs = []
    for _ in range(2):
        asked.clear()
        course = Watched.start(track, budget)
        with suppress(FinishedRace):
            peer.RACERS[name](course, 5)
        assert 0 < len(course.curve) <= budget
        assert set(course.known) <= set(track.trials)
        assert course.asked_s > 0
        runs.append(list(asked))
    assert runs[0] == runs[1], "a seed gives the same run"
    other = raced(track, name, peer.RACERS[name], 6, budget)
    assert len(other.curve) == budget


@pytest.mark.parametrize("name", OPTUNA)
def test_an_optuna_sampler_keeps_the_protocol(name: str, track: Track) -> None:
    keeps_the_protocol("optuna_peers", name, track, budget=13 if name.startswith("gp") else BUDGET)  # it is slow


def test_a_plain_genetic_algorithm_keeps_the_protocol(track: Track) -> None:
    keeps_the_protocol("deap_peers", "genetic", track)


@pytest.mark.extra
@extra("kernel_tuner")
@pytest.mark.parametrize("name", KERNEL_TUNER)
def test_a_strategy_of_kernel_tuner_keeps_the_protocol(
    name: str, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_tuner_peers(), "PATIENCE", 300)
    needed = kernel_tuner_peers().NEEDS.get(name, ("kernel_tuner", ""))[0]
    if find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    keeps_the_protocol("kernel_tuner_peers", name, track)


@pytest.mark.extra
@extra("kernel_tuner")
def test_all_strategies_but_brute_force_are_there() -> None:
    peers = kernel_tuner_peers()
    ours = {"bayes_opt_repaired"}
    assert set(peers.STRATEGIES) - ours == set(peers.strategy_map) - {"brute_force"}
    assert set(KERNEL_TUNER) == set(peers.STRATEGIES) - {"skopt", "pyatf_strategies"}
    assert not set(peers.STRATEGIES) & set(vars(peers)), "the race looks for an attribute first"


@pytest.mark.extra
@extra("kernel_tuner")
@extra("sklearn")
@pytest.mark.parametrize(("name", "keeps_failures_out"), [("bayes_opt", False), ("bayes_opt_repaired", True)])
def test_what_bayes_opt_feeds_its_model(
    name: str, keeps_failures_out: bool, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = kernel_tuner_peers()
    fed: list[float] = []
    regressor: Any = peers.bayesian.GaussianProcessRegressor
    fit: Callable[..., Any] = regressor.fit

    def watched(self: Any, params: Any, observations: Any) -> Any:
        fed.extend(observations)
        return fit(self, params, observations)

    monkeypatch.setattr(regressor, "fit", watched)
    course = Course.start(track, BUDGET)
    peers.RACERS[name](course, 1)
    assert None in course.known.values(), "it has met a failure"
    assert len(fed) > BUDGET
    assert (max(fed) < 1e20) is keeps_failures_out
    if not keeps_failures_out:
        assert max(fed) == sys.float_info.max


@pytest.mark.extra
@extra("kernel_tuner")
def test_one_that_proposes_nothing_new_is_given_up(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = kernel_tuner_peers()
    first = next(iter(peers.replay_of(track).points))

    def tune(searchspace: Any, runner: Any, tuning_options: Any) -> None:
        ask = peers.CostFunc(searchspace, tuning_options, runner)
        while True:
            ask(first)

    monkeypatch.setattr(peers.strategy_map["mls"], "tune", tune)
    monkeypatch.setattr(peers, "PATIENCE", 100)
    course = Course.start(track, BUDGET)
    peers.RACERS["mls"](course, 1)
    assert len(course.curve) == 1


@pytest.mark.extra
@extra("kernel_tuner")
def test_a_crash_of_a_peer_is_told_and_what_it_has_is_kept(track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = kernel_tuner_peers()
    points = list(peers.replay_of(track).points)

    def tune(searchspace: Any, runner: Any, tuning_options: Any, *, asked: int) -> None:
        ask = peers.CostFunc(searchspace, tuning_options, runner)
        for point in points[:asked]:
            ask(point)
        raise ZeroDivisionError

    course = Course.start(track, BUDGET)
    monkeypatch.setattr(peers.strategy_map["mls"], "tune", lambda *words: tune(*words, asked=3))
    with pytest.warns(RuntimeWarning, match="mls crashed after 3 evaluations"):
        peers.RACERS["mls"](course, 1)
    assert len(course.curve) == 3
    monkeypatch.setattr(peers.strategy_map["mls"], "tune", lambda *words: tune(*words, asked=0))
    with pytest.raises(ConfigError, match="before its first evaluation"):
        peers.RACERS["mls"](Course.start(track, BUDGET), 1)


@pytest.mark.extra
@extra("kernel_tuner")
def test_what_cannot_race_is_told_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = kernel_tuner_peers()
    with pytest.raises(ConfigError, match="source"):
        _ = peers.pyatf_strategies
    monkeypatch.setitem(peers.NEEDS, "skopt", ("no_such_module", "scikit-optimize"))
    with pytest.raises(ConfigError, match="pip install scikit-optimize"):
        _ = peers.skopt
    with pytest.raises(AttributeError):
        _ = peers.brute_force
