"""What does a person see while a search runs? A table and a progress bar on a terminal, plain lines anywhere else.

It draws when something has happened and at no other time: a thread that redraws would run while programs are measured.
"""

import time
from collections import Counter
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optimizer.objective import Goal
from optimizer.protocols import Ending
from optimizer.recipe import Budget, Environment, Recipe
from optimizer.text import changes, duration, quantity
from optimizer.trial import Failed, Samples, Trial, samples_of

LINES = 6  # trials shown
PLAIN_S = 5.0  # seconds between two lines where there is no terminal, improvements apart


class ConsoleListener:
    """Draws on `stream`. `size`: how many configurations there are, None where they can't be counted."""

    def __init__(self, stream: TextIO, budget: Budget, size: int | None) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, soft_wrap=True)
        self._budget, self._size = budget, size
        self._live: Live | None = None
        self._trials: list[Trial] = []
        self._failures: Counter[str] = Counter()
        self._best: Trial | None = None
        self._goal: Goal | None = None
        self._said_s = 0.0

    def on_start(self, recipe: Recipe, environment: Environment) -> None:
        self._goal = recipe.goal
        size = "uncountably many" if self._size is None else f"{self._size:,}"
        about = f" · {recipe.strategy.name} · {size} configurations · {environment.device}"
        self._console.print(Text.assemble((recipe.target.name, "bold"), about))
        for line in recipe.goal.formulas():
            self._console.print(f"  {line}")
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def recall(self, trial: Trial) -> None:
        """A trial of an earlier run of the same search."""
        self._count(trial)

    def on_trial(self, trial: Trial) -> None:
        improved = self._count(trial)
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
        elif improved or time.monotonic() - self._said_s > PLAIN_S:
            self._said_s = time.monotonic()
            self._console.print(self._line(trial))

    def on_drift(self, after: int, samples: Samples) -> None:
        pass

    def on_end(self, ending: Ending) -> None:
        self.stop()

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._console.print(self._summary())

    def say(self, text: str) -> None:
        self._console.print(text)

    def warn(self, text: str) -> None:
        self._console.print(Text(text, "yellow"))

    def waiting(self, text: str) -> None:
        """One line that the next one replaces; where there is no terminal, a line every few seconds."""
        if self._console.is_terminal:
            self._console.print(text, end="\r")
        elif time.monotonic() - self._said_s > PLAIN_S:
            self._said_s = time.monotonic()
            self._console.print(text)

    def _count(self, trial: Trial) -> bool:
        """Takes a trial in; whether it is the best so far."""
        assert self._goal is not None
        self._trials.append(trial)
        if isinstance(trial.outcome, Failed):
            self._failures[trial.outcome.reason.value] += 1
        contenders = [t for t in (self._best, trial) if t is not None]
        best = self._goal.best(contenders, self._trials[0])
        improved = best is trial
        self._best = best
        return improved

    def _picture(self) -> Group:
        table = Table(box=None, padding=(0, 2), show_edge=False)
        assert self._goal is not None
        for column in ("trial", *(o.metric for o in self._goal.objectives), "gain", "", "configuration"):
            table.add_column(column, overflow="ellipsis", no_wrap=True)
        shown = self._trials[-LINES:]
        if self._best is not None and self._best not in shown:
            shown = [self._best, *shown]
        for trial in shown:
            style = "green" if trial is self._best else "dim" if isinstance(trial.outcome, Failed) else ""
            table.add_row(*(Text(cell) for cell in self._cells(trial)), style=style)
        return Group(table, self._bar(), self._summary())

    def _cells(self, trial: Trial) -> list[str]:
        assert self._goal is not None
        values = samples_of(trial)
        baseline = self._trials[0]
        what = changes(trial.point, baseline.point)
        if isinstance(trial.outcome, Failed):
            blank = [""] * len(self._goal.objectives)
            return [str(trial.number), *blank, "", trial.outcome.reason.value, what]
        numbers = [
            quantity(o.metric, o.of(values[o.metric])) if values.get(o.metric) else "" for o in self._goal.objectives
        ]
        broken = self._goal.violations(trial, baseline)
        note = f"breaks {', '.join(broken)}" if broken else ""
        if not note and trial.outcome.same_as is not None:
            note = f"same code as {trial.outcome.same_as}"
        return [str(trial.number), *numbers, self._gain(trial), note, what]

    def _gain(self, trial: Trial) -> str:
        assert self._goal is not None
        gain = self._goal.first.gain_of(trial, self._trials[0])
        return "" if gain is None else f"{gain:.2f}×"

    def _share(self) -> float:
        """How much of the budget is spent, from 0 to 1."""
        shares = [0.0]
        if self._budget.trials:
            shares.append(len(self._trials) / self._budget.trials)
        if self._budget.seconds:
            shares.append(self._trials[-1].elapsed_s / self._budget.seconds)
        if self._size:
            shares.append(len(self._trials) / self._size)
        return min(1.0, max(shares))

    def _bar(self) -> ProgressBar:
        return ProgressBar(total=1.0, completed=self._share(), width=40)

    def _summary(self) -> Text:
        if not self._trials:
            return Text("nothing tried yet")
        share, elapsed_s = self._share(), self._trials[-1].elapsed_s
        left = f" · about {duration(elapsed_s / share - elapsed_s)} left" if 0 < share < 1 else ""
        failed = ", ".join(f"{n} {reason}" for reason, n in self._failures.most_common())
        best = f" · best {self._gain(self._best)} (trial {self._best.number})" if self._best else ""
        return Text(f"{len(self._trials)} trials{f' ({failed})' if failed else ''}{best} · {duration(elapsed_s)}{left}")

    def _line(self, trial: Trial) -> str:
        number, *cells = self._cells(trial)
        return f"trial {number:>4}  " + "  ".join(c for c in cells if c)
