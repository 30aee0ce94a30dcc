"""What goes into a folder so that a built point can be loaded, run and judged elsewhere? Written by a worker."""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from optimizer.space import Json
from optimizer.targets.torch.jobs import Work
from optimizer.targets.torch.load import ARRAYS, BUILT, FORWARD
from optimizer.targets.torch.parts import BACKEND, QUANTIZE, Calls, Entries
from optimizer.targets.torch.quantize import SCHEMES
from optimizer.targets.torch.stored import shapes_of, tensors_of, unwrapped
from optimizer.targets.torch.tables import BACKENDS
from optimizer.targets.torch.told import ANSWERS, EXAMPLES, FORMAT, MODEL, SOURCE, WEIGHTS
from optimizer.trial import Reason, TrialError


def ship(work: Work, out: Path) -> Mapping[str, Json]:
    """Writes the built point into `out`, an empty folder; returns what model.json says."""
    calls = work.backend.load(work.job)
    answers, reference = work.task.answers(calls), work.reference()
    check = work.task.judge(answers, reference)
    both = {
        f"{whose}.{n}": t for whose, said in (("winner", answers), ("baseline", reference)) for n, t in said.items()
    }
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in both.items()}, out / ANSWERS)
    _examples(work.job.entries, out)
    told: dict[str, Any] = {
        "format": FORMAT,
        "task": work.document["task"],
        "options": dict(_carried(work, out)),
        "knobs": dict(work.knobs),
        "baseline": work.document["baseline"],
        "backend": str(work.knobs.get(BACKEND, "eager")),
        "device": work.device,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),  # as the worker has set them
        **_entries(work.job.entries, calls),
        "quality": {name: float(value) for name, value in check.quality.items()},
        "errors": {name: float(value) for name, value in check.errors.items()},
        "shapes": _files(work, out),
    }
    told["requirements"] = _requirements(work, told["backend"])
    (out / "requirements.txt").write_text("".join(f"{line}\n" for line in told["requirements"]), encoding="utf-8")
    (out / MODEL).write_text(json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("load.py"), out / "load.py")
    return told


def _files(work: Work, out: Path) -> Mapping[str, Any]:
    """What the backend left, as it is; else the weights, whose shapes are returned."""
    patterns = BACKENDS[str(work.knobs.get(BACKEND, "eager"))].ships
    if not patterns:
        net = unwrapped(work.module)
        save_file(tensors_of(net), out / WEIGHTS)
        return shapes_of(net)
    found = sorted({path for pattern in patterns for path in work.folder.glob(pattern)})
    if not found:
        raise TrialError(Reason.CRASH, f"the build in {work.folder} has no {' or '.join(patterns)} any more")
    (out / BUILT).mkdir()
    for path in found:
        shutil.copyfile(path, out / BUILT / path.name)
    return {}


def _carried(work: Work, out: Path) -> Mapping[str, Json]:
    carried = work.task.carried()
    for name, content in carried.files.items():
        (out / SOURCE).mkdir(exist_ok=True)
        (out / SOURCE / name).write_bytes(content)
    return {**work.document["options"], **carried.options}


def _examples(entries: Entries, out: Path) -> None:
    flat = {
        f"{name}.{i}": x.detach().cpu().contiguous().clone() for name, xs in entries.items() for i, x in enumerate(xs)
    }
    save_file(flat, out / EXAMPLES)


def _entries(entries: Entries, calls: Calls) -> Mapping[str, Json]:
    told_in = {n: [_told(f"input_{i}", x) for i, x in enumerate(xs)] for n, xs in entries.items()}
    outputs = {}
    for name, inputs in entries.items():
        out = calls[name](*inputs)
        each = out if isinstance(out, tuple | list) else (out,)
        outputs[name] = [_told(f"output_{i}", y) for i, y in enumerate(each)]
    plain = [t["shape"][:1] for t in (*told_in.get(FORWARD, ()), *outputs.get(FORWARD, ()))]
    return {
        "entries": told_in,
        "outputs": outputs,
        "rows": bool(plain) and plain[0] != [] and plain.count(plain[0]) == len(plain),
    }


def _told(name: str, tensor: Tensor) -> Mapping[str, Any]:
    return {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _requirements(work: Work, backend: str) -> list[str]:
    """The packages that load.py imports at this point, with the versions that were measured."""
    names = ["numpy", "safetensors", *(() if backend in ARRAYS else ("torch",)), *BACKENDS[backend].runtime]
    if not BACKENDS[backend].ships:
        names.append("inference-optimizer")
        names += ["torchao"] if work.knobs.get(QUANTIZE) in SCHEMES else []
        names += ["transformers"] if work.document["task"] == "language" else []
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]
