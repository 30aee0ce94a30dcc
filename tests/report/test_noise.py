"""What a report says of an unsteady machine, each with its remedy, and that it is silent on a steady one."""

from collections.abc import Mapping
from dataclasses import replace
from random import Random

import pytest
from simple import MIXED, measured, recipe_of

from optimizer.journal import Study
from optimizer.protocols import Ending
from optimizer.recipe import Environment
from optimizer.report.noise import noise_warnings
from optimizer.report.verdict import verdict_line
from optimizer.space import Json
from optimizer.stats import Judgement, Verdict
from optimizer.trial import Measured, Samples, Trial

POINT = MIXED.baseline()
NOISE: Mapping[str, Json] = {"pct": 2.0, "rounds": 10, "target": "gemm_cpu"}
RANDOM = Random(0)


def readings(median_s: float, count: int = 30, spread: float = 0.004) -> tuple[float, ...]:
    return tuple(median_s * (1 + RANDOM.gauss(0, spread)) for _ in range(count))


def trial(number: int, samples: Samples) -> Trial:
    one = measured(number, POINT, latency_s=1.0)
    assert isinstance(one.outcome, Measured)
    return replace(one, outcome=replace(one.outcome, samples=samples))


def study(
    *trials: Trial, ratio: float | None = None, noise: Json = None, drift: Mapping[int, Samples] | None = None
) -> Study:
    verdict = Verdict("latency_s", ratio, 0.9, 1.1, Judgement.BETTER, 1, 10) if ratio is not None else None
    here = Environment("x", host={"noise": noise} if noise else {})
    return Study("s", recipe_of(MIXED), here, trials, tuple((drift or {}).items()), Ending(verdict))


def steady(count: int) -> list[Trial]:
    return [trial(n, {"latency_s": readings(1.0)}) for n in range(count)]


def test_a_steady_machine_is_not_spoken_of() -> None:
    assert noise_warnings(study(*steady(60), drift={n: {"latency_s": readings(1.0)} for n in (20, 40)})) == []


def test_a_small_drift_is_told_where_it_is_sure() -> None:
    moved = {20: {"latency_s": readings(1.0)}, 40: {"latency_s": readings(1.03)}}
    [told] = noise_warnings(study(*steady(50), drift=moved))
    assert "after trial 40" in told and "1 of 2 such readings" in told and "warm up" in told
    assert noise_warnings(study(*steady(50), noise={**NOISE, "pct": 5.0}, drift=moved)) == [], (
        "less than the machine's own"
    )


def test_readings_around_two_values_are_told_with_both() -> None:
    both = (*readings(1.0, 20), *readings(1.2, 20))
    trials = [trial(0, {"latency_s": both}), *steady(30)[1:]]
    told = " ".join(noise_warnings(study(*trials)))
    assert "around two values in 1 of 30 trials" in told and "1.2 s" in told and "measure.cpus" in told
    rare = [*steady(30)[:29], trial(29, {"latency_s": both})]
    slower = [replace(t, outcome=replace(t.outcome, samples={"latency_s": readings(0.5)})) if t.number == 1 else t
              for t in rare if isinstance(t.outcome, Measured)]  # fmt: skip
    assert noise_warnings(study(*slower)) == [], "one of thirty that nobody looks at is left alone"


def test_heat_is_counted() -> None:
    hot = [trial(n, {"latency_s": readings(1.0), "throttled_pct": (100.0 * (n > 6),)}) for n in range(10)]
    [told] = noise_warnings(study(*hot))
    assert "3 of 10 trials" in told and "Cool the machine" in told


def test_medians_that_are_not_known_well_are_told() -> None:
    wide = [trial(n, {"latency_s": readings(1.0, 10, 0.2)}) for n in range(10)]
    told = " ".join(noise_warnings(study(*wide)))
    assert "10 of 10 trials" in told and "measure=thorough" in told


@pytest.mark.parametrize(("ratio", "spoken_of"), [(1.015, True), (0.985, True), (1.05, False), (1.0, False)])
def test_a_gain_below_the_machine_s_own_is_none(ratio: float, spoken_of: bool) -> None:
    told = noise_warnings(study(*steady(10), ratio=ratio, noise=NOISE))
    assert any("can't be told from 1" in text for text in told) is spoken_of
    assert noise_warnings(study(*steady(10), ratio=ratio)) == [], "none was measured"


def test_the_verdict_says_what_can_be_told() -> None:
    same = Ending(Verdict("latency_s", 1.004, 0.99, 1.01, Judgement.SAME, 1, 10))
    line = verdict_line(replace(study(*steady(3), noise=NOISE), ending=same))
    assert "±2 %" in line and "gemm_cpu against itself" in line
    assert "±" not in verdict_line(replace(study(*steady(3)), ending=same))


@pytest.mark.parametrize("noise", ["x", [], {"pct": "2"}, {"pct": None}, {}, {"pct": float("inf")}])
def test_a_record_of_another_shape_is_as_good_as_none(noise: Json) -> None:
    assert noise_warnings(study(*steady(3), ratio=1.001, noise=noise)) == []


def test_unsteady_clocks_are_spoken_of_only_where_something_was_unsteady() -> None:
    quiet = study(*steady(10))
    clocks = replace(quiet.environment, host={"governor": "powersave"})
    assert noise_warnings(replace(quiet, environment=clocks)) == []
    hot = trial(0, {"latency_s": readings(1.0), "throttled_pct": (100.0,)})
    told = noise_warnings(replace(quiet, environment=clocks, trials=(hot, *quiet.trials[1:])))
    assert "cpupower" in told[-1]
