"""What does a point of the decoder's space say about its launches, and what does a block of each take?"""

from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.space import Value
from optimizer.targets.cuda.operands import ceil_div
from optimizer.targets.cuda.plan import Block

from .packing import padded
from .weights import LANES, Changes, Config

FUSE_NORM = {"apart": 0, "pair": 1, "product": 2}


@dataclass(frozen=True)
class Settings:
    """The knobs that launches depend on; the defaults are decoder.cu's."""

    changes: Changes
    kv_bits: int = 32
    warps: int = 4
    lanes: int = 32
    rows: int = 1
    load_bytes: int = 16
    batch_tile: int = 4
    step_tile: int = 1
    stage: bool = True
    shared_pad: int = 0
    fuse_norm: int = 0
    fuse_qkv: bool = True
    fuse_geglu: bool = False
    fuse_rope: bool = False
    attention_threads: int = 128
    kv_load_bytes: int = 8
    row_threads: int = 128
    prefill_rows: int = 32

    @classmethod
    def of(cls, knobs: Mapping[str, Value], batch: int) -> "Settings":
        changes = Changes(
            weight_bits=int(knobs.get("weight_bits", 32)),
            group=int(knobs.get("group_size", 64)),
            pruning=str(knobs.get("pruning", "none")),
            sparsity_pct=int(knobs.get("sparsity_pct", 0)),
            quantize_embedding=bool(knobs.get("quantize_embedding", False)),
        )
        tile = int(knobs.get("BATCH_TILE", 4))
        return cls(
            changes,
            kv_bits=int(knobs.get("kv_bits", 32)),
            warps=int(knobs.get("GEMV_WARPS", 4)),
            lanes=int(knobs.get("GEMV_LANES", 32)),
            rows=int(knobs.get("GEMV_ROWS", 1)),
            load_bytes=int(knobs.get("LOAD_BYTES", 16)),
            batch_tile=tile,
            step_tile=min(tile, 1 << batch.bit_length() - 1),  # the largest power of two within both
            stage=bool(knobs.get("STAGE", True)),
            shared_pad=int(knobs.get("SHARED_PAD", 0)),
            fuse_norm=FUSE_NORM[str(knobs.get("fuse_norm", "apart"))],
            fuse_qkv=bool(knobs.get("fuse_qkv", True)),
            fuse_geglu=bool(knobs.get("FUSE_GEGLU", False)),
            fuse_rope=bool(knobs.get("FUSE_ROPE", False)),
            attention_threads=int(knobs.get("ATTENTION_THREADS", 128)),
            kv_load_bytes=int(knobs.get("KV_LOAD_BYTES", 8)),
            row_threads=int(knobs.get("ROW_THREADS", 128)),
            prefill_rows=int(knobs.get("PREFILL_ROWS", 32)),
        )


@dataclass(frozen=True)
class Sizes:
    """Of rows of activations, in floats: whole 64s, whose ends hold zeros."""

    c: Config

    @property
    def hidden(self) -> int:
        return padded(self.c.hidden, 64)

    @property
    def mixed(self) -> int:
        return padded(self.c.heads * self.c.head_dim, 64)

    @property
    def ffn(self) -> int:
        return padded(self.c.ffn, 64)

    @property
    def parts(self) -> tuple[int, int, int]:
        """Rows of the matrices of queries, keys and values."""
        kv = padded(self.c.kv_heads * self.c.head_dim, LANES)
        return padded(self.c.heads * self.c.head_dim, LANES), kv, kv

    @property
    def up(self) -> int:
        """Where the rows of `up` begin, after those of `gate`."""
        return padded(self.c.ffn, LANES)

    @property
    def room(self) -> int:
        """Of a key or value in the cache."""
        return padded(self.c.head_dim, 16)


def product_shared_bytes(s: Settings, stride: int, tile: int) -> int:
    return 4 * tile * (stride + stride // 16 * s.shared_pad) if s.stage else 0


def attention_shared_bytes(s: Settings, sizes: Sizes, seen: int) -> int:
    vector = s.kv_load_bytes * 8 // s.kv_bits
    vectors = ceil_div(sizes.c.head_dim, vector)
    partial = max(1, s.attention_threads // vectors) * vectors * vector
    return 4 * (3 * sizes.room + padded(seen, 4) + partial)


def blocks_of(s: Settings, sizes: Sizes, seen: int) -> dict[str, Block]:
    """Every kernel that runs of this model may launch, with its largest block."""
    threads, rows, c = s.warps * 32, Block(s.row_threads), sizes.c
    widest = max(sizes.hidden, sizes.mixed, sizes.ffn)
    attend = Block(
        s.attention_threads, attention_shared_bytes(s, sizes, min(seen, c.window) if c.pattern > c.layers else seen)
    )
    found = {
        "embed": rows,
        "project": Block(threads, product_shared_bytes(s, widest, s.batch_tile)),
        "project_step": Block(threads, product_shared_bytes(s, widest, s.step_tile)),
        "logits": Block(threads, product_shared_bytes(s, sizes.hidden, s.step_tile)),
        "prepare": rows,
        "attend": attend,
        "choose": rows,
        "surprise": rows,
    }
    if s.fuse_norm < 2:
        found["normalise"] = rows
    if s.fuse_geglu:
        found["gate_up"] = Block(threads, product_shared_bytes(s, sizes.hidden, s.batch_tile))
        found["gate_up_step"] = Block(threads, product_shared_bytes(s, sizes.hidden, s.step_tile))
    else:
        found["geglu"] = rows
    if s.fuse_rope:
        found["attend_step"] = attend
    return found
