"""What does OpenVINO make of a model? Its own graph of what torch exports, run on the processor by its CPU plugin.

NAME.xml and NAME.bin are the model of the entry NAME in OpenVINO's IR; `load` reads them and nothing else.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import openvino as ov
import torch
from torch import Tensor

from optimizer.targets.torch.backends.onnx_graph import INT4_WEIGHT, INT8_WEIGHT, WEIGHTS, write_graphs
from optimizer.targets.torch.load import properties
from optimizer.targets.torch.parts import ANY_ERROR, FP32_TOLERANCE, QUANTIZE, Built, Calls, Inputs, Job, Knobs
from optimizer.targets.torch.quantize import STATIC
from optimizer.trial import Reason, TrialError

DEVICE = "CPU"
PRECISION = "ov_precision"
READABLE = frozenset(("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS", "ENABLE_CPU_PINNING"))
"""Properties that a compiled model tells of itself as they took effect."""
SPELLED: Mapping[str, str] = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
LAYERS = ("FullyConnected", "Convolution", "GroupConvolution", "MatMul")
"""What does the bulk of the work in the runtime's graph."""
INTEGERS = ("i8", "u8", "i4", "u4")


class OpenVino:
    def __init__(self) -> None:
        self._compiled: Mapping[str, ov.CompiledModel] = {}

    def missing(self, device: str) -> str | None:
        found = ov.Core().available_devices
        return None if DEVICE in found else f"OpenVINO finds no {DEVICE} here, only {found}: pip install openvino"

    def quantizes(self) -> frozenset[str]:
        return frozenset((STATIC, INT8_WEIGHT, INT4_WEIGHT))

    def tolerance(self, knobs: Knobs) -> float:
        whole = knobs.get(QUANTIZE, "none") == "none" and knobs.get(PRECISION, "f32") == "f32"
        return FP32_TOLERANCE if whole else ANY_ERROR

    def build(self, job: Job) -> Built:
        notes = dict(write_graphs(job))
        core, graphs = ov.Core(), [job.folder / f"{name}.onnx" for name in job.entries]
        for path in graphs:
            ov.save_model(core.read_model(path), path.with_suffix(".xml"), compress_to_fp16=False)
        for path in (*graphs, job.folder / WEIGHTS):
            path.unlink()
        self.load(job)
        found = {name: _computed(compiled) for name, compiled in self._compiled.items()}
        for name, kinds in found.items():
            _must_compute_as_asked(name, kinds, job.knobs)
        notes |= {f"runtime {name}": {kind: dict(types) for kind, types in k.items()} for name, k in found.items()}
        # the entries of one module have the same weights, each in a file of its own
        size = max(path.with_suffix(".bin").stat().st_size for path in graphs)
        nodes = sum(sum(types.values()) for kinds in found.values() for types in kinds.values())
        facts = {**self.evidence(job), "model_bytes": float(size), "operators": float(nodes)}
        return Built(facts=facts, notes=notes)

    def load(self, job: Job) -> Calls:
        core, options = ov.Core(), properties(job.knobs)
        self._compiled = {
            name: core.compile_model(core.read_model(job.folder / f"{name}.xml"), DEVICE, options)
            for name in job.entries
        }
        calls = {name: _Request(compiled, job.entries[name]) for name, compiled in self._compiled.items()}
        for name, inputs in job.entries.items():
            calls[name](*inputs)
        return calls

    def evidence(self, job: Job) -> Mapping[str, float]:
        asked, threads = properties(job.knobs), 0
        for name, compiled in self._compiled.items():
            for key in READABLE & asked.keys():
                if (used := _plain(compiled.get_property(key))) != asked[key]:
                    raise TrialError(Reason.REJECTED, f"{key}={asked[key]} was asked for and {name} has {used}")
            threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        return {"graphs": float(len(self._compiled)), "threads": float(threads)}


class _Request:
    """A model that reads a caller's tensors where they lie and writes into new ones."""

    def __init__(self, compiled: ov.CompiledModel, example: Inputs) -> None:
        self._request = compiled.create_infer_request()
        said = self._request.infer([x.contiguous().numpy() for x in example])
        self._made = [(torch.from_numpy(x).dtype, x.shape) for x in (said[i] for i in range(len(said)))]

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        request, outputs = self._request, []
        for i, x in enumerate(inputs):
            request.set_input_tensor(i, ov.Tensor(x.contiguous().numpy(), shared_memory=True))
        for i, (dtype, shape) in enumerate(self._made):
            output = torch.empty(shape, dtype=dtype)
            request.set_output_tensor(i, ov.Tensor(output.numpy(), shared_memory=True))
            outputs.append(output)
        request.infer()
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _plain(value: Any) -> Any:
    """A property as it was asked for: OpenVINO answers with types of its own."""
    return SPELLED.get(value.to_string(), value.to_string()) if isinstance(value, ov.Type) else value


def _computed(compiled: ov.CompiledModel) -> Mapping[str, Counter[str]]:
    """By the kind of node of the runtime's graph: how often it computes with which numbers, weights then activations,
    as {"FullyConnected": {"u8 brgemm_avx512_amx_I8": 2}}."""
    found: dict[str, Counter[str]] = {}
    for op in compiled.get_runtime_model().get_ops():
        kind, precision, kernel = (
            str(op.get_rt_info()[key].astype(str)) for key in ("layerType", "runtimePrecision", "primitiveType")
        )
        found.setdefault(kind, Counter())[f"{precision} {kernel}"] += 1
    return found


def _must_compute_as_asked(name: str, kinds: Mapping[str, Counter[str]], knobs: Knobs) -> None:
    """Raises TrialError where no layer computes in the precision, or has weights of the bits, that were asked for."""
    layers = [how for kind in LAYERS for how in kinds.get(kind, ())]
    precision, scheme = str(knobs.get(PRECISION, "f32")), str(knobs.get(QUANTIZE, "none"))
    if precision != "f32" and not any(how.endswith(f"_{precision}") for how in layers):
        raise TrialError(Reason.REJECTED, f"ov_precision={precision}: nothing of {name} computes so: {layers}")
    if scheme != "none" and not any(how.startswith(INTEGERS) for how in layers):
        raise TrialError(Reason.REJECTED, f"quantize={scheme}: nothing of {name} has integer weights: {layers}")
