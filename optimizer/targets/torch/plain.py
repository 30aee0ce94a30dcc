"""What is a plain net for? One forward of a batch is timed; its answers are compared with the unmodified net's."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from optimizer.targets.torch.parts import Answers, Call, Calls, Carried, Entries, Inputs, Reading
from optimizer.trial import Check, Reason, TrialError

FORWARD = "forward"
SCORE = "score."  # answers that an evaluation function gave, by metric
Evaluate = Callable[[Call], Mapping[str, float] | float]
"""Of a callable model, on held-out data: {"accuracy": 0.97}, {"perplexity": 12.1}; a bare number is an accuracy."""


@dataclass(frozen=True)
class PlainTask:
    """A net with one entry. `make` gives the same weights every time; `judged` and `calibrating` share no input.

    axis: of the first output, along which the largest value is the answer.
    """

    hashed: str
    make: Callable[[], nn.Module]
    example: Inputs  # on the device
    judged: Sequence[Inputs]  # on the device
    calibrating: Sequence[Inputs]  # on the processor
    axis: int = -1
    evaluate: Evaluate | None = None
    carrying: Carried = field(default_factory=Carried)

    def content(self) -> str:
        return self.hashed

    def load(self) -> nn.Module:
        return self.make().float().eval().requires_grad_(requires_grad=False)

    def entries(self) -> Entries:
        return {FORWARD: self.example}

    def calibration(self) -> Sequence[Inputs]:
        return self.calibrating

    def carried(self) -> Carried:
        return self.carrying

    def scenario(self, calls: Calls) -> Reading:
        calls[FORWARD](*self.example)
        first = self.example[0]
        return Reading(inferences=float(first.shape[0]) if first.dim() else 1.0)

    def answers(self, calls: Calls) -> Answers:
        call = calls[FORWARD]
        outputs = [_first(call(*inputs)).float().cpu() for inputs in self.judged]
        answers = {"output": torch.stack(outputs).contiguous()}
        if self.evaluate is not None:
            found = self.evaluate(call)
            scores = found if isinstance(found, Mapping) else {"accuracy": found}
            answers |= {f"{SCORE}{name}": torch.tensor(float(value)).double() for name, value in scores.items()}
        return answers

    def judge(self, answers: Answers, reference: Answers) -> Check:
        mine, right = answers["output"], reference["output"]
        agreement = top1_agreement_pct(mine, right, self.axis)
        scores = {n.removeprefix(SCORE): float(v) for n, v in answers.items() if n.startswith(SCORE)}
        before = {n.removeprefix(SCORE): float(v) for n, v in reference.items() if n.startswith(SCORE)}
        quality = {"top1_agreement_pct": agreement, **scores}
        loss = quality_lost_pct(scores, before)
        quality["quality_loss_pct"] = 100.0 - agreement if loss is None else loss
        return Check({"max_rel_error": max_rel_error(mine, right)}, quality)


def quality_lost_pct(scores: Mapping[str, float], before: Mapping[str, float]) -> float | None:
    """Percent of perplexity gained, or points of accuracy lost, against the unmodified model; None without either."""
    if before.get("perplexity"):
        return 100.0 * (scores["perplexity"] / before["perplexity"] - 1.0)
    if "accuracy" in before:
        return 100.0 * (before["accuracy"] - scores["accuracy"])
    return None


def max_rel_error(mine: Tensor, right: Tensor) -> float:
    """The largest difference relative to the largest value of the reference; NaN where anything is not finite.

    Raises TrialError where the shapes differ: that is no answer at all.
    """
    if mine.shape != right.shape:
        raise TrialError(Reason.WRONG, f"it answers in the shape {tuple(mine.shape)}, not {tuple(right.shape)}")
    if not bool(torch.isfinite(mine).all()):
        return math.nan
    return float((mine - right).abs().max() / right.abs().max().clamp_min(1e-30))


def top1_agreement_pct(mine: Tensor, right: Tensor, axis: int) -> float:
    """Share of answers (the largest value along `axis`) that are the same; both have a leading axis of batches."""
    if mine.shape != right.shape:
        raise TrialError(Reason.WRONG, f"it answers in the shape {tuple(mine.shape)}, not {tuple(right.shape)}")
    along = axis + 1 if axis >= 0 else axis
    return 100.0 * float((mine.argmax(along) == right.argmax(along)).float().mean())


def _first(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return outputs[0] if isinstance(outputs, tuple | list) else outputs
