"""What does TensorRT make of a model? Engines for the GPU that it is built on, through torch-tensorrt.

NAME.ep is the entry NAME as an exported program with its engines in it; `load` reads it and nothing else.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from optimizer.targets.torch.parts import FP32_TOLERANCE, Built, Calls, Job, Knobs
from optimizer.trial import Reason, TrialError

LEVEL, AUX_STREAMS, TF32, SPARSE = "trt_optimization_level", "trt_aux_streams", "trt_tf32", "trt_sparse_weights"
MIN_BLOCK, TIMINGS = "trt_min_block", "trt_timing_iterations"
TF32_TOLERANCE = 10 * FP32_TOLERANCE
"""TF32 has ten bits of mantissa where float32 has 23."""
ENGINE = "execute_engine"
"""How the operator is called that runs an engine: torch.ops.tensorrt.execute_engine."""


class TensorRt:
    def __init__(self) -> None:
        self._engines, self._outside = 0, 0

    def missing(self, device: str) -> str | None:
        if not torch.cuda.is_available():
            return "TensorRT needs an NVIDIA GPU and its driver, and torch finds none"
        return None

    def quantizes(self) -> frozenset[str]:
        return frozenset()

    def tolerance(self, knobs: Knobs) -> float:
        return TF32_TOLERANCE if knobs.get(TF32) else FP32_TOLERANCE

    def build(self, job: Job) -> Built:
        import torch_tensorrt

        module, options = job.module(), compile_options(job.knobs, job.folder)
        takes = inspect.signature(torch_tensorrt.dynamo.compile).parameters
        if unknown := sorted(options.keys() - takes.keys()):
            raise TrialError(Reason.REJECTED, f"this torch-tensorrt has no option {', '.join(unknown)}")
        for name, inputs in job.entries.items():
            exported = torch.export.export(module, inputs, strict=False)
            compiled = torch_tensorrt.dynamo.compile(exported, arg_inputs=inputs, **options)
            torch_tensorrt.save(compiled, str(_program(job, name)), arg_inputs=inputs)
        Path(options["timing_cache_path"]).unlink(missing_ok=True)
        self.load(job)
        size = sum(_program(job, name).stat().st_size for name in job.entries)
        facts = {**self.evidence(job), "package_bytes": float(size)}
        return Built(facts=facts, notes={"options": {name: str(value) for name, value in options.items()}})

    def load(self, job: Job) -> Calls:
        import torch_tensorrt

        calls: dict[str, Any] = {}
        self._engines = self._outside = 0
        for name, inputs in job.entries.items():
            calls[name] = torch_tensorrt.load(str(_program(job, name))).module()
            targets = [str(n.target) for n in calls[name].graph.nodes if n.op == "call_function"]
            engines = sum(ENGINE in target for target in targets)
            if engines == 0:
                raise TrialError(Reason.REJECTED, f"TensorRT took nothing of {name}: torch would run all of it")
            self._engines += engines
            self._outside += sum(ENGINE not in target and "getitem" not in target for target in targets)
            calls[name](*inputs)
        return calls

    def evidence(self, job: Job) -> Mapping[str, float]:
        """graphs: engines; graph_breaks: operators that torch runs between them."""
        return {"graphs": float(self._engines), "graph_breaks": float(self._outside)}


def compile_options(knobs: Knobs, folder: Path) -> dict[str, Any]:
    """torch_tensorrt.dynamo.compile's options at a point. Numbers have the types that the module gives them (a cast is
    the knob `quantize`), and no engine or timing comes from another trial."""
    found: dict[str, Any] = {
        "use_explicit_typing": True,
        "cache_built_engines": False,
        "reuse_cached_engines": False,
        "timing_cache_path": str(folder / "timings.bin"),
        "disable_tf32": not knobs.get(TF32, False),
        "sparse_weights": bool(knobs.get(SPARSE, False)),
        "optimization_level": int(knobs.get(LEVEL, 3)),
        "min_block_size": int(knobs.get(MIN_BLOCK, 5)),
        "num_avg_timing_iters": int(knobs.get(TIMINGS, 1)),
    }
    if AUX_STREAMS in knobs:
        found["max_aux_streams"] = int(knobs[AUX_STREAMS])
    return found


def _program(job: Job, name: str) -> Path:
    return job.folder / f"{name}.ep"
