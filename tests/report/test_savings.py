"""What a search saved, from trials whose numbers are known."""

from dataclasses import replace

import pytest
from simple import MIXED, recipe_of
from simple import measured as trial_of

from optimizer.journal import Study
from optimizer.recipe import Environment
from optimizer.report.markdown import markdown
from optimizer.report.savings import Saving, savings
from optimizer.trial import Artifact, Failed, Measured, Reason, Stage, Trial


def ran(number: int, measure_s: float = 2.0, build_s: float = 10.0, elapsed_s: float = 0.0, **samples: float) -> Trial:
    seconds = {"ask": 0.0, "build": build_s, "verify": 1.0, "measure": measure_s}
    trial = trial_of(number, MIXED.baseline(), latency_s=1.0, **samples)
    facts = {"compile_time_s": 10.0}
    return replace(trial, seconds=seconds, elapsed_s=elapsed_s, artifact=Artifact("k", f"c{number}", facts=facts))


def same_as(number: int, twin: int) -> Trial:
    trial = ran(number)
    assert isinstance(trial.outcome, Measured)
    return replace(trial, outcome=replace(trial.outcome, same_as=twin), seconds={"ask": 0.0, "build": 10.0})


def cached(number: int, **facts: float) -> Trial:
    trial = ran(number, build_s=0.5)
    assert trial.artifact is not None
    told = {"compile_time_s": 10.0, "build_cached": 1.0, **facts}
    return replace(trial, artifact=replace(trial.artifact, facts=told))


def by_name(trials: list[Trial]) -> dict[str, Saving]:
    return {s.what.partition(":")[0].partition(" ")[0]: s for s in savings(trials)}


def test_nothing_saved_is_nothing_told() -> None:
    trials = [ran(0, elapsed_s=13.0), ran(1, elapsed_s=26.0)]
    assert savings(trials) == []
    assert savings([]) == []


def test_the_same_code_saves_a_run() -> None:
    failed = Failed(Stage.VERIFY, Reason.WRONG, "", same_as=0)
    trials = [ran(0), ran(1, measure_s=4.0), ran(2, measure_s=4.0), same_as(3, 1), replace(ran(4), outcome=failed)]
    found = by_name(trials)["same"]
    assert (found.trials, found.seconds) == (2, 2 * 5.0)


def test_racing_saves_what_whole_measurements_take() -> None:
    trials = [ran(0, 3.0), ran(1, 3.0), ran(2, 0.5, given_up=1.0), ran(3, 4.0, given_up=1.0)]
    taken_over = replace(same_as(4, 2), outcome=replace(trials[2].outcome, same_as=2))
    found = by_name([*trials, taken_over])["hopeless"]
    assert (found.trials, found.seconds) == (2, 2.5), "the second took longer than whole ones: it saved nothing"


def test_a_build_that_was_not_made_saves_the_time_of_the_first() -> None:
    found = by_name([ran(0), cached(1), cached(2)])["built"]
    assert (found.trials, found.seconds) == (2, 19.0)
    untimed = cached(3)
    assert untimed.artifact is not None
    untimed = replace(untimed, artifact=replace(untimed.artifact, facts={"build_cached": 1.0}))
    assert by_name([ran(0), untimed])["built"].seconds is None, "ccache told no time: none is made up"


def test_builds_beside_each_other_save_what_nobody_waited_for() -> None:
    trials = [ran(0, elapsed_s=13.0), ran(1, elapsed_s=20.0), ran(2, elapsed_s=23.0)]
    found = by_name(trials)["builds"]
    assert found.trials == 3
    assert found.seconds == pytest.approx(30.0 - (23.0 - 9.0))


def test_several_devices_at_once_make_no_claim() -> None:
    assert "builds" not in by_name([ran(i, measure_s=20.0, elapsed_s=25.0) for i in range(4)])


def test_the_report_says_it() -> None:
    study = Study("s", recipe_of(MIXED), Environment("fake"), (ran(0), same_as(1, 0)))
    text = markdown(study, {})
    assert "## What was saved" in text
    assert "| same machine code as an earlier trial | 1 | 3 s |" in text
    assert "What was saved" not in markdown(replace(study, trials=(ran(0, elapsed_s=13.0),)), {})
