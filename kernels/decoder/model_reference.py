"""What must the decoder compute? The model in NumPy and float64, plain, with the changed weights."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .weights import LAST_NORM, PARTS, Changes, Config, Floats, Model, from_bf16, to_bf16

Doubles = NDArray[np.float64]
QUERIES = 256  # that attend at a time, so that scores of long texts fit


class Reference:
    """kv_bits: of the keys and values kept."""

    def __init__(self, model: Model, changes: Changes, kv_bits: int) -> None:
        self._model, self._changes, self._kv_bits = model, changes, kv_bits

    @property
    def _c(self) -> Config:
        return self._model.config

    @cached_property
    def _layers(self) -> list[Mapping[str, Doubles]]:
        names = [name for parts in PARTS.values() for name in parts]
        return [
            {name: self._model.matrix(i, name, self._changes).floats.astype(np.float64) for name in names}
            for i in range(self._c.layers)
        ]

    @cached_property
    def _embedding(self) -> Doubles:
        return self._model.embedding(self._changes).floats.astype(np.float64)

    def logits(self, tokens: NDArray[np.int32], context: int) -> Doubles:
        """(T, vocab) after each of the tokens (T) of one sequence, of which a layer sees at most `context`."""
        c = self._c
        x = self._embedding[tokens] * np.sqrt(float(c.hidden))
        for i, weights in enumerate(self._layers):
            inner = self._normed(x, self._model.norm(i, "input"))
            mixed = self._attended(inner, i, weights, context) @ weights["self_attn.o_proj"].T
            x = x + self._normed(mixed, self._model.norm(i, "post_attention"))
            inner = self._normed(x, self._model.norm(i, "pre_ffn"))
            gate = inner @ weights["mlp.gate_proj"].T
            gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
            out = (gelu * (inner @ weights["mlp.up_proj"].T)) @ weights["mlp.down_proj"].T
            x = x + self._normed(out, self._model.norm(i, "post_ffn"))
        found: Doubles = self._normed(x, self._model.tensors[LAST_NORM]) @ self._embedding.T
        return found

    def losses(self, tokens: NDArray[np.int32], context: int) -> Doubles:
        """(T - 1): minus the logarithm of the likelihood of every token but the first, given those before it."""
        logits = self.logits(tokens[:-1], context)
        top = logits.max(1, keepdims=True)
        total = top[:, 0] + np.log(np.exp(logits - top).sum(1))
        found: Doubles = total - logits[np.arange(len(logits)), tokens[1:]]
        return found

    def _normed(self, x: Doubles, weight: Floats) -> Doubles:
        scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + self._c.eps)
        normed: Doubles = x * scale * (1.0 + weight.astype(np.float64))
        return normed

    def _attended(self, x: Doubles, layer: int, weights: Mapping[str, Doubles], context: int) -> Doubles:
        c, length = self._c, len(x)
        local = c.is_local(layer)
        seen, base = (min(context, c.window), c.local_base) if local else (context, c.global_base)

        def heads(name: str) -> Doubles:
            return (x @ weights[f"self_attn.{name}"].T).reshape(length, -1, c.head_dim).transpose(1, 0, 2)

        q = self._turned(self._normed(heads("q_proj"), self._model.norm(layer, "q_norm")), base)
        k = self._kept(self._turned(self._normed(heads("k_proj"), self._model.norm(layer, "k_norm")), base))
        v = self._kept(heads("v_proj"))
        k, v = (np.repeat(part, c.heads // c.kv_heads, axis=0) for part in (k, v))
        out = np.empty((length, c.heads * c.head_dim))
        for start in range(0, length, QUERIES):
            end, begin = min(start + QUERIES, length), max(0, start - seen + 1)
            scores = q[:, start:end] @ k[:, begin:end].transpose(0, 2, 1) / np.sqrt(c.query_scalar)
            age = np.arange(start, end)[:, None] - np.arange(begin, end)
            scores = np.where((age >= 0) & (age < seen), scores, -np.inf)
            shares = np.exp(scores - scores.max(2, keepdims=True))
            mixed = (shares / shares.sum(2, keepdims=True)) @ v[:, begin:end]
            out[start:end] = mixed.transpose(1, 0, 2).reshape(end - start, -1)
        return out

    def _turned(self, x: Doubles, base: float) -> Doubles:
        """Heads (H, T, D) rotated to their positions."""
        half = self._c.head_dim // 2
        angles = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)
        cos, sin, a, b = np.cos(angles), np.sin(angles), x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def _kept(self, x: Doubles) -> Doubles:
        """As the cache keeps them."""
        if self._kv_bits == 16:
            return from_bf16(to_bf16(x.astype(np.float32))).astype(np.float64)
        if self._kv_bits == 8:
            scale = np.abs(x).max(-1, keepdims=True) / 127
            kept: Doubles = np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)) * scale
            return kept
        return x
