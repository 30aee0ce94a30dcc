"""The report: what it says of a study, and that it says nothing that the study does not."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simple import MIXED, failed, limit, measured, recipe_of, searched, synthetic

from optimizer.journal import Journal, Settings, Study, read
from optimizer.objective import Goal, Objective
from optimizer.protocols import Ending
from optimizer.recipe import Environment, Recipe
from optimizer.report import markdown as rendering
from optimizer.report.importance import importance, shares_of
from optimizer.report.overview import overview
from optimizer.stats import Judgement, Verdict
from optimizer.trial import Candidate, Measured, Reason, Trial, samples_of

HERE = Environment("a processor", "", {"g++": "g++ 12"}, {"cores": 2}, "abc")


def markdown(study: Study) -> str:
    return rendering.markdown(study, shares_of(study))


def study_of(tmp_path: Path, recipe: Recipe, trials: Sequence[Trial], ending: Ending | None = None) -> Study:
    """Written and read again: a report is of what a journal says."""
    path = tmp_path / "s" / "journal.jsonl"
    with Journal.create(path, "s", recipe, HERE, Settings()) as journal:
        for trial in trials:
            journal.on_trial(trial)
        if ending is not None:
            journal.on_end(ending)
    return read(path)


def section(text: str, title: str) -> str:
    found = [part for part in text.split("\n## ") if part.startswith(title)]
    assert len(found) == 1, f"{title} in\n{text}"
    return found[0]


def test_a_proved_winner_is_told_with_its_interval(tmp_path: Path) -> None:
    recipe = recipe_of(MIXED)
    trials, _ = searched(recipe, synthetic(failing=0.3), 30)
    best = min((t for t in trials if isinstance(t.outcome, Measured)), key=lambda t: samples_of(t)["latency_s"])
    ending = Ending(Verdict("latency_s", 2.0, 1.9, 2.1, Judgement.BETTER, best.number, 10), seconds={"build": 12.0})
    text = markdown(study_of(tmp_path, recipe, trials, ending))
    assert f"**Better**: trial {best.number} gains 2.000× in latency_s (95% interval 1.900 to 2.100" in text
    rows = section(text, f"Trial {best.number} against the baseline")
    base, mine = (samples_of(t)["latency_s"][0] for t in (trials[0], best))
    ratio = next(line for line in rows.splitlines() if line.startswith("| latency_s |")).split("|")[-2]
    assert abs(float(ratio) - mine / base) < 0.01
    changed = {k for k in best.point if best.point[k] != trials[0].point.get(k)}
    told = {
        line.split("|")[1].strip() for line in section(text, "What it does otherwise").splitlines()[4:] if "|" in line
    }
    assert changed <= told
    assert "12 s" in section(text, "Effort")


def test_the_summary_begins_with_the_verdict_and_ends_with_the_winner(tmp_path: Path) -> None:
    recipe = recipe_of(MIXED)
    trials, _ = searched(recipe, synthetic(), 12)
    better = Ending(Verdict("latency_s", 2.0, 1.9, 2.1, Judgement.BETTER, 5, 10))
    found = overview([study_of(tmp_path / "a", recipe, trials, better)], "t").summary
    assert found[1].startswith("Better: trial 5 gains 2.000×")
    assert found[-1].startswith("First of all: ship trial 5 of ")
    same = replace(better, verdict=Verdict("latency_s", 1.0, 0.9, 1.1, Judgement.SAME, 5, 10))
    found = overview([study_of(tmp_path / "b", recipe, trials, same)], "t").summary
    assert found[1].startswith("Same: the leading finalist, trial 5")
    assert not any("ship" in line for line in found)


def test_failures_and_broken_limits_are_counted(tmp_path: Path) -> None:
    goal = Goal((Objective("latency_s"),), (limit("peak_memory_bytes", "max", 100.0),))
    recipe = recipe_of(MIXED, goal=goal)
    point = MIXED.baseline()
    trials = [
        measured(0, point, latency_s=2.0, peak_memory_bytes=50.0),
        *(measured(n, point, latency_s=1.0, peak_memory_bytes=1000.0) for n in (1, 2, 3)),
        failed(4, Reason.COMPILE, point, "$ g++ x.cpp\nx.cpp:1: error: no | such thing\n"),
        failed(5, Reason.COMPILE, point, "other"),
    ]
    rows = section(markdown(study_of(tmp_path, recipe, trials)), "Trials that can't win")
    assert "| compile (build) | 2 | 4: x.cpp:1: error: no \\| such thing |" in rows
    assert "| breaks the limit on peak_memory_bytes | 3 |" in rows


def test_a_limit_breaker_is_not_reported_as_the_best(tmp_path: Path) -> None:
    goal = Goal((Objective("latency_s"),), (limit("peak_memory_bytes", "max", 100.0),))
    trials = [
        measured(0, MIXED.baseline(), latency_s=2.0, peak_memory_bytes=50.0),
        measured(1, MIXED.baseline(), latency_s=0.1, peak_memory_bytes=1000.0),
    ]
    text = markdown(study_of(tmp_path, recipe_of(MIXED, goal=goal), trials))
    assert "**Unconfirmed**: trial 0 is the best as measured" in text


def test_a_front_lists_what_is_not_dominated(tmp_path: Path) -> None:
    goal = Goal((Objective("latency_s"), Objective("peak_memory_bytes")))
    point = MIXED.baseline()
    values = [(2.0, 50.0), (1.0, 80.0), (1.5, 90.0), (3.0, 10.0)]
    trials = [measured(n, point, latency_s=a, peak_memory_bytes=b) for n, (a, b) in enumerate(values)]
    rows = section(markdown(study_of(tmp_path, recipe_of(MIXED, goal=goal), trials)), "Pareto front (3 points)")
    assert {line.split("|")[1].strip() for line in rows.splitlines()[4:]} >= {"0", "1", "3"}
    assert "| 2 |" not in rows


def test_a_baseline_that_failed_has_a_short_report(tmp_path: Path) -> None:
    trials = [failed(0, Reason.CRASH, MIXED.baseline(), "ended by SIGSEGV")]
    text = markdown(study_of(tmp_path, recipe_of(MIXED), trials))
    assert "nothing could be proved" in text
    assert "SIGSEGV" in text


def test_drift_and_load_are_warned_of(tmp_path: Path) -> None:
    point = MIXED.baseline()
    trials = [measured(n, point, latency_s=1.0, foreign_load_pct=30.0) for n in range(4)]
    verdict = Verdict("latency_s", 1.0, 0.9, 1.1, Judgement.SAME, 0, 10)
    study = study_of(tmp_path, recipe_of(MIXED), trials, Ending(verdict, load_pct=40.0))
    warnings = section(markdown(replace(study, drift=((2, {"latency_s": (1.5,)}),))), "Warnings")
    assert "+50.0 %" in warnings
    assert "4 of 4 trials" in warnings
    assert "40 % of the machine while the winner was confirmed" in warnings
    quiet = study_of(tmp_path / "quiet", recipe_of(MIXED), [measured(0, point, latency_s=1.0)])
    assert "Warnings" not in markdown(quiet)


def test_importance_finds_the_knob_that_decides() -> None:
    trials, _ = searched(recipe_of(MIXED), synthetic(), 60)
    decided = [
        replace(t, outcome=replace(t.outcome, samples={"latency_s": (1.0 + 10.0 * (t.point["opt"] == "a"),)}))
        for t in trials
        if isinstance(t.outcome, Measured)
    ]
    shares = importance(MIXED, Objective("latency_s"), decided)
    assert next(iter(shares)) == "opt"
    assert shares["opt"] > 0.8
    assert abs(sum(shares.values()) - 1) < 1e-6


def test_importance_is_silent_where_there_is_nothing_to_tell() -> None:
    point = MIXED.baseline()
    few = [measured(n, point, latency_s=float(n + 1)) for n in range(5)]
    alike = [Trial(Candidate(n, point), few[0].outcome) for n in range(40)]
    assert importance(MIXED, Objective("latency_s"), few) == {}
    assert importance(MIXED, Objective("latency_s"), alike) == {}
