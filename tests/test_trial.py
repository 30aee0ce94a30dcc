"""Is a trial that is kept in less memory the same trial?"""

import copy
import gc
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simple import recipe_of, searched, synthetic

from optimizer.journal import line_of, trial_document, trial_from
from optimizer.recipe import Plan
from optimizer.space import Point
from optimizer.trial import (
    Artifact,
    Candidate,
    Check,
    Failed,
    Measured,
    Numbers,
    Packed,
    Reason,
    Stage,
    Trial,
    artifact_document,
    lean,
)

ARTIFACT = Artifact("k", "c", "/p", ("--a=1",), {"OMP": "2"}, ("g++",), "said", {"compile_time_s": 0.25})
MEASURED = Measured(Check({"max_rel_error": 1e-7}, {"perplexity": 3.2}), {"latency_s": (0.5, 0.25), "power_w": ()})


@given(st.dictionaries(st.text(), st.floats(allow_nan=False)))
def test_numbers_are_read_as_they_were(values: dict[str, float]) -> None:
    numbers = Numbers(values)
    assert numbers == values and dict(numbers) == values and list(numbers) == list(values)
    assert copy.deepcopy(numbers) == values  # by the protocol of pickle, which Ray sends it with
    assert numbers.get("not there", 1.5) == values.get("not there", 1.5)


def test_a_name_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Numbers({"a": 1.0})["b"]


@pytest.mark.parametrize("outcome", [MEASURED, Failed(Stage.VERIFY, Reason.WRONG, "why", same_as=0)])
@pytest.mark.parametrize("artifact", [ARTIFACT, Artifact("k", "c"), None])
def test_a_lean_trial_is_the_same_and_is_written_the_same(outcome: Measured | Failed, artifact: Artifact) -> None:
    trial = Trial(Candidate(3, Point({"b": 1, "a": "x"})), outcome, {"ask": 0.1, "build": 2.0}, artifact, 1.0, 2.0)
    kept = lean(trial)
    assert kept == trial
    assert line_of(trial_document(kept)) == line_of(trial_document(trial))
    assert trial_from(json.loads(line_of(trial_document(kept)))) == trial
    assert lean(kept) == trial


def test_readings_that_were_taken_over_are_not_copied() -> None:
    first = lean(Trial(Candidate(0, Point({})), MEASURED, {}, ARTIFACT))
    assert isinstance(first.outcome, Measured) and isinstance(first.outcome.samples, Packed)
    twin = lean(Trial(Candidate(1, Point({})), Measured(first.outcome.check, first.outcome.samples, same_as=0)))
    assert isinstance(twin.outcome, Measured)
    assert twin.outcome.samples is first.outcome.samples and twin.outcome.check.errors is first.outcome.check.errors


def test_an_artifact_is_written_with_plain_mappings() -> None:
    kept = lean(Trial(Candidate(0, Point({})), MEASURED, {}, ARTIFACT)).artifact
    assert kept is not None and isinstance(kept.facts, Numbers)
    document = json.loads(json.dumps(artifact_document(kept)))
    assert document == json.loads(json.dumps(artifact_document(ARTIFACT)))
    assert document["facts"] == {"compile_time_s": 0.25}


def test_a_trial_of_a_search_takes_less_than_four_kilobytes() -> None:
    """Of two metrics with a hundred readings each; the full figure is experiments/pipeline's."""
    plan = Plan(warmups=1, min_samples=100, max_samples=100, max_seconds=10.0, drift_every=0, give_up_early=False)
    recipe = recipe_of(plan=plan)
    searched(recipe, synthetic(), 3)  # what all trials share is there
    tracemalloc.start()
    try:
        trials, _ = searched(recipe, synthetic(), 150)
        gc.collect()
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(trials[-1].outcome, Measured) and len(trials[-1].outcome.samples["latency_s"]) >= 100
    assert kept_bytes / len(trials) < 4000
