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
    """`calls`: the compiled entries, by name. They take and return tensors of torch, without any conversion."""

    def __init__(self, folder: Path, told: Mapping[str, Any], calls: Mapping[str, Callable[..., Any]]) -> None:
        self.folder, self.told, self.calls = folder, told, calls

    def __call__(self, *arrays: Any) -> Any:
        """One batch of exactly the shapes that the model was built for; an array, or a tuple of them."""
        if FORWARD not in self.calls:
            raise ValueError("A language model is called by generate(ids, n).")
        out = _quietly(self.calls[FORWARD], self._given(arrays))
        return tuple(map(_array, out)) if isinstance(out, tuple | list) else _array(out)

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
        as many as the model was built for at most; prompt and answer together fit its context."""
        import torch

        if PREFILL not in self.calls:
            raise ValueError("This is no language model: call it, or use predict.")
        several = bool(ids) and isinstance(ids[0], list | tuple | np.ndarray)
        rows = torch.tensor(ids if several else [ids], dtype=torch.int64)
        shapes = [torch.Size(entry["shape"]) for entry in self.told["entries"][PREFILL]]
        (batch, prompt), context = shapes[0], shapes[2][2]
        if not 1 <= len(rows) <= batch or rows.shape[1] < 1 or count < 1 or rows.shape[1] + count - 1 > context:
            raise ValueError(
                f"{len(rows)} prompts of {rows.shape[1]} tokens and {count} more: this model takes 1 to {batch} "
                f"prompts of one length, and {context + 1} tokens with what follows."
            )
        filled = torch.cat([rows, rows[-1:].expand(batch - len(rows), -1)])
        with torch.no_grad():
            written = self._written(filled, prompt, shapes, count)
        answer = [[int(token) for token in row] for row in written[: len(rows)]]
        return answer if several else answer[0]

    def _written(self, rows: Any, prompt: int, shapes: Any, count: int) -> Any:
        """Prefill reads as many tokens as it was built for; a shorter prompt is filled up behind its end, where nothing
        looks before it is written over, and its last token is read again. What is longer is read token by token."""
        import torch

        length, device = rows.shape[1], self.told["device"]
        types = [getattr(torch, entry["dtype"]) for entry in self.told["entries"][PREFILL]]
        cache = [torch.zeros(s, dtype=t, device=device) for s, t in zip(shapes[2:], types[2:], strict=True)]
        first = torch.cat([rows, rows[:, -1:].expand(-1, max(0, prompt - length))], dim=1)[:, :prompt].contiguous()
        logits, *cache = self.calls[PREFILL](first.to(device), torch.arange(prompt, device=device), *cache)
        place = min(prompt, length)
        waiting = rows[:, length - 1 :] if length < prompt else rows[:, prompt:]
        place -= int(length < prompt)
        found: list[Any] = []
        while len(found) < count:
            if waiting.shape[1]:
                token, waiting = waiting[:, :1].contiguous(), waiting[:, 1:]
            else:
                token = logits.argmax(-1, keepdim=True).cpu()
                found.append(token)
                if len(found) == count:
                    break
            logits, *cache = self.calls[DECODE](token.to(device), torch.tensor([place], device=device), *cache)
            place += 1
        return torch.cat(found, dim=1)

    def _given(self, arrays: Sequence[Any]) -> list[Any]:
        import torch

        wanted = self.told["entries"][FORWARD]
        if len(arrays) != len(wanted):
            raise ValueError(f"This model takes {len(wanted)} inputs, not {len(arrays)}.")
        given = []
        for array, entry in zip(arrays, wanted, strict=True):
            tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(array))
            if list(tensor.shape) != entry["shape"]:
                shape = tuple(entry["shape"])
                raise ValueError(f"{entry['name']} has the shape {shape}, not {tuple(tensor.shape)}; see predict.")
            given.append(tensor.to(device=self.told["device"], dtype=getattr(torch, entry["dtype"])))
        return given


def _quietly(call: Callable[..., Any], given: Sequence[Any]) -> Any:
    import torch

    with torch.no_grad():
        return call(*given)


def _array(tensor: Any) -> Any:
    """bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _threads(told: Mapping[str, Any]) -> None:
    import torch

    if told["threads"]:
        torch.set_num_threads(told["threads"])


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
    how, examples = told["knobs"].get("jit_optimize", "freeze"), load_file(place / "examples.safetensors")
    calls: dict[str, Callable[..., Any]] = {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        for name, entry in told["entries"].items():
            script: Any = torch.jit.load(str(place / BUILT / f"{name}.torchscript"), map_location=told["device"])  # type: ignore[no-untyped-call]
            script = script.eval()
            if how != "none":
                script = torch.jit.freeze(script)
            if how == "inference":
                script = torch.jit.optimize_for_inference(script)
            for _ in range(PROFILED_RUNS):
                script(*(examples[f"{name}.{i}"].to(told["device"]) for i in range(len(entry))))
            calls[name] = script
    return calls


def _python(place: Path, told: Mapping[str, Any]) -> Mapping[str, Callable[..., Any]]:
    """Runs as Python: the net's code, its pruning and its quantisation are those of the package inference-optimizer."""
    from optimizer.targets.torch.rebuilt import calls_of

    return calls_of(place, told)


LOADERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Mapping[str, Callable[..., Any]]]] = {
    "eager": _python,
    "compile": _python,
    "torchscript": _torchscript,
    "aoti": _aoti,
}
