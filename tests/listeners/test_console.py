"""The screen: a table on a terminal, plain lines elsewhere, and nothing that a trial could break."""

import io
from dataclasses import replace

import pytest
from simple import MIXED, failed, limit, measured, recipe_of, searched, synthetic

from optimizer.listeners.console import ConsoleListener
from optimizer.objective import Goal, Objective
from optimizer.protocols import Ending
from optimizer.recipe import Budget, Environment
from optimizer.trial import Candidate, Measured, Reason, Trial


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, trials: list[Trial], goal: Goal | None = None, size: int | None = 1000) -> str:
    screen = ConsoleListener(stream, Budget(trials=20), size)
    recipe = recipe_of(MIXED, goal=goal) if goal else recipe_of(MIXED)
    screen.on_start(recipe, Environment("a processor"))
    for trial in trials:
        screen.on_trial(trial)
    screen.on_end(Ending(None))
    return stream.getvalue()


def test_plain_lines_where_there_is_no_terminal() -> None:
    trials, _ = searched(recipe_of(MIXED), synthetic(failing=0.3), 20)
    text = shown(io.StringIO(), trials)
    assert "\x1b" not in text
    assert "fake · random · 1,000 configurations · a processor" in text
    improvements = [line for line in text.splitlines() if line.startswith("trial")]
    assert improvements[0].split()[1] == "0"
    gains = [float(word[:-1]) for line in improvements for word in line.split() if word.endswith("×")]
    assert gains == sorted(gains)


def test_a_table_with_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    trials, _ = searched(recipe_of(MIXED), synthetic(failing=0.3), 20)
    trials = [replace(trial, elapsed_s=float(trial.number)) for trial in trials[:15]]  # five of twenty are left
    text = shown(Terminal(), trials)
    assert "\x1b[" in text
    for part in ("configuration", "gain", "left", "compile", "best"):
        assert part in text


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(Terminal(), searched(recipe_of(MIXED), synthetic(), 5)[0])
    assert "\x1b[32m" not in text  # green
    assert "\x1b[92m" not in text


def test_failures_are_counted_by_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    base = measured(0, MIXED.baseline(), latency_s=0.002)
    trials = [base, failed(1, Reason.COMPILE), failed(2, Reason.WRONG), failed(3, Reason.WRONG)]
    text = shown(Terminal(), [replace(t, candidate=Candidate(t.number, MIXED.baseline())) for t in trials])
    assert "2 wrong, 1 compile" in text


def test_a_limit_that_is_broken_and_code_that_is_shared_are_named() -> None:
    goal = Goal((Objective("latency_s"),), (limit("peak_memory_bytes", "max", 100.0),))
    base = measured(0, MIXED.baseline(), latency_s=0.002, peak_memory_bytes=50.0)
    big = measured(1, MIXED.baseline(), latency_s=0.001, peak_memory_bytes=200.0)
    assert isinstance(base.outcome, Measured)
    alike = replace(base, candidate=Candidate(2, MIXED.baseline()), outcome=replace(base.outcome, same_as=0))
    stream = io.StringIO()
    screen = ConsoleListener(stream, Budget(trials=20), None)
    screen.on_start(recipe_of(MIXED, goal=goal), Environment("a processor"))
    for trial in (base, big, alike):
        screen._said_s = 0.0
        screen.on_trial(trial)
    text = stream.getvalue()
    assert "uncountably many" in text
    assert "breaks peak_memory_bytes" in text
    assert "same code as 0" in text


def test_markup_in_a_name_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value such as [bold] must be shown, not interpreted."""
    stream = io.StringIO()
    screen = ConsoleListener(stream, Budget(), None)
    screen.on_start(recipe_of(MIXED), Environment("a [red]processor[/red]"))
    assert "a [red]processor[/red]" in stream.getvalue()
