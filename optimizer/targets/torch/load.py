"""How is this exported model loaded and run? From the files beside this one, with the runtime that model.json names.

    from load import load_model

    model = load_model()              # of this folder, or load_model("path/to/the/folder")
    model(x)                          # arrays or tensors of the shapes in model.json; NumPy arrays come back
    model.predict(x)                  # any number of rows, in batches of the size that the model was built for
    model.generate([1, 2, 3], 16)     # a language model: token ids in, the 16 ids that follow out (greedy)

It needs what requirements.txt lists and nothing else. Loading sets, for the whole process, the threads and the other
settings that the model was measured with: one exported model a process.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORWARD, PREFILL, DECODE = "forward", "prefill", "decode"
BUILT = "built"  # the folder of what a backend left
VECTORS = ("DEFAULT", "AVX2", "AVX512")  # each has those before it
PROFILED_RUNS = 3  # TorchScript's executor specialises itself to the shapes in the first two


def load_model(folder: str | Path | None = None) -> "Model":
    """Raises ValueError where the folder holds no model of a kind that is known here, ImportError where a runtime is
    not installed."""
    place = Path(folder) if folder is not None else Path(__file__).resolve().parent
    try:
        told = json.loads((place / "model.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{place} holds no exported model: model.json {error.strerror}.") from None
    if told["backend"] not in LOADERS:
        raise ValueError(f"{place}: backend {told['backend']} is not known here; it is one of {', '.join(LOADERS)}.")
    return Model(place, told, LOADERS[told["backend"]](place, told))


class Model:
    """`calls`: the compiled entries, by name. Without any conversion they take and return tensors of torch, or NumPy
    arrays where the runtime is not torch (`arrays`)."""

    def __init__(self, folder: Path, told: Mapping[str, Any], calls: Mapping[str, Callable[..., Any]]) -> None:
        self.folder, self.told, self.calls = folder, told, calls
        self.arrays = told["backend"] in ARRAYS

    def __call__(self, *arrays: Any) -> Any:
        """One batch of exactly the shapes that the model was built for; an array, or a tuple of them."""
        if FORWARD not in self.calls:
            raise ValueError("A language model is called by generate(ids, n).")
        wanted = self.told["entries"][FORWARD]
        if len(arrays) != len(wanted):
            raise ValueError(f"This model takes {len(wanted)} inputs, not {len(arrays)}.")
        for array, entry in zip(arrays, wanted, strict=True):
            if list(array.shape) != entry["shape"]:
                shape = tuple(entry["shape"])
                raise ValueError(f"{entry['name']} has the shape {shape}, not {tuple(array.shape)}; see predict.")
        out = self._run(FORWARD, [self._given(a, e["dtype"]) for a, e in zip(arrays, wanted, strict=True)])
        return tuple(map(_array, out)) if len(out) > 1 else _array(out[0])

    def predict(self, *arrays: Any) -> Any:
        """Any number of rows: they are cut into batches, the last one is filled up. Inputs and outputs must all have
        the batch as their first axis."""
        batch = self.told["entries"][FORWARD][0]["shape"][0] if FORWARD in self.calls else 0
        if not self.told["rows"]:
            raise ValueError("This model's first axis is no batch: call it with the shapes in model.json.")
        given = [np.asarray(array) for array in arrays]
        count = len(given[0]) if given else 0
        if not count:
            raise ValueError("There is no row to predict.")
        found = []
        for start in range(0, count, batch):
            part = [array[start : start + batch] for array in given]
            out = self(*(np.concatenate([p, np.repeat(p[-1:], batch - len(p), 0)]) for p in part))
            found.append(tuple(y[: len(part[0])] for y in (out if isinstance(out, tuple) else (out,))))
        whole = tuple(np.concatenate(column) for column in zip(*found, strict=True))
        return whole if len(whole) > 1 else whole[0]

    def generate(self, ids: Sequence[int] | Sequence[Sequence[int]], count: int) -> list[Any]:
        """The `count` token ids that follow each prompt, the likeliest each time. One prompt or several of one length,
        as many as the model was built for at most; prompt and answer together fit its context, where that is static."""
        if PREFILL not in self.calls:
            raise ValueError("This is no language model: call it, or use predict.")
        several = len(ids) > 0 and isinstance(ids[0], list | tuple | np.ndarray)
        rows = np.asarray(ids if several else [ids], dtype=np.int64)
        (batch, prompt), context = self._told(PREFILL, 0)["shape"], self._told(PREFILL, 2)["shape"][2]
        length = rows.shape[1] if rows.ndim == 2 else 0
        too_long = 0 < context < length + count - 1
        if not 1 <= len(rows) <= batch or length < 1 or count < 1 or too_long:
            most = f", and {context + 1} tokens with what follows" if context else ""
            raise ValueError(
                f"{len(rows)} prompts of {length} tokens and {count} more: this model takes 1 to {batch} prompts of "
                f"one length{most}."
            )
        filled = np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows), 0)])
        answer = self._written(filled, prompt if context else length, count)[: len(rows)].tolist()
        return answer if several else list(answer[0])

    def _written(self, rows: Any, prompt: int, count: int) -> Any:
        """Prefill reads `prompt` tokens: as many as it was built for, or all of them where the cache grows. A shorter
        one is filled up behind its end, where nothing looks before it is written over, and its last token is read
        again. What is longer is read token by token."""
        length = rows.shape[1]
        first = np.concatenate([rows, np.repeat(rows[:, -1:], max(0, prompt - length), 1)], axis=1)[:, :prompt]
        caches = self.told["entries"][PREFILL][2:]
        state = [self._zeros(entry["shape"], entry["dtype"]) for entry in caches]
        logits, *state = self._run(PREFILL, [self._given(first), self._given(np.arange(prompt)), *state])
        again = int(length < prompt)
        place, waiting = min(prompt, length) - again, rows[:, min(prompt, length) - again :]
        found: list[Any] = []
        while True:
            if waiting.shape[1]:
                token, waiting = waiting[:, :1], waiting[:, 1:]
            else:
                token = _array(logits).argmax(-1)[:, None]
                found.append(token)
                if len(found) == count:
                    return np.concatenate(found, axis=1)
            logits, *state = self._run(DECODE, [self._given(token), self._given(np.array([place])), *state])
            place += 1

    def _told(self, entry: str, index: int) -> Mapping[str, Any]:
        told: Mapping[str, Any] = self.told["entries"][entry][index]
        return told

    def _run(self, entry: str, given: Sequence[Any]) -> Sequence[Any]:
        if self.arrays:
            out = self.calls[entry](*given)
        else:
            import torch

            with torch.no_grad():
                out = self.calls[entry](*given)
        return out if isinstance(out, tuple | list) else (out,)

    def _given(self, array: Any, dtype: str = "int64") -> Any:
        """As the runtime wants it."""
        if self.arrays:
            return np.ascontiguousarray(array, dtype=dtype)
        import torch

        tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(device=self.told["device"], dtype=getattr(torch, dtype))

    def _zeros(self, shape: Sequence[int], dtype: str) -> Any:
        if self.arrays:
            return np.zeros(shape, dtype=dtype)
        import torch

        return torch.zeros(list(shape), dtype=getattr(torch, dtype), device=self.told["device"])


def _array(tensor: Any) -> Any:
    """bfloat16, which NumPy lacks, as float32."""
    if isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _threads(told: Mapping[str, Any]) -> None:
    import torch

    torch.set_num_threads(told["threads"])


def scripted(path: Path, device: str, knobs: Mapping[str, Any], inputs: Sequence[Any]) -> Any:
    """TorchScript as it runs at a point, called until its executor knows the shapes of the inputs."""
    import torch

    script: Any = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    script, how = script.eval(), knobs.get("jit_optimize", "freeze")
    if how != "none":
        script = torch.jit.freeze(script)
    if how == "inference":
        script = torch.jit.optimize_for_inference(script)
    for _ in range(PROFILED_RUNS):
        script(*inputs)
    return script


def session_options(knobs: Mapping[str, Any]) -> Any:
    """ONNX Runtime's options of a session at a point; a knob that it lacks leaves ONNX Runtime's own setting."""
    import onnxruntime

    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.log_severity_level = 3  # the least severe that is logged: errors
    options.intra_op_num_threads = int(knobs.get("threads", 0))
    options.graph_optimization_level = {
        "none": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[str(knobs.get("ort_optimization", "all"))]
    if knobs.get("ort_execution", "sequential") == "parallel":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        options.inter_op_num_threads = int(knobs.get("ort_inter_threads", 0))
    options.enable_cpu_mem_arena = bool(knobs.get("ort_arena", True))
    options.enable_mem_pattern = bool(knobs.get("ort_memory_pattern", True))
    spinning = "1" if knobs.get("ort_spinning", True) else "0"
    for kind in ("intra", "inter"):
        options.add_session_config_entry(f"session.{kind}_op.allow_spinning", spinning)
    if knobs.get("ort_flush_denormals"):
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return options


def properties(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """OpenVINO's properties at a point; a knob that it lacks leaves OpenVINO's own setting, but float32 is float32."""
    found: dict[str, Any] = {
        "PERFORMANCE_HINT": str(knobs.get("ov_hint", "latency")).upper(),
        "INFERENCE_PRECISION_HINT": str(knobs.get("ov_precision", "f32")),
    }
    for knob, key in (("threads", "INFERENCE_NUM_THREADS"), ("ov_streams", "NUM_STREAMS")):
        if count := int(knobs.get(knob, 0)):
            found[key] = count
    if "ov_pinning" in knobs:
        found["ENABLE_CPU_PINNING"] = bool(knobs["ov_pinning"])
    if knobs.get("ov_flush_denormals"):
        found["CPU_DENORMALS_OPTIMIZATION"] = True
    return found


def _aoti(place: Path, told: Mapping[str, Any]) -> Mapping[str, Callable[..., Any]]:
    import torch
    from torch._inductor import aoti_load_package

    here, there = torch.backends.cpu.get_cpu_capability(), told["cpu"]
    if there in VECTORS and VECTORS.index(there) > (VECTORS.index(here) if here in VECTORS else 0):
        raise ValueError(f"It was compiled for a processor with {there}, and this one has {here}: export it here.")
    _threads(told)
    return {name: aoti_load_package(str(place / BUILT / f"{name}.pt2")) for name in told["entries"]}


def _torchscript(place: Path, told: Mapping[str, Any]) -> Mapping[str, Callable[..., Any]]:
    import torch
    from safetensors.torch import load_file

    _threads(told)
    examples = load_file(place / "examples.safetensors")
    calls: dict[str, Callable[..., Any]] = {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        for name, entry in told["entries"].items():
            inputs = [examples[f"{name}.{i}"].to(told["device"]) for i in range(len(entry))]
            calls[name] = scripted(place / BUILT / f"{name}.torchscript", told["device"], told["knobs"], inputs)
    return calls


def _onnxruntime(place: Path, told: Mapping[str, Any]) -> Mapping[str, Callable[..., Any]]:
    import onnxruntime

    options = session_options(told["knobs"])

    def call(name: str) -> Callable[..., Any]:
        session = onnxruntime.InferenceSession(
            str(place / BUILT / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_inputs()]
        return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))

    return {name: call(name) for name in told["entries"]}


def _openvino(place: Path, told: Mapping[str, Any]) -> Mapping[str, Callable[..., Any]]:
    import openvino

    asked = properties(told["knobs"])
    core = openvino.Core()

    def call(name: str) -> Callable[..., Any]:
        compiled = core.compile_model(core.read_model(place / BUILT / f"{name}.xml"), "CPU", asked)
        request = compiled.create_infer_request()

        def run(*arrays: Any) -> Sequence[Any]:
            said = request.infer(list(arrays), share_inputs=True)
            return [said[i] for i in range(len(said))]

        return run

    return {name: call(name) for name in told["entries"]}


def _tensorrt(place: Path, told: Mapping[str, Any]) -> Mapping[str, Callable[..., Any]]:
    import torch_tensorrt

    return {name: torch_tensorrt.load(str(place / BUILT / f"{name}.ep")).module() for name in told["entries"]}


def _python(place: Path, told: Mapping[str, Any]) -> Mapping[str, Callable[..., Any]]:
    """Runs as Python: the net's code, its pruning and its quantisation are those of the package inference-optimizer."""
    from optimizer.targets.torch.rebuilt import calls_of

    _threads(told)
    return calls_of(place, told)


LOADERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Mapping[str, Callable[..., Any]]]] = {
    "eager": _python,
    "compile": _python,
    "torchscript": _torchscript,
    "aoti": _aoti,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
}
ARRAYS = ("onnxruntime", "openvino")
"""Backends that need no torch: their calls take and return NumPy arrays."""
