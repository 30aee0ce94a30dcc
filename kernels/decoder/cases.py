"""What runs of the decoder are compared with its reference, and how is each launched from beginning to end?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.targets.cuda.plan import Array, Case, Launch, Work, max_rel_error
from optimizer.trial import Check

from .forward import Forward, Picked, Tokens, packed
from .model_reference import Reference
from .packing import Packed
from .settings import Settings
from .weights import Config, Model, shapes

SCORED_BY_REFERENCE = 256  # losses that are compared with the reference's
TOKENS = "tokens"
Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Length:
    """Of a run: tokens of a prompt, tokens one by one after it, tokens seen, tokens a launch."""

    prompt: int
    steps: int
    context: int
    rows: int

    @property
    def positions(self) -> int:
        return self.prompt + self.steps


@dataclass(frozen=True)
class Runs:
    """Cases of one model."""

    model: Model
    s: Settings

    @cached_property
    def matrices(self) -> Mapping[str, Packed]:
        return packed(self.model, self.s.changes)

    @cached_property
    def reference(self) -> Reference:
        return Reference(self.model, self.s.changes, self.s.kv_bits)

    def logits(self, name: str, text: Ids, length: Length, metric: str, tolerance: float) -> Case:
        """After the prompt and after each step, of every sequence of text (sequences, positions)."""
        sequences = len(text)
        rows = (1 + length.steps) * sequences
        forward = self.forward(length, sequences, rows, sequences)
        launches = list(prefill(forward, length, 0, sequences, length.positions, keep=True))
        for step in range(length.steps):
            at = Tokens(sequences, position=length.prompt + step, step=True)
            launches += forward.launches(at, Picked(0, 1, sequences, (1 + step) * sequences), length.positions)
        work = Work(forward.buffers(text), {"run": tuple(launches)}, ("logits",))

        def judge(outputs: Mapping[str, Array]) -> Check:
            found = outputs["logits"][:, : self.model.config.vocab].reshape(1 + length.steps, sequences, -1)
            expected = [self.reference.logits(tokens, length.context)[length.prompt - 1 :] for tokens in text]
            return Check({metric: max_rel_error(found, np.stack(expected, axis=1))})

        return Case(name, work, judge, {metric: tolerance})

    def greedy(self, name: str, prompts: Ids, length: Length, tolerance: float) -> Case:
        """Generation with tokens that the device chooses."""
        forward = self.forward(length, len(prompts), len(prompts), len(prompts))
        return self.judged_choice(name, greedy_work(forward, prompts, length, len(prompts)), length, tolerance)

    def judged_choice(self, name: str, work: Work, length: Length, tolerance: float) -> Case:
        """Every chosen token must be one that the reference, given those before it, finds most likely."""
        prompts = work.buffers[TOKENS][:, : length.prompt]

        def judge(outputs: Mapping[str, Array]) -> Check:
            tokens, worst = outputs[TOKENS], 0.0
            whole = ((tokens >= 0) & (tokens < self.model.config.vocab)).all()
            if not whole or (tokens[:, : length.prompt] != prompts).any():
                return Check({"max_rel_error_choice": float("inf")})
            for sequence in tokens:
                logits = self.reference.logits(sequence, length.context)[length.prompt - 1 : -1]
                chosen = logits[np.arange(len(logits)), sequence[length.prompt :]]
                worst = max(worst, float((logits.max(1) - chosen).max() / np.abs(logits).max()))
            return Check({"max_rel_error_choice": worst})

        return Case(name, work, judge, {"max_rel_error_choice": 2 * tolerance})

    def losses(self, name: str, texts: Ids, lead_in: int, length: Length, tolerance: float) -> Case:
        """exp of the mean loss of the tokens of texts (texts, tokens), each but its lead-in, given those before it that
        `context` lets it see; the first losses of the first text are compared with the reference's."""
        sequences, stride = texts.shape
        count, compared = stride - 1, min(stride - 1, lead_in + SCORED_BY_REFERENCE)
        rows = min(length.rows, count)
        forward = Forward(self.model, self.matrices, self.s, sequences, stride, length.context, rows, rows)
        launches: list[Launch] = []
        for sequence in range(sequences):
            for first in range(0, count, rows):
                some = min(rows, count - first)
                at = Tokens(some, first, count, 0, sequence)
                launches += forward.launches(at, Picked(0, 1, some, 0), stride)
                launches.append(forward.surprise(some, sequence * stride + first))
        buffers = {**forward.buffers(texts), "losses": np.full(sequences * stride, np.nan, np.float32)}

        def judge(outputs: Mapping[str, Array]) -> Check:
            losses = outputs["losses"].reshape(sequences, stride)[:, :count].astype(np.float64)
            expected = self.reference.losses(texts[0, : compared + 1], length.context)
            error = max_rel_error(losses[0, :compared], expected)
            return Check({"max_rel_error_loss": error}, {"perplexity": float(np.exp(losses[:, lead_in:].mean()))})

        # a loss is a difference of two logits; the largest logit is at most some four times the largest loss
        return Case(
            name, Work(buffers, {"run": tuple(launches)}, ("losses",)), judge, {"max_rel_error_loss": 8 * tolerance}
        )

    def forward(self, length: Length, sequences: int, logits_rows: int, at_a_time: int) -> Forward:
        """`at_a_time`: sequences whose steps one launch takes."""
        size, context, most = length.positions, length.context, max(length.rows, at_a_time)
        return Forward(self.model, self.matrices, self.s, sequences, size, context, most, logits_rows)


def prefill(
    forward: Forward, length: Length, sequence: int, sequences: int, stride: int, keep: bool
) -> Iterator[Launch]:
    """The prompts of some sequences, `rows` tokens a launch; logits of each prompt's last token, in rows that are kept
    for all sequences or, where each is chosen from at once, used again."""
    total = sequences * length.prompt
    for first in range(0, total, length.rows):
        count = min(length.rows, total - first)
        done = range(first // length.prompt, (first + count) // length.prompt)  # sequences whose last token is here
        picked = None
        if done:
            last = done.start * length.prompt + length.prompt - 1 - first
            picked = Picked(last, length.prompt, len(done), done.start if keep else 0)
        yield from forward.launches(Tokens(count, first, length.prompt, 0, sequence), picked, stride)
        if done and not keep:
            yield forward.choose(len(done), length.prompt, sequence + done.start, stride)


def greedy_work(forward: Forward, prompts: Ids, length: Length, batch: int) -> Work:
    """`batch` sequences at a time; `steps` tokens each, of which the last is not taken through the model."""
    sequences, stride = len(prompts), length.positions
    tokens = np.full((sequences, stride), -1, np.int32)
    tokens[:, : length.prompt] = prompts
    prompt: list[Launch] = []
    steps: list[Launch] = []
    for first in range(0, sequences, batch):
        prompt += prefill(forward, length, first, batch, stride, keep=False)
        for position in range(length.prompt, stride - 1):
            at = Tokens(batch, position=position, sequence=first, step=True)
            steps += forward.launches(at, Picked(0, 1, batch, 0), stride)
            steps.append(forward.choose(batch, position + 1, first, stride))
    return Work(forward.buffers(tokens), {"prefill": tuple(prompt), "decode": tuple(steps)}, (TOKENS,))


def random_model(c: Config, seed: int) -> Model:
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.normal(0, 0.3 if len(shape) == 1 else shape[1] ** -0.5, shape).astype(np.float32)
        for name, shape in shapes(c).items()
    }
    return Model(c, tensors)
