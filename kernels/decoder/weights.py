"""What are the decoder's weights: those of a safetensors file, and what quantisation and pruning make of them?

The same as rounding.cpp, number for number, and independent of how a GPU keeps them (packing.py).
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.trial import Reason, TrialError

Floats = NDArray[np.float32]
DENSE, MAGNITUDE, TWO_OF_FOUR, BLOCK = "none", "magnitude", "n_m", "block"
LANES = 8  # outputs that block pruning drops together: VECTOR_WIDTH of decoder.cu
MAX_HEADER_BYTES = 100 << 20
PARTS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""Matrices that read the same activations lie in one."""
NORMS: Mapping[str, str] = {
    "input": "input_layernorm", "post_attention": "post_attention_layernorm", "pre_ffn": "pre_feedforward_layernorm",
    "post_ffn": "post_feedforward_layernorm", "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
}  # fmt: skip
EMBEDDING, LAST_NORM = "model.embed_tokens.weight", "model.norm.weight"


def rejected(text: str) -> TrialError:
    return TrialError(Reason.REJECTED, text)


@dataclass(frozen=True)
class Config:
    """Dimensions of a model of the Gemma3 text architecture; config.h has the same."""

    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    pattern: int
    local_base: float
    global_base: float
    eps: float
    query_scalar: float

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise rejected("the model's heads don't fit together")
        if max(self.hidden, self.ffn, self.heads * self.head_dim) > 1 << 16:
            raise rejected("the model has rows of more than 65536 weights, which the GPU's lists of inputs can't name")

    def is_local(self, layer: int) -> bool:
        """Local layers see `window` tokens, every pattern-th layer sees all."""
        return (layer + 1) % self.pattern != 0

    @classmethod
    def of(cls, metadata: Mapping[str, object]) -> "Config":
        def whole(name: str) -> int:
            number = _number(metadata, name)
            if not (number.is_integer() and 1 <= number <= 1 << 24):
                raise rejected(f"the model's {name} is {metadata[name]}, not a whole number from 1 to 2^24")
            return int(number)

        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads", "head_dim", "sliding_window", "sliding_window_pattern")  # fmt: skip
        numbers = ("rope_local_base_freq", "rope_theta", "rms_norm_eps", "query_pre_attn_scalar")
        return cls(*(whole(name) for name in names), *(_number(metadata, name) for name in numbers))


def _number(metadata: Mapping[str, object], name: str) -> float:
    try:
        number = float(str(metadata[name]))
    except (KeyError, ValueError):
        raise rejected(f"the model's metadata has no number {name}") from None
    if not (math.isfinite(number) and number > 0):
        raise rejected(f"the model's {name} is {number}, not above zero")
    return number


@dataclass(frozen=True)
class Changes:
    """What a point does to the weights."""

    weight_bits: int = 32
    group: int = 64
    pruning: str = DENSE
    sparsity_pct: int = 0
    quantize_embedding: bool = False

    @property
    def embedding_bits(self) -> int:
        return self.weight_bits if self.quantize_embedding else 32


@dataclass(frozen=True)
class Matrix:
    """Weights (rows, columns) after pruning and rounding. integers, scales: where they are kept as integers."""

    floats: Floats
    keep: NDArray[np.bool_]
    integers: NDArray[np.int8] | None = None
    scales: Floats | None = None  # (rows, groups)


@dataclass(frozen=True)
class Model:
    config: Config
    tensors: Mapping[str, Floats]

    def matrix(self, layer: int, name: str, changes: Changes) -> Matrix:
        return changed(self.tensors[f"model.layers.{layer}.{name}.weight"], changes)

    def embedding(self, changes: Changes) -> Matrix:
        return rounded(self.tensors[EMBEDDING], changes.embedding_bits, changes.group)

    def norm(self, layer: int, name: str) -> Floats:
        return self.tensors[f"model.layers.{layer}.{NORMS[name]}.weight"]


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """Of every tensor by its name."""
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (q, c.hidden), "self_attn.k_proj": (kv, c.hidden), "self_attn.v_proj": (kv, c.hidden),
        "self_attn.o_proj": (c.hidden, q), "mlp.gate_proj": (c.ffn, c.hidden), "mlp.up_proj": (c.ffn, c.hidden),
        "mlp.down_proj": (c.hidden, c.ffn),
    }  # fmt: skip
    for name, full in NORMS.items():
        layer[full] = (c.head_dim if name in ("q_norm", "k_norm") else c.hidden,)
    found = {f"model.layers.{i}.{n}.weight": shape for i in range(c.layers) for n, shape in layer.items()}
    return {EMBEDDING: (c.vocab, c.hidden), LAST_NORM: (c.hidden,), **found}


