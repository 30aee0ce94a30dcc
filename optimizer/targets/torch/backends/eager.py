"""What is a model that nobody compiled? torch's own operators, one after the other: the baseline."""

from collections.abc import Mapping

from optimizer.targets.torch.parts import FP32_TOLERANCE, Built, Calls, Job, Knobs


class Eager:
    def missing(self, device: str) -> str | None:
        return None

    def quantizes(self) -> frozenset[str]:
        return frozenset()

    def tolerance(self, knobs: Knobs) -> float:
        return FP32_TOLERANCE

    def build(self, job: Job) -> Built:
        self.load(job)
        return Built(code="eager")

    def load(self, job: Job) -> Calls:
        module = job.module()
        for inputs in job.entries.values():
            module(*inputs)
        return dict.fromkeys(job.entries, module)

    def evidence(self, job: Job) -> Mapping[str, float]:
        return {}
