"""Tunes a kernel of ours by OpenTuner, as its gccflags example does: compile in parallel, run, keep the fastest.

Reads what is asked on stdin (JSON), prints the best it found. It runs in a virtual environment that has opentuner
alone; of this project it imports what reads constraints.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import opentuner
from opentuner.resultsdb.models import Result
from opentuner.search.manipulator import ConfigurationManipulator, EnumParameter

from optimizer.expression import parse

READINGS = 7  # as many as Kernel Tuner takes


class Flags(opentuner.measurement.MeasurementInterface):  # type: ignore[misc]
    """OpenTuner's seam is a class to derive from."""

    def __init__(self, args: argparse.Namespace, asked: dict[str, Any], folder: Path) -> None:
        super().__init__(args, program_name="kernel", program_version="1")
        self.asked, self.folder, self.evaluations = asked, folder, 0
        self.best: tuple[float, dict[str, Any]] | None = None
        self.parallel_compile = True
        self.constraints = [parse(text) for text in asked["restrictions"]]

    def manipulator(self) -> Any:
        manipulator = ConfigurationManipulator()
        for name, values in self.asked["params"].items():
            manipulator.add_parameter(EnumParameter(name, values))
        return manipulator

    def compile(self, config: dict[str, Any], number: int) -> Any:
        """Runs in OpenTuner's own threads."""
        asked, program = self.asked, self.folder / f"program-{number}"
        if not all(constraint.holds(config) for constraint in self.constraints):
            return None
        macros = [f"-D{name}={value}" for name, value in config.items()]
        command = [asked["compiler"], *asked["flags"], *macros, asked["source"], *asked["objects"], "-o", str(program)]
        done = subprocess.run(command, capture_output=True, check=False)
        return program if done.returncode == 0 else None

    def run_precompiled(self, desired: Any, limits: Any, limit: float, compiled: Any, number: int) -> Any:
        self.evaluations += compiled is not None
        if compiled is None:
            return Result(state="ERROR", time=float("inf"))
        said = f"verify\nrun 2\nrun {READINGS}\n"
        try:
            done = subprocess.run(
                [str(compiled), *self.asked["options"]],
                input=said, capture_output=True, text=True, timeout=60, check=True,
            )  # fmt: skip
            answers = [json.loads(line) for line in done.stdout.splitlines()]
            check, latency_s = answers[1]["check"], median(answers[3]["samples"]["latency_s"])
        except (subprocess.SubprocessError, ValueError, KeyError, IndexError):
            return Result(state="ERROR", time=float("inf"))
        finally:
            compiled.unlink(missing_ok=True)
        if any(check["errors"][name] > bound for name, bound in check["tolerances"].items()):
            return Result(state="ERROR", time=float("inf"))
        if self.best is None or latency_s < self.best[0]:
            self.best = latency_s, dict(desired.configuration.data)
        return Result(time=latency_s)

    def run(self, desired: Any, limits: Any, limit: float) -> Any:
        return self.run_precompiled(desired, limits, limit, self.compile(desired.configuration.data, 0), 0)

    def save_final_config(self, configuration: Any) -> None: ...


def main() -> None:
    asked: dict[str, Any] = json.load(sys.stdin)
    random.seed(asked["seed"])
    with tempfile.TemporaryDirectory() as name:
        words = [
            f"--stop-after={asked['budget_s']}",
            f"--database={name}/db",
            "--no-dups",
            "--parallelism=2",
            "--quiet",
        ]
        args = opentuner.default_argparser().parse_args(words)
        start = time.perf_counter()
        interface = Flags(args, asked, Path(name))
        opentuner.tuningrunmain.TuningRunMain(interface, args).main()
        took_s = time.perf_counter() - start
    if interface.best is None:
        raise SystemExit("OpenTuner found no configuration that works")
    latency_s, point = interface.best
    found = {"point": point, "latency_s": latency_s, "evaluations": interface.evaluations, "took_s": took_s}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
