"""How does one point of a torch model talk to the search? A line of JSON an answer, as in kernels/harness.h.

Forked from zygote.py with a document {act, task, options, knobs, device, folder, cache}:

    act build     ->  {"built":{"code":"…","coded":[…],"facts":{…},"notes":{…}}}        and it ends
    act content   ->  {"content":"…"}                                                   and it ends
    act probe     ->  {"missing":"why" or null}                                         and it ends
    act export    ->  {"exported":{…}}: what model.json in the folder `out` says        and it ends
    act run       ->  {"ready":{"load_s":…,"facts":{…}}}, then it answers verify, run N and quit

`export` in the document names the folder of an exported model, which is then run in place of the point's build;
`judged_by` one whose baseline's answers stand for those of a model with drawn weights.

Readings are those of the harness: a scenario is repeated inside a reading until it lasts MIN_READING_S, peak memory
counts from the first run. Whatever a library prints goes to stderr; stdout carries the protocol alone.
"""

import contextlib
import ctypes
import gc
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from optimizer.errors import ConfigError, causes
from optimizer.space import Json
from optimizer.targets.torch.backends import options
from optimizer.targets.torch.jobs import Work, set_threads, threads_used
from optimizer.targets.torch.parts import FP32_TOLERANCE, Calls
from optimizer.targets.torch.probe import missing
from optimizer.targets.torch.rebuilt import CHANGED, REBUILT_TOLERANCE, answers_of, changed
from optimizer.targets.torch.shipping import ship
from optimizer.trial import Reason, TrialError

MIN_READING_S = 2e-3
MAX_REPEATS = 1 << 10
FAILED = 3  # the exit status after an error that was told


def main(document: Mapping[str, Json]) -> int:
    """The worker, to its end. Its stdin is read by line; its limits are the fork server's."""
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    act = str(document["act"])
    try:
        with torch.no_grad():
            set_threads(document["knobs"])
            ACTS[act](document, protocol)
    except TrialError as error:
        return _failed(protocol, error.reason, error.log)
    except ConfigError as error:
        return _failed(protocol, Reason.REJECTED, str(error))
    except (MemoryError, torch.OutOfMemoryError) as error:
        return _failed(protocol, Reason.MEMORY, str(error) or "out of memory")
    except BaseException as error:
        traceback.print_exc()
        known = Reason.COMPILE if act == "build" else Reason.CRASH
        _failed(protocol, _reason(error, known), f"{type(error).__name__}: {error}"[:4000] + _signal_of(error))
        raise
    return 0


def _reason(error: BaseException, known: Reason) -> Reason:
    text = str(error)
    if "can't allocate memory" in text or "out of memory" in text.lower():
        return Reason.MEMORY
    return Reason.REJECTED if type(error).__name__ in ("RecompileError", "RecompileLimitExceeded") else known


def _signal_of(error: BaseException) -> str:
    """By which signal a compiler ended whose end the error tells without it; nothing where it was none."""
    for one in causes(error):
        if isinstance(one, subprocess.CalledProcessError) and one.returncode < 0:
            return f"\nthe compiler ended with {signal.Signals(-one.returncode).name}"
    return ""


def _failed(protocol: TextIO, reason: Reason, message: str) -> int:
    _say(protocol, {"error": {"reason": str(reason), "message": message}})
    return FAILED


def _say(protocol: TextIO, answer: Json) -> None:
    protocol.write(json.dumps(_finite(answer), allow_nan=False) + "\n")
    protocol.flush()


