"""What does AOTInductor make of a model? A package with its own shared library, loaded without the model's Python."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch._inductor import aoti_compile_and_package, aoti_load_package

from optimizer.space import digest
from optimizer.targets.native import code_key
from optimizer.targets.torch.backends.inductor import compiler_missing
from optimizer.targets.torch.backends.options import OPTIONS, in_effect, options_of, tolerance
from optimizer.targets.torch.parts import Built, Call, Calls, Job, Knobs
from optimizer.trial import Reason, TrialError


class Aoti:
    def missing(self, device: str) -> str | None:
        return compiler_missing(device)

    def quantizes(self) -> frozenset[str]:
        return frozenset()

    def tolerance(self, knobs: Knobs) -> float:
        return tolerance(knobs)

    def build(self, job: Job) -> Built:
        module = job.module()
        options = options_of(job.knobs)
        in_effect(options)
        for name, inputs in job.entries.items():
            exported = torch.export.export(module, inputs, strict=False)
            aoti_compile_and_package(exported, package_path=str(_package(job, name)))
        self.load(job)
        size = sum(_package(job, name).stat().st_size for name in job.entries)
        facts = {**self.evidence(job), "package_bytes": float(size)}
        notes = {"options": {k: str(v) for k, v in options.items()}}
        return Built(_code(job), facts, notes, frozenset(OPTIONS))

    def load(self, job: Job) -> Calls:
        calls: dict[str, Call] = {}
        for name, inputs in job.entries.items():
            if not _libraries(_package(job, name)):
                raise TrialError(Reason.REJECTED, f"the package of {name} has no compiled library in it")
            calls[name] = aoti_load_package(str(_package(job, name)))
            calls[name](*inputs)
        return calls

    def evidence(self, job: Job) -> Mapping[str, float]:
        return {"graphs": float(len(job.entries)), "graph_breaks": 0.0, "recompiles": 0.0}


def _package(job: Job, name: str) -> Path:
    return job.folder / f"{name}.pt2"


def _libraries(package: Path) -> list[str]:
    with zipfile.ZipFile(package) as archive:
        return [name for name in archive.namelist() if name.endswith(".so")]


def _code(job: Job) -> str:
    """A hash of the machine code and of the weights, which lie in the library or beside it."""
    hashes = []
    with TemporaryDirectory() as folder:
        for name in sorted(job.entries):
            package = _package(job, name)
            with zipfile.ZipFile(package) as archive:
                parts = [Path(archive.extract(part, folder)) for part in _libraries(package)]
            hashes += [code_key(part) for part in parts]
    return digest(hashes)
