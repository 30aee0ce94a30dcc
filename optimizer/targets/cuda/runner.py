"""How does a built CUDA kernel talk to the search? A process of its own, a line of JSON an answer (kernels/harness.h).

    python -m optimizer.targets.cuda.runner --cubin=… --launch=… --knobs=JSON --options=JSON --files=JSON

Timing. Seconds are the GPU's own, between CUDA events. Runs are repeated inside a reading until it lasts MIN_READING_S;
a reading is their mean. With --flush-l2=true every run finds the L2 cache without its data, and the flush is not
counted; with --graph=true a phase's launches are captured once and started as one. Without a graph a phase of many
short launches takes as long as this process needs to start them: that is part of what is measured.
cpu_time_s is this process's CPU time a run; peak_gpu_memory_bytes is what the buffers of the run take.

The process ends by itself within about a second when its parent dies. Nothing outlives an error of CUDA but the answer
that names it: an illegal access makes every later call fail.
"""

import argparse
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from optimizer.errors import ConfigError
from optimizer.targets.cuda.gpu import CudaGpu, Gpu, GpuError, Loaded
from optimizer.targets.cuda.operation import load_operation
from optimizer.targets.cuda.plan import Case, Operation, combined
from optimizer.trial import Check, Reason, TrialError

MIN_READING_S = 2e-3  # a thousand times the resolution of CUDA's events
MAX_REPEATS = 1 << 10  # each may hold an event for every phase
FAILED = 3  # the exit status after an error that was told

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Settings:
    cubin: Path
    launch: Path
    knobs: Mapping[str, Any]
    options: Mapping[str, str]
    files: Mapping[str, Path]
    flush_l2: bool
    graph: bool


