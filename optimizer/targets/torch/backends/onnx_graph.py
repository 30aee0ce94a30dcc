"""How does a module become ONNX files in as many bits as a point asks for? One file an entry, their weights shared.

    NAME.onnx       the graph of the entry NAME, as exported or with ONNX Runtime's own quantisation in it
    weights.bin     the weights of all entries, each once, by content

Both stay beside each other: a graph names its weights by their place in that file.
"""

import hashlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from optimizer.space import Json
from optimizer.targets.torch.layers import chosen, layers_of
from optimizer.targets.torch.parts import QUANTIZE, Call, Inputs, Job, Knobs
from optimizer.targets.torch.quantize import FIRST, GROUP_SIZE, HEAD, LAST, STATIC
from optimizer.trial import Reason, TrialError

DYNAMIC, INT8_WEIGHT, INT4_WEIGHT = "int8_dynamic", "int8_weight", "int4_weight"
CALIBRATION, PER_CHANNEL = "calibration_method", "per_channel"
CALIBRATIONS: Mapping[str, str] = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
WEIGHTS = "weights.bin"
INLINE_BYTES = 1024  # a smaller constant stays in its graph
PAGE = 4096  # weights begin at one, so that they can be mapped
GROUP = 32  # of int8_weight, which has no knob for it: the finest
INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy level: products of int8 where the weights have 8 bits or fewer
STATIC_OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"]
"""What runs in int8 between layers that do; not Softmax, LayerNormalization, Add: they lose more than they gain."""


def write_graphs(job: Job) -> Mapping[str, Json]:
    """Leaves the files of all entries in job.folder; what became of which layer, in words.

    Raises TrialError where the module can't be exported or the scheme would change nothing.
    """
    module, scheme = job.module(), str(job.knobs.get(QUANTIZE, "none"))
    left, layers = _left(module, job.knobs) if scheme != "none" else (frozenset(), ())
    read = calibrating(job, module) if scheme == STATIC else {}
    notes: dict[str, Json] = {"quantized_layers": list(layers)}
    with TemporaryDirectory(dir=job.folder) as scratch, (job.folder / WEIGHTS).open("wb") as weights:
        store = _Store(weights)
        for name, inputs in job.entries.items():
            model = exported(module, inputs)
            if scheme != "none":
                raw, done = Path(scratch, "raw.onnx"), Path(scratch, "done.onnx")
                ir.save(model, raw, external_data="raw.data")
                _quantize(raw, done, scheme, _names(model, left), read.get(name, ()), job.knobs)
                model = ir.load(done)
            notes[name] = {"operators": operators(model)}
            store.keep(model)
            ir.save(model, job.folder / f"{name}.onnx")
    return notes


def exported(module: nn.Module, inputs: Inputs) -> ir.Model:
    """By torch's exporter of today, with the shapes of the inputs."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of operators of torchvision that it lacks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, inputs, strict=False)
        made = torch.onnx.export(program, dynamo=True, verbose=False)
    if made is None:
        raise TrialError(Reason.COMPILE, "torch.onnx.export made no program")
    return made.model


def operators(model: ir.Model) -> dict[str, int]:
    """How often each operator stands in a graph."""
    found: dict[str, int] = {}
    for node in model.graph:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return dict(sorted(found.items()))


def stored_types(model: ir.Model) -> dict[str, int]:
    """Bytes of the constants of a graph, by the type in which they are stored."""
    found: dict[str, int] = {}
    for value in model.graph.initializers.values():
        if value.dtype is not None and value.shape is not None:
            kind, count = str(value.dtype).lower(), math.prod(value.shape.numpy())
            found[kind] = found.get(kind, 0) + math.ceil(count * value.dtype.bitwidth / 8)
    return found


def graph_bytes(folder: Path, names: Sequence[str]) -> float:
    """Of all constants: the shared file's, without what lies between them, and those within the graphs."""
    places: dict[int, int] = {}
    inline = 0
    for name in names:
        for value in ir.load(folder / f"{name}.onnx").graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                places[tensor.offset or 0] = tensor.length or 0
            elif tensor is not None:
                inline += tensor.nbytes
    return float(sum(places.values()) + inline)


def calibrating(job: Job, module: nn.Module) -> Mapping[str, Sequence[Inputs]]:
    """Inputs of every entry, from data by which nothing is judged: the task's calibration where it has an entry's
    shape, else what an entry is given in the scenario. Raises TrialError where an entry is given nothing."""
    found: dict[str, list[Inputs]] = {name: [] for name in job.entries}
    for inputs in job.task.calibration():
        for name, example in job.entries.items():
            if [x.shape for x in inputs] == [x.shape for x in example]:
                found[name].append(inputs)
    if not all(found.values()):
        seen: dict[str, list[Inputs]] = {name: [] for name in job.entries}
        job.task.scenario({name: _seen(module, seen[name]) for name in job.entries})
        found = {name: given or seen[name] for name, given in found.items()}
    if without := [name for name, given in found.items() if not given]:
        raise TrialError(Reason.REJECTED, f"there are no calibration inputs of the shape of {', '.join(without)}")
    return found


