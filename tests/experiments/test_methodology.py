"""The community's score on a small space: random search near 0, a strategy that knows the optimum above it."""

import json
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import methodology
import numpy as np
import pytest
from methodology import Entrant, Scores, document_of, evaluations, experiment, prepared, run, scores_of, t1_of, t4_of

from optimizer.errors import ConfigError
from optimizer.space import Json

needs_packages = pytest.mark.skipif(
    find_spec("autotuning_methodology") is None, reason="needs the package autotuning_methodology (extra: race)"
)
KNOWING = """
class Knowing:
    def __call__(self, func, searchspace):
        for config in sorted(searchspace.list, key=lambda c: abs(c[0] - 20) + c[1]):
            func(config)
"""


def recorded(seed: int = 0) -> Json:
    """600 configurations: the optimum at x=20, y=0; where the sum can be divided by 7 it failed to compile."""
    rng = np.random.default_rng(seed)
    names = ["x", "y"]
    values = {"x": list(range(40)), "y": list(range(20))}
    cache = {}
    for x, y in product(*values.values()):
        if (x + y) % 4 == 3:
            continue
        entry: Json = {"x": x, "y": y, "compile_time": float(rng.uniform(800, 1200)), "benchmark_time": 80.0}
        if (x + y) % 7 == 6:
            entry |= {"time": "CompilationFailedConfig", "__error__": "CompilationFailedConfig", "benchmark_time": 0.0}
        else:
            time_ms = 1.0 + 0.1 * abs(x - 20) + 0.2 * y + float(rng.uniform(0, 2))
            entry |= {"time": time_ms, "times": [time_ms] * 8}
        cache[f"{x},{y}"] = entry
    return {
        "device_name": "none",
        "kernel_name": "hill",
        "problem_size": [64],
        "tune_params_keys": names,
        "tune_params": values,
        "objective": "time",
        "cache": cache,
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hill-none.json"
    path.write_text(json.dumps(recorded()), encoding="utf-8")
    return path


def test_the_condition_lists_what_was_recorded() -> None:
    document = recorded()
    [condition] = t1_of(document, "hill.cu")["ConfigurationSpace"]["Conditions"]
    kept = [
        (x, y)
        for x, y in product(document["tune_params"]["x"], document["tune_params"]["y"])
        if eval(condition["Expression"], {"x": x, "y": y})
    ]
    assert {f"{x},{y}" for x, y in kept} == set(document["cache"])


def test_a_failure_stays_one() -> None:
    document = recorded()
    for entry in document["cache"].values():
        entry["verification_time"] = 0.0
    results = {tuple(r["configuration"].values()): r for r in t4_of(document)["results"]}
    assert results[6, 0]["invalidity"] == "compile"
    assert results[6, 0]["measurements"][0]["value"] == "CompilationFailedConfig"
    assert results[0, 0]["invalidity"] == "correct"


def test_a_space_where_random_search_is_off_is_left_out() -> None:
    right = Scores("right", {methodology.RANDOM: np.full(10, 0.05), "s": np.full(10, 0.5)}, 100)
    wrong = Scores("wrong", {methodology.RANDOM: np.full(10, -0.4), "s": np.full(10, 0.9)}, 100)
    told = document_of([right, wrong], 0.1)
    assert told["s"] == {"score": 0.5, "error": 0.0, "spaces": {"right": 0.5}, "left_out": {"wrong": 0.9}}
    with pytest.raises(ConfigError, match="Random search scores further"):
        document_of([wrong], 0.1)


def test_a_wrong_name_fails_before_the_first_run() -> None:
    with pytest.raises(ConfigError, match="no strategy 'genetik'"):
        methodology.entrants_of(["genetik"], 25, 100)


@pytest.mark.extra
@needs_packages
@pytest.mark.filterwarnings("ignore")
def test_random_search_scores_about_nothing_and_knowing_scores_more(file: Path, tmp_path: Path) -> None:
    course = prepared(file, tmp_path / "work")
    assert evaluations(course, 0.95) >= methodology.SHORTEST
    adapter = tmp_path / "knowing.py"
    adapter.write_text(KNOWING, encoding="utf-8")

    class Knowing(Entrant):
        def document(self) -> Json:
            told = {"search_method": "Knowing", "custom_search_method_path": str(adapter)}
            return {**super().document(), **told}

    entrants = [Entrant(methodology.RANDOM, 25), Entrant("genetic", 3), Knowing("kt:knowing", 3)]
    for entrant in entrants:
        assert run(course, entrant, 0.95) is not None
    assert run(course, entrants[0], 0.95) is None, "its runs are kept"
    assert experiment(course, entrants, 0.95).is_file()
    means = {name: float(np.mean(curve)) for name, curve in scores_of(course, entrants, 0.95).curves.items()}
    assert abs(means[methodology.RANDOM]) < 0.4, means
    assert means["kt:knowing"] > means[methodology.RANDOM] + 0.2, means
    assert np.isfinite(means["genetic"])