def settings_from(words: Sequence[str]) -> Settings:
    parser = argparse.ArgumentParser(prog="runner", allow_abbrev=False)
    for name in ("cubin", "launch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("knobs", "options", "files"):
        parser.add_argument(f"--{name}", type=json.loads, default={})
    for name in ("flush-l2", "graph"):
        parser.add_argument(f"--{name}", choices=("true", "false"), default="false")
    found = parser.parse_args(words)
    options = {str(name): str(value) for name, value in found.options.items()}
    files = {str(name): Path(path) for name, path in found.files.items()}
    flush_l2, graph = found.flush_l2 == "true", found.graph == "true"
    return Settings(found.cubin, found.launch, found.knobs, options, files, flush_l2, graph)


@dataclass(frozen=True, slots=True)
class _Timed:
    seconds: Mapping[str, float]  # by phase, of one run
    cpu_s: float  # of one run
    elapsed_s: float  # of all runs together


@dataclass
class Session:
    """One operation on one GPU, from its start to its last answer."""

    operation: Operation
    gpu: Gpu
    settings: Settings
    _work: Loaded | None = None
    _repeats: int = 0  # not calibrated yet
    _facts: Mapping[str, float] = field(default_factory=dict)

    def start(self) -> Mapping[str, float]:
        """Uploads what is timed, so that too much of it fails at the start; returns the facts."""
        self._work = self.gpu.load(self.operation.scenario(), graph=self.settings.graph)
        self._facts = dict(self.operation.facts)
        return self._facts

    def verify(self) -> tuple[Check, Mapping[str, float]]:
        """The check over all full cases, with the tolerances of its errors. The scenario is not on the GPU meanwhile:
        what verifying needs is never added to what running needs."""
        self._unload()
        return combined(self._judged(self.operation.full()))

    def _judged(self, cases: Iterable[Case]) -> Iterator[tuple[Case, Check]]:
        for case in cases:
            loaded = self.gpu.load(case.work, graph=self.settings.graph)
            loaded.run(1, flush_l2=False)
            yield case, case.judge(loaded.outputs())
            loaded.close()

    def run(self, count: int) -> Samples:
        """`count` readings."""
        if self._work is None:
            self._work = self.gpu.load(self.operation.scenario(), graph=self.settings.graph)
        samples: Samples = {}
        if self._repeats == 0:
            self._repeats, first = self._calibrated(self._work)
            self._add(samples, first)
            count -= 1
        for _ in range(count):
            self._add(samples, self._timed(self._work, self._repeats))
        samples["peak_gpu_memory_bytes"] = [float(self._work.bytes_held)]
        return samples

    def _unload(self) -> None:
        if self._work is not None:
            self._work.close()
            self._work = None

    def _timed(self, work: Loaded, repeats: int) -> _Timed:
        cpu = time.process_time()
        seconds = work.run(repeats, flush_l2=self.settings.flush_l2)
        cpu_s = time.process_time() - cpu
        return _Timed({n: s / repeats for n, s in seconds.items()}, cpu_s / repeats, sum(seconds.values()))

    def _calibrated(self, work: Loaded) -> tuple[int, _Timed]:
        """How many repetitions make a reading last MIN_READING_S, and the reading that showed it."""
        repeats = 1
        while True:
            timed = self._timed(work, repeats)
            if timed.elapsed_s >= MIN_READING_S / 2 or repeats == MAX_REPEATS:
                return repeats, timed
            wanted = min(repeats * MIN_READING_S / max(timed.elapsed_s, 1e-7), repeats * 16.0, float(MAX_REPEATS))
            repeats = max(repeats + 1, int(wanted))

    def _add(self, samples: Samples, timed: _Timed) -> None:
        run_s = sum(timed.seconds.values())
        found = {"latency_s": run_s, "cpu_time_s": timed.cpu_s, **self.operation.readings(timed.seconds)}
        for fact, rate in (("flop", "achieved_flop_per_s"), ("bytes_moved", "achieved_bytes_per_s")):
            if fact in self._facts and run_s > 0:
                found[rate] = self._facts[fact] / run_s
        for name, value in found.items():
            samples.setdefault(name, []).append(value)


def answers(lines: Iterable[str], session: Session, began_s: float) -> Iterator[Mapping[str, Any]]:
    """That it is ready, then the answer to each line. Raises GpuError and TrialError."""
    facts = session.start()
    yield {"ready": {"load_s": time.perf_counter() - began_s, "facts": facts}}
    for line in lines:
        match line.split():
            case ["quit"]:
                return
            case ["verify"]:
                check, tolerances = session.verify()
                yield {"check": {"errors": check.errors, "tolerances": tolerances, "quality": check.quality}}
            case ["run", count] if count.isdecimal() and int(count) > 0:
                yield {"samples": session.run(int(count))}
            case _:
                asked = line.strip()
                raise TrialError(Reason.CRASH, f"the program was asked '{asked}'; it knows: verify, run N, quit")


def serve(settings: Settings, gpu_of: Callable[[Path], Gpu], lines: Iterable[str], say: Callable[[str], None]) -> int:
    """Answers until the lines end; the exit status. `gpu_of`: from a cubin's path to the GPU that holds its kernels."""
    began_s = time.perf_counter()
    try:
        operation = load_operation(settings.launch)(settings.options, settings.files, settings.knobs)
        session = Session(operation, gpu_of(settings.cubin), settings)
        for answer in answers(lines, session, began_s):
            say(as_json(answer))
    except (GpuError, TrialError) as error:
        return _failed(say, error.reason, error.log if isinstance(error, TrialError) else str(error))
    except MemoryError:
        return _failed(say, Reason.MEMORY, "out of the processor's memory")
    except ConfigError as error:
        return _failed(say, Reason.CRASH, str(error))
    return 0


def _failed(say: Callable[[str], None], reason: Reason, message: str) -> int:
    told = reason if reason in (Reason.MEMORY, Reason.REJECTED) else Reason.CRASH
    say(as_json({"error": {"reason": told.value, "message": message}}))
    return FAILED


def as_json(value: Any) -> str:
    """In one line; a number that is not finite is null."""
    return json.dumps(_finite(value), separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, str):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def end_with_parent(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _protocol_alone() -> Iterator[IO[str]]:
    """stdout for the protocol and nothing else: what kernels and scripts print goes to stderr."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as protocol:
        os.dup2(2, 1)
        yield protocol


def main(words: Sequence[str]) -> int:
    end_with_parent(os.getppid())
    settings = settings_from(words)
    with _protocol_alone() as protocol:

        def say(line: str) -> None:
            try:
                protocol.write(line + "\n")
                protocol.flush()
            except BrokenPipeError:  # nobody listens any more
                os._exit(0)

        status = serve(settings, CudaGpu, sys.stdin, say)
        os._exit(status)  # no destructors: nothing of a CUDA context that has failed may hang or crash


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