def _finite(value: Any) -> Any:
    """Numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _content(document: Mapping[str, Json], protocol: TextIO) -> None:
    _say(protocol, {"content": Work(document, cold=False).task.content()})


def _probe(document: Mapping[str, Json], protocol: TextIO) -> None:
    options.keep_headers(Path(document["folder"]))
    _say(protocol, {"missing": missing(document)})


def _build(document: Mapping[str, Json], protocol: TextIO) -> None:
    work = Work(document, cold=True)
    options.keep_headers(work.folder)
    options.sown(work.folder, work.job.seed)
    _ = work.module  # its load and its transforms have clocks of their own
    start = time.perf_counter()
    built = work.backend.build(work.job)
    _wait(work.device)
    compile_s = time.perf_counter() - start
    options.trimmed(work.folder)
    facts = {"threads": threads_used(work.knobs), **work.facts, **built.facts, "compile_time_s": compile_s}
    notes = {**work.notes, **built.notes}
    _say(protocol, {"built": {"code": built.code, "coded": sorted(built.coded), "facts": facts, "notes": notes}})


def _export(document: Mapping[str, Json], protocol: TextIO) -> None:
    work = Work(document, cold=False)
    options.keep_headers(work.folder)
    options.without_headers()
    _say(protocol, {"exported": ship(work, Path(document["out"]))})


def _run(document: Mapping[str, Json], protocol: TextIO) -> None:
    start = time.perf_counter()
    work = Work(document, cold=False)
    options.keep_headers(work.folder)
    options.without_headers()
    runner = Runner(work)
    load_s = time.perf_counter() - start
    ready = {"load_s": load_s, "facts": {**work.facts, **runner.facts, "load_s": load_s}}
    _say(protocol, {"ready": ready})
    for line in sys.stdin:
        match line.split():
            case ["verify"]:
                _say(protocol, {"check": runner.verify()})
            case ["run", count] if count.isdecimal() and int(count) > 0:
                _say(protocol, {"samples": runner.run(int(count))})
            case ["quit"]:
                return
            case _:
                raise TrialError(Reason.CRASH, f"the worker was asked {line!r}; it knows: verify, run N, quit")


ACTS: Mapping[str, Callable[[Mapping[str, Json], TextIO], None]] = {
    "build": _build,
    "content": _content,
    "export": _export,
    "probe": _probe,
    "run": _run,
}


class Runner:
    """A loaded model and its scenario."""

    def __init__(self, work: Work) -> None:
        self._work = work
        job, start = work.job, time.perf_counter()
        before = work.facts.get("load_s", 0.0) + work.facts.get("transform_s", 0.0)
        self._calls: Calls = work.backend.load(job)
        _wait(work.device)
        spent = time.perf_counter() - start
        loading = work.facts.get("load_s", 0.0) + work.facts.get("transform_s", 0.0) - before
        evidence = work.backend.evidence(job)
        self.facts = {"threads": threads_used(work.knobs), **evidence, "compile_warm_s": spent - loading}
        self._repeats = 0  # not calibrated yet

    def verify(self) -> Mapping[str, Json]:
        work = self._work
        if (judged_by := work.document.get("judged_by")) is not None:
            answers = reference = answers_of(Path(judged_by), "baseline")
        else:
            answers, reference = work.task.answers(self._calls), work.reference()
        check = work.task.judge(answers, reference)
        work.backend.evidence(work.job)
        errors, tolerances = dict(check.errors), {"max_rel_error": work.tolerance}
        if (recorded := work.recorded) is not None:
            errors[CHANGED] = changed(answers, recorded)
            tolerances[CHANGED] = REBUILT_TOLERANCE if work.transforms else FP32_TOLERANCE
        gc.collect()  # what verification needed is given back
        return {"errors": errors, "tolerances": tolerances, "quality": dict(check.quality)}

    def run(self, count: int) -> Mapping[str, list[float]]:
        samples: dict[str, list[float]] = {}
        if self._repeats == 0:
            forget_peak_memory(self._work.device)
            self._repeats = self._calibrated()
        for _ in range(count):
            self._read(samples, self._repeats)
        self._work.backend.evidence(self._work.job)
        threads_used(self._work.knobs)
        samples |= peak_memory(self._work.device)
        return samples

    def _calibrated(self) -> int:
        repeats = 1
        while repeats < MAX_REPEATS:
            samples: dict[str, list[float]] = {}
            if self._read(samples, repeats) >= MIN_READING_S:
                break
            repeats *= 2
        return repeats

    def _read(self, samples: dict[str, list[float]], repeats: int) -> float:
        scenario, calls = self._work.task.scenario, self._calls
        _wait(self._work.device)
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(repeats):
            reading = scenario(calls)
        _wait(self._work.device)
        elapsed_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        run_s, batches = elapsed_s / repeats, reading.batches
        found = {
            "latency_s": run_s / batches,
            "cpu_time_s": cpu_s / repeats / batches,
            "throughput_ips": reading.inferences * batches / run_s,
            **reading.metrics,
        }
        for name, value in found.items():
            samples.setdefault(name, []).append(float(value))
        return elapsed_s


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def forget_peak_memory(device: str) -> None:
    """What loading and verification needed is no part of what running needs."""
    ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # else the peak counts from the start
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> dict[str, list[float]]:
    """The most resident memory, and the most that torch held of the GPU's."""
    text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:")]
    peaks = {"peak_memory_bytes": [1024.0 * float(found[0])]} if found else {}
    if device != "cpu":
        peaks["peak_gpu_memory_bytes"] = [float(torch.cuda.max_memory_allocated())]
    return peaks
