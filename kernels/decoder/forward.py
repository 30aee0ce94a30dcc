"""Which launches take tokens through the decoder? Buffers and launches of decoder.cu for one model at one point."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optimizer.targets.cuda.operands import ceil_div
from optimizer.targets.cuda.plan import Array, Launch

from .packing import Packed, pack, padded
from .settings import Settings, Sizes, attention_shared_bytes, product_shared_bytes
from .weights import LANES, LAST_NORM, PARTS, Changes, Config, Floats, Model

KEPT: Mapping[int, np.dtype[Any]] = {32: np.dtype(np.float32), 16: np.dtype(np.uint16), 8: np.dtype(np.int8)}
KEPT_NAN = {32: np.nan, 16: 0x7FC0, 8: 0}
Int, Float = np.int32, np.float32
Arguments = tuple[str | np.generic, ...]


@dataclass(frozen=True)
class Tokens:
    """Tokens first, …, first + count - 1 of sequences from `sequence` on that have `length` each from `position` on."""

    count: int
    first: int = 0
    length: int = 1
    position: int = 0
    sequence: int = 0
    step: bool = False  # one token of each sequence: generation

    @property
    def place(self) -> tuple[np.generic, ...]:
        return Int(self.first), Int(self.length), Int(self.position), Int(self.sequence)

    @property
    def last_position(self) -> int:
        end = self.first + self.count
        return self.position + (self.length - 1 if end >= self.length else end - 1)


@dataclass(frozen=True)
class Picked:
    """Rows first, first + step, … of a forward pass, `count` of them, whose logits go to rows `to`, …"""

    first: int
    step: int
    count: int
    to: int


@dataclass(frozen=True)
class _Norm:
    """What a product, or a launch before it, does to its activations."""

    pre: str
    post: str = ""  # the sum that comes before it, if one does


def packed(model: Model, changes: Changes) -> Mapping[str, Packed]:
    """Every matrix as the GPU keeps it: "embedding", then for each layer those of PARTS ("0.qkv")."""
    found = {"embedding": pack([model.embedding(changes)], changes.embedding_bits, "none", changes.group)}
    for i in range(model.config.layers):
        for part, names in PARTS.items():
            matrices = [model.matrix(i, name, changes) for name in names]
            found[f"{i}.{part}"] = pack(matrices, changes.weight_bits, changes.pruning, changes.group)
    return found


@dataclass(frozen=True)
class Forward:
    """matrices: of the model, packed; `sequences` in progress, each of at most `positions` tokens, up to `most` a
    launch, `context` seen.

    capacity: tokens of a sequence in the cache's ring: `context` before each of those that a launch writes.
    """

    model: Model
    matrices: Mapping[str, Packed]
    s: Settings
    sequences: int
    positions: int
    context: int
    most: int
    logits_rows: int
    sizes: Sizes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", Sizes(self.model.config))

    @property
    def c(self) -> Config:
        return self.model.config

    @property
    def capacity(self) -> int:
        return self.context + min(self.most, self.positions)

    def buffers(self, tokens: Array) -> dict[str, Array]:
        """tokens (sequences, positions): those that are known."""
        c, sizes, kept = self.c, self.sizes, KEPT[self.s.kv_bits]
        found: dict[str, Array] = {"none": np.zeros(16, np.float32), "tokens": np.ascontiguousarray(tokens, np.int32)}
        for name, m in self.matrices.items():
            found[f"{name}.values"] = m.values
            if m.has_scales:
                found[f"{name}.scales"] = m.scales
            if m.has_index:
                found[f"{name}.index"] = m.index
        for i in range(c.layers):
            for name in ("input", "post_attention", "pre_ffn", "post_ffn", "q_norm", "k_norm"):
                found[f"{i}.{name}"] = self.model.norm(i, name)
        found["last"] = self.model.tensors[LAST_NORM]
        found["local"], found["global"] = self._turns(c.local_base), self._turns(c.global_base)
        q, k, v = sizes.parts
        for name, size, stride in (
            ("x0", c.hidden, sizes.hidden), ("x1", c.hidden, sizes.hidden), ("in", c.hidden, sizes.hidden),
            ("qkv", q + k + v, q + k + v), ("mixed", c.heads * c.head_dim, sizes.mixed),
            ("out", c.hidden, sizes.hidden),
            ("gate", 2 * sizes.up, 2 * sizes.up), ("inner", c.ffn, sizes.ffn),
        ):  # fmt: skip
            found[name] = np.zeros((self.most, stride), np.float32)
            found[name][:, :size] = np.nan  # what is read before it is written shows
        found["logits"] = np.full((self.logits_rows, self.vocab_room), np.nan, np.float32)
        vectors = c.layers * self.sequences * self.capacity * c.kv_heads
        for name in ("keys", "values"):
            found[name] = np.zeros((vectors, sizes.room), kept)
            found[name][:, : c.head_dim] = KEPT_NAN[self.s.kv_bits]
            found[f"{name}.scales"] = np.full(vectors if self.s.kv_bits == 8 else 1, np.nan, np.float32)
        return found

    @property
    def vocab_room(self) -> int:
        return padded(self.c.vocab, LANES)

    def _turns(self, base: float) -> Floats:
        """(positions, head_dim): cosines, then sines, of the angles position * base^(-2i / head_dim)."""
        size = self.c.head_dim
        angles = np.arange(self.positions)[:, None] * base ** (-2.0 * np.arange(size // 2) / size)
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    # ---- launches

    def launches(self, at: Tokens, picked: Picked | None, tokens_stride: int) -> list[Launch]:
        """The tokens through all layers, and the logits of the picked rows."""
        c, s = self.c, self.s
        m = self.matrices["embedding"]
        factor = Float(np.sqrt(np.float32(c.hidden)))
        arguments: Arguments = (
            "tokens", Int(tokens_stride), *at.place, "embedding.values", self._scales("embedding"), Int(m.slots),
            Int(m.groups), Int(c.hidden), factor, "x0", Int(self.sizes.hidden),
        )  # fmt: skip
        out = [Launch("embed", (at.count, 1, 1), (s.row_threads, 1, 1), arguments)]
        x, added = "x0", ""
        everything = Picked(0, 1, at.count, 0)
        for i in range(c.layers):
            q, k, v = self.sizes.parts
            parts = [(0, q + k + v)] if s.fuse_qkv else [(0, q), (q, k), (q + k, v)]
            step = "_step" if at.step else ""
            more, x = self._products(
                f"project{step}", f"{i}.qkv", _Norm(f"{i}.input", added), x, "qkv", q + k + v, parts, everything
            )
            out += more
            out += self._attention(i, at)
            out += self._plain(f"project{step}", f"{i}.o", "mixed", self.sizes.mixed, "out", c.hidden, everything)
            up = self.sizes.up
            norm = _Norm(f"{i}.pre_ffn", f"{i}.post_attention")
            name, to, stride, rows = (
                (f"gate_up{step}", "inner", self.sizes.ffn, c.ffn) if s.fuse_geglu
                else (f"project{step}", "gate", 2 * up, 2 * up)
            )  # fmt: skip
            more, x = self._products(name, f"{i}.gate_up", norm, x, to, stride, [(0, rows)], everything)
            out += more
            if not s.fuse_geglu:
                arguments = ("gate", Int(2 * up), Int(up), "inner", Int(self.sizes.ffn), Int(c.ffn))
                out.append(Launch("geglu", (at.count, 1, 1), (s.row_threads, 1, 1), arguments))
            out += self._plain(f"project{step}", f"{i}.down", "inner", self.sizes.ffn, "out", c.hidden, everything)
            added = f"{i}.post_ffn"
        if picked:
            out += self._products(
                "logits", "embedding", _Norm("last", added), x, "logits", self.vocab_room, [(0, c.vocab)], picked
            )[0]
        return out

    def choose(self, count: int, position: int, sequence: int, tokens_stride: int) -> Launch:
        """The most likely token of the first `count` rows of logits becomes that at `position`."""
        arguments = (
            "logits",
            Int(self.vocab_room),
            Int(self.c.vocab),
            "tokens",
            Int(tokens_stride),
            Int(position),
            Int(sequence),
        )
        return Launch("choose", (count, 1, 1), (self.s.row_threads, 1, 1), arguments)

    def surprise(self, count: int, position: int) -> Launch:
        """Losses of the tokens that follow `count` rows of logits, from `position` on."""
        arguments = ("logits", Int(self.vocab_room), Int(self.c.vocab), "tokens", Int(position), "losses")
        return Launch("surprise", (count, 1, 1), (self.s.row_threads, 1, 1), arguments)

    def _scales(self, matrix: str) -> str:
        return f"{matrix}.scales" if self.matrices[matrix].has_scales else "none"

    def _products(
        self,
        kernel: str,
        matrix: str,
        norm: _Norm,
        x: str,
        y: str,
        y_stride: int,
        parts: list[tuple[int, int]],
        at: Picked,
    ) -> tuple[list[Launch], str]:
        """A product of normalised activations, and where x lies after it."""
        s, out, add = self.s, [], int(bool(norm.post))
        post = norm.post or "none"
        if s.fuse_norm < 2:
            both = [(add, 1)] if s.fuse_norm == 1 or not add else [(1, 0), (0, 1)]
            for adds, norms in both:
                arguments = (x, "out", post, norm.pre, "in", Int(self.c.hidden), Int(self.sizes.hidden), Int(at.first),
                             Int(at.step), Int(adds), Int(norms), Float(self.c.eps))  # fmt: skip
                out.append(Launch("normalise", (at.count, 1, 1), (s.row_threads, 1, 1), arguments))
            source = ("in", "none", "none", "none", "none")
            kept = x
        else:
            kept = {"x0": "x1", "x1": "x0"}[x] if add else x
            source = (x, "out", post, norm.pre, kept if add else "none")
        fused = int(s.fuse_norm == 2)
        for row, rows in parts:
            out.append(
                self._product(kernel, matrix, source, self.sizes.hidden, fused, add & fused, y, y_stride, row, rows, at)
            )
        return out, kept

    def _plain(self, kernel: str, matrix: str, x: str, stride: int, y: str, rows: int, at: Picked) -> list[Launch]:
        source = (x, "none", "none", "none", "none")
        return [self._product(kernel, matrix, source, stride, 0, 0, y, self.sizes.hidden, 0, rows, at)]

    def _product(
        self, kernel: str, matrix: str, source: tuple[str, ...], stride: int, norm: int, add: int, y: str,
        y_stride: int, row: int, rows: int, at: Picked,
    ) -> Launch:  # fmt: skip
        s, m = self.s, self.matrices[matrix]
        tile = s.batch_tile if kernel in ("project", "gate_up") else s.step_tile
        index = f"{matrix}.index" if m.has_index else "none"
        arguments: Arguments = (
            f"{matrix}.values", self._scales(matrix), index, Int(m.slots), Int(m.groups), *source, Int(m.columns),
            Int(stride), Int(at.first), Int(at.step), Int(norm), Int(add), Float(self.c.eps), y, Int(y_stride),
            Int(at.to), Int(row), Int(rows), Int(at.count), Int(self.sizes.up),
        )  # fmt: skip
        a_block = s.warps * 32 // s.lanes * s.rows
        grid = (ceil_div(rows, a_block), ceil_div(at.count, tile), 1)
        return Launch(kernel, grid, (s.warps * 32, 1, 1), arguments, product_shared_bytes(s, stride, tile))

    def _attention(self, layer: int, at: Tokens) -> list[Launch]:
        c, s, sizes = self.c, self.s, self.sizes
        q, k, v = sizes.parts
        local = c.is_local(layer)
        seen = min(self.context, c.window) if local else self.context
        cache = ("keys", "values", "keys.scales", "values.scales",
                 np.int64(layer * self.sequences * self.capacity * c.kv_heads), Int(self.capacity),
                 Int(sizes.room))  # fmt: skip
        heads = (f"{layer}.q_norm", f"{layer}.k_norm", "local" if local else "global", Int(c.heads), Int(c.kv_heads),
                 Int(c.head_dim), Int(q), Int(q + k), Float(c.eps))  # fmt: skip
        shared: Arguments = ("qkv", Int(q + k + v), *cache, *heads, *at.place)
        own, out = s.fuse_rope and at.step, []
        if not own:
            blocks = ceil_div(c.heads + 2 * c.kv_heads, s.row_threads // 32)  # a warp each
            out.append(Launch("prepare", (blocks, at.count, 1), (s.row_threads, 1, 1), shared))
        most = min(seen, at.last_position + 1)
        scale = Float(1.0 / np.sqrt(c.query_scalar))
        arguments: Arguments = (*shared, Int(seen), scale, Int(padded(most, 4)), "mixed", Int(sizes.mixed))
        out.append(
            Launch(
                "attend_step" if own else "attend", (c.heads, at.count, 1), (s.attention_threads, 1, 1), arguments,
                attention_shared_bytes(s, sizes, most),
            )
        )  # fmt: skip
        return out
