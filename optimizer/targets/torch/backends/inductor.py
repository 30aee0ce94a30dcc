"""What does torch.compile make of a model? Fused kernels in C++ (Triton on a GPU), with Inductor's options as knobs."""

import shutil
from collections.abc import Mapping
from typing import Any

import torch
from torch._dynamo import config as dynamo
from torch._dynamo.utils import compile_times, counters

from optimizer.space import Value
from optimizer.targets.torch.backends.options import MODE, OPTIONS, code_of, generated, in_effect, options_of, tolerance
from optimizer.targets.torch.parts import Built, Calls, Job, Knobs
from optimizer.trial import Reason, TrialError

DYNAMIC: Mapping[Value, bool | None] = {"false": False, "true": True, "auto": None}
DECIDED = frozenset({*OPTIONS, MODE, "dynamic", "fullgraph"})
"""Knobs whose whole effect is the code: where the code is the same, so is what runs."""


class Compile:
    def __init__(self) -> None:
        self._frames = 0

    def missing(self, device: str) -> str | None:
        return compiler_missing(device)

    def quantizes(self) -> frozenset[str]:
        return frozenset()

    def tolerance(self, knobs: Knobs) -> float:
        return tolerance(knobs)

    def build(self, job: Job) -> Built:
        self.load(job)
        facts = self.evidence(job)
        if facts["graphs"] < 1:
            raise TrialError(Reason.REJECTED, "torch.compile found nothing to compile: the model would run eagerly")
        text = generated(job.folder)
        if job.knobs.get("cpp_wrapper") and "AOTInductorModel" not in text and "inductor_entry_impl" not in text:
            raise TrialError(Reason.REJECTED, "cpp_wrapper was asked for and the code is called from Python")
        if job.knobs.get("freezing") and "_frozen_param" not in text:
            raise TrialError(Reason.REJECTED, "freezing was asked for and no weight is a constant of the code")
        notes = {
            "options": {k: str(v) for k, v in _options(job.knobs).items()},
            "breaks": {str(k)[:200]: int(v) for k, v in counters["graph_break"].items()},
            "inductor": {str(k): int(v) for k, v in counters["inductor"].items()},
            "times": {name: float(str(seconds)) for name, seconds in zip(*compile_times("csv", True), strict=True)},
        }
        return Built(code_of(job.folder, job.seed), facts, notes, DECIDED)

    def load(self, job: Job) -> Calls:
        dynamo.suppress_errors = False
        dynamo.fail_on_recompile_limit_hit = True
        dynamo.error_on_recompile = False
        in_effect(_options(job.knobs))
        compiled = torch.compile(
            job.module(),
            dynamic=DYNAMIC[job.knobs.get("dynamic", "false")],
            fullgraph=bool(job.knobs.get("fullgraph", False)),
        )
        for inputs in job.entries.values():
            compiled(*inputs)
        self._frames = _frames()
        dynamo.error_on_recompile = True  # from now on it would be measured as a slow run
        return dict.fromkeys(job.entries, compiled)

    def evidence(self, job: Job) -> Mapping[str, float]:
        stats, inductor = counters["stats"], counters["inductor"]
        if recompiles := _frames() - self._frames:
            raise TrialError(Reason.REJECTED, f"the model was compiled {recompiles} times again while it ran")
        if not stats["unique_graphs"]:
            raise TrialError(Reason.REJECTED, "torch.compile compiled nothing: the model ran eagerly")
        return {
            "graphs": float(stats["unique_graphs"]),
            "graph_breaks": float(sum(counters["graph_break"].values())),
            "recompiles": float(recompiles),
            "cache_hits": float(inductor["fxgraph_cache_hit"]),
            "cache_misses": float(inductor["fxgraph_cache_miss"] + inductor["fxgraph_cache_bypass"]),
        }


def compiler_missing(device: str) -> str | None:
    """Inductor's code for the processor is C++; that for a GPU needs Triton."""
    if device == "cpu" and shutil.which("g++") is None:
        return "Inductor writes C++ and g++ is not here: install g++ (Debian: apt install g++)"
    if device == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            return "Inductor writes Triton for a GPU, and Triton does not work here: pip install triton"
    return None


def _options(knobs: Knobs) -> dict[str, Any]:
    """A mode is a set of options; single ones stand over it."""
    mode = str(knobs.get(MODE, "default"))
    return {**torch._inductor.list_mode_options(mode), **options_of(knobs)}


def _frames() -> int:
    return int(counters["frames"]["total"])
