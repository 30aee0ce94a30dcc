"""What does TorchScript make of a model? A traced graph, frozen or also optimised for inference, run without Python."""

import warnings
from collections.abc import Mapping

import torch

from optimizer.targets.torch.load import scripted
from optimizer.targets.torch.parts import FP32_TOLERANCE, Built, Call, Calls, Job, Knobs
from optimizer.trial import Reason, TrialError


class TorchScript:
    def __init__(self) -> None:
        self._operators: tuple[str, ...] = ()

    def missing(self, device: str) -> str | None:
        if not hasattr(torch.jit, "trace") or not hasattr(torch.jit, "freeze"):
            return f"torch {torch.__version__} has no TorchScript any more: install an older torch"
        return None

    def quantizes(self) -> frozenset[str]:
        return frozenset()

    def tolerance(self, knobs: Knobs) -> float:
        return FP32_TOLERANCE

    def build(self, job: Job) -> Built:
        module = job.module()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for name, inputs in job.entries.items():
                traced = torch.jit.trace(module, inputs, check_trace=False)  # type: ignore[no-untyped-call]
                torch.jit.save(traced, job.folder / f"{name}.torchscript")
        doubts = sorted({str(w.message).splitlines()[0] for w in said if "Tracer" in w.category.__name__})
        self.load(job)
        return Built(notes={"doubts": doubts, "operators": sorted(set(self._operators))})

    def load(self, job: Job) -> Calls:
        calls: dict[str, Call] = {}
        operators: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, which is no news of this point
            for name, inputs in job.entries.items():
                script = scripted(job.folder / f"{name}.torchscript", job.device, job.knobs, inputs)
                operators += [node.kind() for node in script.inlined_graph.nodes()]
                calls[name] = script
        self._operators = tuple(operators)
        return calls

    def evidence(self, job: Job) -> Mapping[str, float]:
        if "prim::PythonOp" in self._operators:
            raise TrialError(Reason.REJECTED, "TorchScript left a part of the model to Python")
        return {"graphs": float(len(job.entries)), "operators": float(len(self._operators))}
