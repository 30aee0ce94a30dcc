"""How is decoder.cu launched at a point of its space, and what must come out?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from optimizer.space import Value
from optimizer.targets.cuda.operands import LARGEST_SHARED_BYTES, Whole, ceil_div, whole_numbers
from optimizer.targets.cuda.plan import Block, Case, Work

from .cases import Ids, Length, Runs, greedy_work, random_model
from .settings import Settings, Sizes, blocks_of
from .weights import Config, Model, read_config, read_model, rejected

OPTIONS = {
    "batch": Whole(1, high=4096), "context": Whole(256, high=1 << 20), "requests": Whole(8, high=1 << 20),
    "prompt": Whole(64, high=1 << 20), "generate": Whole(32, high=1 << 20), "eval-tokens": Whole(4096, high=1 << 24),
    "check-tokens": Whole(96, low=2, high=1 << 16), "eval-windows": Whole(0, low=0, high=1 << 20),
    "window-tokens": Whole(256, low=2, high=1 << 20),
}  # fmt: skip
STEPS = 4  # tokens that the check takes one by one after its prompt
LEAD_IN = 64  # tokens of the text that are read before the first is scored
RING = 40  # a context so small that the cache's ring wraps around
OF_LOGITS = {32: 2e-5, 16: 2e-3, 8: 4e-3}  # README.md says why


class Operation:
    """Prefill and greedy generation for `requests`, `batch` at a time; README.md has the scenario."""

    def __init__(self, options: Mapping[str, str], files: Mapping[str, Path], knobs: Mapping[str, Value]) -> None:
        chosen = {name: str(knobs[name]) for name in ("batch", "context") if name in knobs}
        self._o = whole_numbers({**options, **chosen}, OPTIONS)
        self._s = Settings.of(knobs, self._o["batch"])
        self._path = files["model"]
        self._c = read_config(self._path)
        self.text = tokens_of(files["text"], self._c.vocab)
        o = self._o
        if o["requests"] % o["batch"]:
            raise rejected(
                f"a batch of {o['batch']} does not divide {o['requests']} requests: every configuration must do the "
                "same work"
            )
        read = o["requests"] + o["prompt"] + o["check-tokens"] + STEPS
        needed = self._windows + read if o["eval-windows"] else max(o["eval-tokens"] + LEAD_IN + 1, read)
        if len(self.text) < needed:
            raise rejected(f"the text has {len(self.text)} tokens; this scenario needs {needed}")
        for name, block in self.blocks.items():
            if block.shared_bytes > LARGEST_SHARED_BYTES:
                raise rejected(
                    f"{name} needs {block.shared_bytes} bytes of shared memory; a block may have "
                    f"{LARGEST_SHARED_BYTES}. A smaller BATCH_TILE, SHARED_PAD or context, or STAGE=false needs less."
                )

    @property
    def macros(self) -> Mapping[str, int]:
        return {"BLOCK_THREADS": self._s.warps * 32, "STEP_TILE": self._s.step_tile}

    @property
    def blocks(self) -> Mapping[str, Block]:
        return blocks_of(self._s, Sizes(self._c), min(self._o["context"], self._o["prompt"] + self._o["generate"]))

    @property
    def tensor_cores(self) -> bool:
        return False

    @property
    def facts(self) -> Mapping[str, float]:
        o, c = self._o, self._c
        matrices = self.runs.matrices
        embedding = matrices["embedding"]
        linear = [m for name, m in matrices.items() if name != "embedding"]
        kept, dense = sum(m.kept for m in linear), sum(m.dense for m in linear)
        tokens = o["requests"] * (o["prompt"] + o["generate"] - 1)
        batches, prompts = o["requests"] // o["batch"], o["batch"] * o["prompt"]
        passes = batches * (ceil_div(prompts, self._s.prefill_rows) + o["generate"] - 1)
        seen = [min(o["context"], p + 1) for p in range(o["prompt"] + o["generate"] - 1)]
        cache_bytes = 2 * c.kv_heads * c.head_dim * self._s.kv_bits // 8 * o["requests"] * sum(
            sum(min(n, c.window) if c.is_local(i) else n for n in seen) for i in range(c.layers)
        )  # fmt: skip
        return {
            "flop": 2.0 * (tokens * kept + o["requests"] * o["generate"] * embedding.dense),
            "bytes_moved": float(
                passes * sum(m.bytes for m in linear) + batches * o["generate"] * embedding.bytes + cache_bytes
            ),
            "model_bytes": float(sum(m.bytes for m in matrices.values())),
            "parameters": float(kept + embedding.dense),
            "sparsity_pct": 100.0 * (1.0 - kept / dense),
        }

    def small(self) -> Sequence[Case]:
        """A tiny model whose sizes divide by nothing: sequences that fill a tile and one more, a ring that wraps
        around, the choice of tokens and their losses; then one with several loads a row for each thread of a team."""
        s = self._s
        tolerance, sequences = OF_LOGITS[s.kv_bits], s.step_tile + 1
        tiny = Config(50, 36, 76, 2, 4, 2, 10, 3, 2, 100.0, 1000.0, 1e-6, 9.0)
        long = s.lanes * s.load_bytes * 8 // s.changes.weight_bits + 12
        wide = replace(
            tiny, ffn=(long if s.changes.pruning in ("none", "magnitude") else 2 * long), layers=1, pattern=1
        )
        length = Length(prompt=6, steps=5, context=4, rows=s.batch_tile + 1)
        runs = Runs(random_model(tiny, 1), s)
        text = np.random.default_rng(3).integers(0, tiny.vocab, (sequences, length.positions), np.int32)
        return [
            runs.logits("ring", text, length, "max_rel_error", tolerance),
            runs.greedy("greedy", text[:, : length.prompt], replace(length, steps=3), tolerance),
            runs.losses("losses", text[:2], 1, length, tolerance),
            Runs(random_model(wide, 2), s).logits("wide", text[:1, :3], Length(2, 1, 8, 2), "max_rel_error", tolerance),
        ]

    def full(self) -> Sequence[Case]:
        """The model itself: logits after a prompt and some tokens at the trial's context and at a small one, the tokens
        of the scenario, the perplexity."""
        o, tolerance, runs = self._o, tolerance_of(self._c, self._s.kv_bits), self.runs
        check = Length(o["check-tokens"], STEPS, o["context"], self._s.prefill_rows)
        text = self._prompts(range(o["batch"]), check.positions)
        small = replace(check, context=min(o["context"], RING, o["check-tokens"] // 2))
        return [
            runs.logits("logits", text, check, "max_rel_error", tolerance),
            runs.logits("ring", text, small, "max_rel_error_ring", tolerance),
            runs.judged_choice("scenario", self.scenario(), self._length, tolerance),
            runs.losses("perplexity", *self._scored(), self._length, tolerance),
        ]

    def scenario(self) -> Work:
        """All requests: the prompts of every batch, then the tokens of every batch, each batch by itself."""
        o, length = self._o, self._length
        requests = self._prompts(range(o["requests"]), length.prompt)
        forward = self.runs.forward(length, o["requests"], o["batch"], o["batch"])
        return greedy_work(forward, requests, length, o["batch"])

    def readings(self, seconds: Mapping[str, float]) -> Mapping[str, float]:
        o = self._o
        batches, first_s = o["requests"] // o["batch"], seconds["prefill"]
        total_s = first_s + seconds.get("decode", 0.0)
        return {
            "latency_s": total_s / batches,
            "throughput_ips": o["requests"] / total_s,
            "tokens_per_s": o["requests"] * o["generate"] / total_s,
            "ttft_s": first_s / batches,
            "prefill_tokens_per_s": o["requests"] * o["prompt"] / first_s,
        }

    @property
    def _length(self) -> Length:
        o = self._o
        return Length(o["prompt"], o["generate"], o["context"], self._s.prefill_rows)

    @cached_property
    def runs(self) -> Runs:
        return Runs(self._model, self._s)

    @cached_property
    def _model(self) -> Model:
        return read_model(self._path)

    @property
    def _windows(self) -> int:
        """Tokens at the beginning of the text that are judged, in windows, and by no request."""
        return self._o["eval-windows"] * self._o["window-tokens"]

    def _scored(self) -> tuple[Ids, int]:
        """(texts, tokens) whose likelihood is the quality, and how many tokens of each are only read: the windows that
        the text begins with; without windows, `eval-tokens` from its middle."""
        o = self._o
        if o["eval-windows"]:
            return self.text[: self._windows].reshape(o["eval-windows"], -1), 0
        total = o["eval-tokens"] + LEAD_IN + 1
        start = (len(self.text) - total) // 2
        return self.text[None, start : start + total], LEAD_IN

    def _prompts(self, requests: range, length: int) -> Ids:
        """(requests, length): they start at different places of the text, as decoder.cpp has them."""
        o = self._o
        begin = self._windows
        room = len(self.text) - begin - o["prompt"] - o["check-tokens"] - STEPS
        starts = [begin + r * room // o["requests"] for r in requests]
        return np.stack([self.text[start : start + length] for start in starts])


def tolerance_of(c: Config, kv_bits: int) -> float:
    """Of logits, as decoder.cpp has it: each layer adds its own error, and of a longer key that is kept in fewer bits
    more numbers may round otherwise."""
    longer = 1.0 if kv_bits == 32 else math.sqrt(max(1.0, c.head_dim / 32))
    return OF_LOGITS[kv_bits] * longer * max(1.0, c.layers / 4)


def tokens_of(path: Path, vocab: int) -> Ids:
    """The bytes of a file, or, where it ends in .ids, its 32-bit numbers (little endian)."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise rejected(f"the text {path} can't be read: {error}") from None
    ids = (
        np.frombuffer(content[: len(content) // 4 * 4], "<i4")
        if path.suffix == ".ids"
        else np.frombuffer(content, np.uint8)
    )
    if not len(ids) or ids.min() < 0 or ids.max() >= vocab:
        raise rejected(f"the text {path} is empty or has tokens that the model lacks")
    return ids.astype(np.int32)
