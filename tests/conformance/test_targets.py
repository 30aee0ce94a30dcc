"""Every target against the same contract. A new target is one line in TARGETS."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from random import Random

import pytest

from optimizer.config import Setup, load
from optimizer.config.native import found_compilers
from optimizer.metrics import METRICS
from optimizer.trial import Check, Measured, TrialError, metrics_of

TODAY = date(2026, 11, 24)
RECORDED = ("compile_time_s", "latency_s", "throughput_ips", "peak_memory_bytes")
"""What every trial of every target records."""

TARGETS: Mapping[str, list[str]] = {
    "synthetic": [],
    "gemm_cpu": ["target.options.m=64", "target.options.n=48", "target.options.k=80"],
    "conv_cpu": ["target.options.n=1", "target.options.h=12", "target.options.w=10"],
    "mlp_cpu": [],
    "mlp": ["space=[torch_backend]", "space.backend=choice(eager,torchscript)", "target.cache=FOLDER"],
    "decoder_cpu": ["target.options.eval-tokens=400", "target.options.check-tokens=70"],
}


def setup(name: str, folder: Path, *words: str) -> Setup:
    own = [word.replace("FOLDER", str(folder)) for word in TARGETS[name]]
    made = load([f"target={name}", f"studies_dir={folder}", "study=s", *own, *words], [], TODAY)
    made.made.prepare()
    return made


@pytest.fixture(scope="module", params=TARGETS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    if request.param != "synthetic" and not found_compilers():
        pytest.skip("needs a C++ compiler")
    return setup(request.param, tmp_path_factory.mktemp(request.param))


def test_the_baseline_builds_is_right_and_reports_what_the_goal_needs(made: Setup) -> None:
    target = made.made.target
    artifact = target.build(made.recipe.start[0])
    with target.open(artifact) as runner:
        check = runner.verify()
        samples = runner.run(3)
    assert isinstance(check, Check)
    assert check.errors
    for metric in ("latency_s", "throughput_ips"):
        assert len(samples[metric]) == 3
        assert min(samples[metric]) > 0
    known = {*artifact.facts, *runner.facts, *check.errors, *check.quality, *samples}
    assert set(RECORDED) <= known
    assert {o.metric for o in made.recipe.goal.objectives} | {x.metric for x in made.recipe.goal.limits} <= known


def test_its_metrics_have_the_names_that_everybody_uses(made: Setup) -> None:
    own = {"flop", "bytes_moved", "parameters", "sparsity_pct"}
    target = made.made.target
    artifact = target.build(made.recipe.start[0])
    with target.open(artifact) as runner:
        check, samples = runner.verify(), runner.run(1)
    for name in {*artifact.facts, *runner.facts, *check.quality, *samples}:
        assert name in METRICS or name in own, f"{name} is neither in optimizer/metrics.py nor a fact of its own"
    assert all(name.startswith("max_rel_error") for name in check.errors)


def test_a_point_is_built_from_its_values_alone(made: Setup) -> None:
    target, point = made.made.target, made.recipe.start[0]
    one, two = target.build(point), target.build(point)
    assert (one.key, one.identity) == (two.key, two.identity)
    assert made.made.target.fingerprint() == setup(made.recipe.target.name, made.studies_dir).made.target.fingerprint()


def test_points_of_its_space_work_or_fail_as_trials(made: Setup) -> None:
    """Nothing but a TrialError may come of a valid point, and what runs is right."""
    rng, right = Random(7), 0
    for point in [*made.recipe.start[1:], *(made.feasible.sample(rng) for _ in range(6))]:
        try:
            artifact = made.made.target.build(point)
            with made.made.target.open(artifact) as runner:
                runner.verify()
                runner.run(1)
            right += 1
        except TrialError as error:
            assert error.log
    assert right >= 4


def test_what_it_says_of_itself_fits_on_a_line(made: Setup) -> None:
    from optimizer.config import files

    text = files().text(f"target/{made.recipe.target.name}")["target"]["text"]
    assert 10 < len(text) < 110


def test_a_short_search_records_every_metric(made: Setup) -> None:
    import time

    from simple import Tape

    from optimizer.executors.local import InlineExecutor
    from optimizer.measure import LiveMeter
    from optimizer.recipe import Budget
    from optimizer.study import Bench, search

    meter = LiveMeter(made.made.device, made.recipe.plan, made.recipe.goal, time.perf_counter)
    bench = Bench(made.made.target, made.made.device, InlineExecutor(), meter)
    trials = list(search(made.recipe, made.strategy(), bench, Budget(trials=2), listeners=[Tape()]))
    assert isinstance(trials[0].outcome, Measured)
    assert set(RECORDED) <= metrics_of(trials[0]).keys()