def read_config(path: Path) -> Config:
    return Config.of(_header(path)[0].get("__metadata__", {}))


def read_model(path: Path) -> Model:
    """Raises TrialError(REJECTED) for a file that is no such model."""
    header, start = _header(path)
    config = Config.of(header.get("__metadata__", {}))
    data = np.memmap(path, np.uint8, "r", start) if path.stat().st_size > start else np.zeros(0, np.uint8)
    tensors = {name: _tensor(header.get(name), name, shape, data) for name, shape in shapes(config).items()}
    return Model(config, tensors)


def _header(path: Path) -> tuple[Mapping[str, Mapping[str, object]], int]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= MAX_HEADER_BYTES else None
    except (OSError, struct.error, ValueError, RecursionError) as error:
        raise rejected(f"{path} is not a safetensors file: {error}") from None
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise rejected(f"{path} is not a safetensors file: its header is no object of objects")
    return header, 8 + length


def _tensor(entry: Mapping[str, object] | None, name: str, shape: tuple[int, ...], data: NDArray[np.uint8]) -> Floats:
    types: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
    if entry is None or entry.get("shape") != list(shape) or (dtype := types.get(str(entry.get("dtype")))) is None:
        raise rejected(f"the model has no tensor {name} of the shape {list(shape)} as F32, F16 or BF16")
    match entry.get("data_offsets"):
        case [int(begin), int(end)] if (
            begin >= 0 and end <= len(data) and end - begin == math.prod(shape) * dtype.itemsize
        ):
            bits = np.array(data[begin:end]).view(dtype).reshape(shape)
        case other:
            raise rejected(f"the tensor {name} lies at {other}, which does not fit its shape or the file")
    return from_bf16(bits) if entry["dtype"] == "BF16" else bits.astype(np.float32, copy=False)


def changed(w: Floats, changes: Changes) -> Matrix:
    """Pruned, then rounded."""
    keep = kept(w, changes.pruning, changes.sparsity_pct)
    pruned = np.where(keep, w, np.float32(0))
    done = rounded(pruned, changes.weight_bits, changes.group)
    return Matrix(done.floats, keep, done.integers, done.scales)


def kept(w: Floats, pruning: str, percent: int) -> NDArray[np.bool_]:
    """Which weights (rows, columns) pruning keeps; of equals the higher column is dropped first."""
    rows, columns = w.shape
    keep = np.ones(w.shape, bool)
    if pruning == MAGNITUDE:
        np.put_along_axis(keep, _smallest(np.abs(w), columns * percent // 100), False, 1)
    elif pruning == TWO_OF_FOUR:
        if columns % 4:
            raise rejected("two of four needs rows of whole fours")
        fours = keep.reshape(-1, 4)
        np.put_along_axis(fours, _smallest(np.abs(w).reshape(-1, 4), 2), False, 1)
    elif pruning == BLOCK:
        for first in range(0, rows, LANES):
            sizes = np.zeros(columns)
            for row in w[first : first + LANES].astype(np.float64):  # in the order in which rounding.cpp adds them
                sizes += row * row
            keep[first : first + LANES, _smallest(sizes[None], columns * percent // 100)[0]] = False
    return keep


def _smallest(sizes: NDArray[np.floating], count: int) -> NDArray[np.intp]:
    """The places of the `count` smallest of each row; of equals the higher first."""
    last = sizes.shape[1] - 1
    found: NDArray[np.intp] = last - np.argsort(sizes[:, ::-1], axis=1, kind="stable")[:, :count]
    return found


def rounded(w: Floats, bits: int, group: int) -> Matrix:
    """Weights (rows, columns) as `bits` keep them: 32 float, 16 bfloat16, fewer: whole multiples of a float32 scale for
    each `group` columns."""
    keep = np.ones(w.shape, bool)
    if bits > 8:
        return Matrix(from_bf16(to_bf16(w)) if bits == 16 else w, keep)
    rows, columns = w.shape
    groups = -(-columns // group)
    padded = np.zeros((rows, groups, group), np.float32)
    padded.reshape(rows, -1)[:, :columns] = w
    scales = np.abs(padded).max(2) / np.float32(2 ** (bits - 1) - 1)
    quotients = np.divide(padded, scales[:, :, None], out=np.zeros_like(padded), where=scales[:, :, None] > 0)
    integers = np.rint(quotients).astype(np.int8)
    floats = (integers.astype(np.float32) * scales[:, :, None]).reshape(rows, -1)[:, :columns]
    return Matrix(floats, keep, integers.reshape(rows, -1)[:, :columns], scales)


def to_bf16(w: Floats) -> NDArray[np.uint16]:
    """To nearest, ties to even."""
    bits = np.ascontiguousarray(w).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)
