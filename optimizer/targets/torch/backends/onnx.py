"""What does ONNX Runtime make of a model? The graph that torch exports, optimised and run by it on the processor.

`load` reads the files that onnx_graph.py describes and nothing else: neither the module nor torch's compiler.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import Tensor

from optimizer.keeper import threads_now
from optimizer.space import Json, digest
from optimizer.targets.builds import file_hash
from optimizer.targets.torch.backends.onnx_graph import (
    DYNAMIC,
    INT4_WEIGHT,
    INT8_WEIGHT,
    WEIGHTS,
    graph_bytes,
    operators,
    stored_types,
    write_graphs,
)
from optimizer.targets.torch.load import session_options
from optimizer.targets.torch.parts import ANY_ERROR, FP32_TOLERANCE, QUANTIZE, THREADS, Built, Calls, Inputs, Job, Knobs
from optimizer.targets.torch.quantize import STATIC
from optimizer.trial import Reason, TrialError

PROVIDER = "CPUExecutionProvider"
OPTIMIZATION, EXECUTION = "ort_optimization", "ort_execution"
INTEGER = ("MatMulInteger", "QLinear", "QGemm", "MatMulNBits", "DynamicQuantizeMatMul", "ConvInteger", "QAttention")
"""How the operators begin that compute with integers, or with weights that are stored as such."""


class OnnxRuntime:
    def __init__(self) -> None:
        self._sessions: Mapping[str, ort.InferenceSession] = {}
        self._threads = 0

    def missing(self, device: str) -> str | None:
        found = ort.get_available_providers()
        return None if PROVIDER in found else f"this ONNX Runtime has no {PROVIDER}: pip install onnxruntime"

    def quantizes(self) -> frozenset[str]:
        return frozenset((STATIC, DYNAMIC, INT8_WEIGHT, INT4_WEIGHT))

    def tolerance(self, knobs: Knobs) -> float:
        return FP32_TOLERANCE if knobs.get(QUANTIZE, "none") == "none" else ANY_ERROR

    def build(self, job: Job) -> Built:
        notes = dict(write_graphs(job))
        with TemporaryDirectory(dir=job.folder) as scratch:
            self._open(job, Path(scratch))
            graphs = {name: ir.load(Path(scratch, f"{name}.onnx")) for name in job.entries}
            code = [file_hash(path) for path in sorted(Path(scratch).glob("*.onnx"))]
        notes |= {f"optimized {name}": _described(graph) for name, graph in graphs.items()}
        if job.knobs.get(QUANTIZE, "none") != "none":
            _must_compute_in_integers(graphs, str(job.knobs[QUANTIZE]))
        calls = self._calls(job.entries)
        for name, inputs in job.entries.items():
            calls[name](*inputs)
        size = graph_bytes(job.folder, list(job.entries))
        nodes = sum(len(graph.graph) for graph in graphs.values())
        facts = {**self.evidence(job), "model_bytes": size, "operators": float(nodes)}
        return Built(digest([*code, file_hash(job.folder / WEIGHTS)]), facts, notes, frozenset((OPTIMIZATION,)))

    def load(self, job: Job) -> Calls:
        self._open(job, None)
        calls = self._calls(job.entries)
        for name, inputs in job.entries.items():
            calls[name](*inputs)
        return calls

    def evidence(self, job: Job) -> Mapping[str, float]:
        for name, session in self._sessions.items():
            if (used := session.get_providers()[0]) != PROVIDER:
                raise TrialError(Reason.REJECTED, f"{name} runs on {used}, not {PROVIDER}")
        return {"graphs": float(len(self._sessions)), "threads": float(self._threads)}

    def _open(self, job: Job, optimized: Path | None) -> None:
        """`optimized`: where the graphs are left as ONNX Runtime runs them, for evidence."""
        asked, parallel = int(job.knobs.get(THREADS, 0)), job.knobs.get(EXECUTION) == "parallel"
        sessions: dict[str, ort.InferenceSession] = {}
        for name in job.entries:
            options = session_options(job.knobs)
            if optimized is not None:
                options.optimized_model_filepath = str(optimized / f"{name}.onnx")
                options.add_session_config_entry(
                    "session.optimized_model_external_initializers_file_name", f"{name}.data"
                )
            before = threads_now()
            sessions[name] = ort.InferenceSession(job.folder / f"{name}.onnx", options, providers=[PROVIDER])
            started = threads_now() - before
            self._threads = started + 1
            if asked and not parallel and started != asked - 1:
                raise TrialError(
                    Reason.REJECTED, f"{asked} threads were asked for and ONNX Runtime computes with {started + 1}"
                )
        self._sessions = sessions

    def _calls(self, entries: Mapping[str, Inputs]) -> Calls:
        return {name: _Bound(session, entries[name]) for name, session in self._sessions.items()}


class _Bound:
    """A session that reads a caller's tensors where they lie and writes into new ones: nothing is copied."""

    def __init__(self, session: ort.InferenceSession, example: Inputs) -> None:
        self._session, self._binding = session, session.io_binding()
        self._inputs = [value.name for value in session.get_inputs()]
        self._outputs = [value.name for value in session.get_outputs()]
        said: Sequence[Any] = session.run(None, dict(zip(self._inputs, (_array(x) for x in example), strict=True)))
        self._made = [(torch.from_numpy(x).dtype, x.dtype.type, x.shape) for x in said]

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        binding = self._binding
        laid = [x if x.is_contiguous() else x.contiguous() for x in inputs]
        for name, x in zip(self._inputs, laid, strict=True):
            binding.bind_input(name, "cpu", 0, NUMPY[x.dtype], x.shape, x.data_ptr())
        outputs = []
        for name, (dtype, kind, shape) in zip(self._outputs, self._made, strict=True):
            output = torch.empty(shape, dtype=dtype)
            binding.bind_output(name, "cpu", 0, kind, shape, output.data_ptr())
            outputs.append(output)
        self._session.run_with_iobinding(binding)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


NUMPY: Mapping[torch.dtype, Any] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.float16: np.float16,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}


def _array(x: Tensor) -> Any:
    return x.contiguous().numpy()


def _described(graph: ir.Model) -> dict[str, Json]:
    return {"operators": operators(graph), "constants": stored_types(graph)}


def _must_compute_in_integers(graphs: Mapping[str, ir.Model], scheme: str) -> None:
    for name, graph in graphs.items():
        found = operators(graph)
        if not any(operator.startswith(INTEGER) for operator in found):
            raise TrialError(Reason.REJECTED, f"quantize={scheme}: nothing of {name} computes in integers: {found}")