def _seen(module: nn.Module, kept: list[Inputs]) -> Call:
    def call(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        kept.append(tuple(x.clone() for x in inputs))
        answer: Tensor | tuple[Tensor, ...] = module(*inputs)
        return answer

    return call


class _Reader:
    """Calibration inputs as ONNX Runtime takes them: by the names of the graph's inputs, then None."""

    def __init__(self, names: Sequence[str], inputs: Sequence[Inputs]) -> None:
        self._rows: Iterator[dict[str, Any]] = iter(
            [{n: x.cpu().contiguous().numpy() for n, x in zip(names, row, strict=True)} for row in inputs]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._rows, None)


def _left(module: nn.Module, knobs: Knobs) -> tuple[frozenset[str], Sequence[str]]:
    """Layers that the point leaves in float32, and those that it doesn't."""
    kinds = (nn.Linear, nn.Conv2d) if knobs[QUANTIZE] == STATIC else (nn.Linear,)
    layers = layers_of(module, kinds)
    wanted = chosen(
        layers,
        first=bool(knobs.get(FIRST, True)),
        last=bool(knobs.get(LAST, True)),
        head=bool(knobs.get(HEAD, False)),
    )
    names = [layer.name for layer in wanted]
    if not names:
        raise TrialError(Reason.REJECTED, f"quantize={knobs[QUANTIZE]} would change nothing: no layer is left to it")
    return frozenset(layer.name for layer in layers) - set(names), names


def _names(model: ir.Model, left: frozenset[str]) -> list[str]:
    """The nodes of these layers: they say which module they come from, or read a weight of its name."""
    found = []
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        reads = {str(value.name).rpartition(".")[0] for value in node.inputs if value is not None}
        if reads & left or any(f"'{layer}'" in scopes for layer in left):
            found += [str(node.name), f"{node.name}_MatMul"]  # the second: where it is a Gemm that is taken apart
    return found


def _quantize(raw: Path, done: Path, scheme: str, left: list[str], read: Sequence[Inputs], knobs: Knobs) -> None:
    from onnxruntime import quantization as q

    logging.getLogger().setLevel(logging.ERROR)  # it recommends preparations that the exporter has made
    if scheme == STATIC:
        names = [str(value.name) for value in ir.load(raw).graph.inputs]
        q.quantize_static(
            raw,
            done,
            _Reader(names, read),
            op_types_to_quantize=STATIC_OPERATORS,
            per_channel=bool(knobs.get(PER_CHANNEL, True)),
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            nodes_to_exclude=left,
            use_external_data_format=True,
            calibrate_method=q.CalibrationMethod[CALIBRATIONS[str(knobs.get(CALIBRATION, "minmax"))]],
        )
    elif scheme == DYNAMIC:
        q.quantize_dynamic(
            raw,
            done,
            op_types_to_quantize=["MatMul"],
            per_channel=bool(knobs.get(PER_CHANNEL, True)),
            nodes_to_exclude=left,
            use_external_data_format=True,
        )
    else:
        _weights_only(raw, done, 4 if scheme == INT4_WEIGHT else 8, left, knobs)


def _weights_only(raw: Path, done: Path, bits: int, left: list[str], knobs: Knobs) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = ONNXModel(onnx.load(raw))
    model.replace_gemm_with_matmul()
    quantizer = MatMulNBitsQuantizer(
        model.model,
        bits=bits,
        block_size=int(knobs.get(GROUP_SIZE, 64)) if bits == 4 else GROUP,
        is_symmetric=True,
        accuracy_level=INT8_ACTIVATIONS,
        nodes_to_exclude=left,
        op_types_to_quantize=("MatMul",),
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(done), use_external_data_format=True)


class _Store:
    """The shared weights, as they are written."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}

    def keep(self, model: ir.Model) -> None:
        """Moves the larger constants of a graph into the file, and drops those that nothing reads."""
        for name, value in list(model.graph.initializers.items()):
            tensor = value.const_value
            if not value.uses() and not value.is_graph_output():
                del model.graph.initializers[name]
            elif tensor is not None and (tensor.nbytes >= INLINE_BYTES or isinstance(tensor, ir.ExternalTensor)):
                offset, length = self._place(tensor.tobytes())
                shape = ir.Shape(tensor.shape.numpy())
                value.const_value = ir.ExternalTensor(
                    WEIGHTS, offset, length, tensor.dtype, shape=shape, name=name, base_dir=Path(self._file.name).parent
                )

    def _place(self, content: bytes) -> tuple[int, int]:
        key = hashlib.sha256(content).hexdigest()
        if key not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % PAGE))
            self._places[key] = (self._file.tell(), len(content))
            self._file.write(content)
            self._file.flush()
        return self._places[key]
