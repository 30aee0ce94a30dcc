"""How is a built program verified and read? Each run starts it anew; what it prints may hold several readings."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from optimizer.targets.command.answers import Answer, compared
from optimizer.targets.command.placeholders import placed
from optimizer.targets.command.programs import Programs, Ran, ending
from optimizer.targets.command.readings import COSTS, Reading, readings
from optimizer.targets.command.sources import Sources
from optimizer.trial import Check, Reason, Samples, TrialError


@dataclass(frozen=True)
class CommandRunner:
    """A program that is started for each run. `command`, `folder`: as they are run; `folders`: of the placeholders."""

    programs: Programs
    command: tuple[str, ...]
    folder: Path
    folders: Mapping[str, str]
    reads: tuple[Reading, ...]
    answer: Answer
    sources: Sources | None
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.programs.talk.pid

    def verify(self) -> Check:
        """Runs the program once, and what checks it. Raises TrialError where its answer, its readings or its manners
        are wrong."""
        before = self.sources.stamps() if self.sources else {}
        ran = self._run()
        check = compared(self.answer, self._file(self.answer.place, ran))
        if self.answer.command:
            self.programs.run(placed(self.answer.command, self.folders), self.folder, {}, Reason.WRONG)
        if self.sources and (names := self.sources.changed(before)):
            raise TrialError(
                Reason.REJECTED,
                f"the program wrote into its source folder ({names}), which the search takes for a change of the "
                "sources. Let it write into {scratch}, or leave the names out with target.ignore.",
            )
        return check if self.answer.checks else Check(quality={"unverified": 1.0})

    def run(self, n: int) -> Samples:
        """At least `n` readings of every metric that a run tells, by as many runs as that takes."""
        taken: dict[str, tuple[float, ...]] = {}
        while min((len(values) for values in taken.values()), default=0) < n:
            for name, values in self._read(self._run()).items():
                taken[name] = taken.get(name, ()) + values
        return taken

    def _run(self) -> Ran:
        for place in {r.place for r in self.reads if not r.cost} | {self.answer.place}:
            if place.startswith("{scratch}"):  # what an earlier run has written is no reading of this one
                Path(placed([place], self.folders)[0]).unlink(missing_ok=True)
        return self.programs.run(self.command, self.folder, {}, Reason.CRASH)

    def _read(self, ran: Ran) -> Samples:
        """Raises TrialError with the end of what was printed where a metric is missing or is no reading."""
        try:
            return {r.metric: self._readings(r, ran) for r in self.reads}
        except TrialError as error:
            log = f"{error.log}\n$ {shlex.join(self.command)}\n{ending(ran.stdout, ran.stderr)}"
            raise error.told(log) from None

    def _readings(self, reading: Reading, ran: Ran) -> tuple[float, ...]:
        if reading.cost:
            return (COSTS[reading.cost](ran),)
        return readings(reading, self._file(reading.place, ran), self.programs.found)

    def _file(self, place: str, ran: Ran) -> Path:
        if place in ("stdout", "stderr"):
            return ran.stdout if place == "stdout" else ran.stderr
        return self.folder / placed([place], self.folders)[0]


class BuiltOnly:
    """What stands for a program where nothing runs: what the build told is all there is."""

    pid = None

    def __init__(self) -> None:
        self.facts: Mapping[str, float] = {"unverified": 1.0}

    def verify(self) -> Check:
        return Check()

    def run(self, n: int) -> Samples:
        return {}
