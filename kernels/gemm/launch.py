"""How is gemm.cu launched at a point of its space, and what must come out?"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from optimizer.space import Value
from optimizer.targets.cuda.operands import (
    ELEMENT_BYTES,
    ROUNDING,
    TILE,
    ComparedTwice,
    Whole,
    ceil_div,
    of_sums,
    rounded,
    stored,
    uniform,
    unwritten,
    whole_numbers,
    whole_vectors,
)
from optimizer.targets.cuda.plan import Array, Block, Case, Launch, Work

OPTIONS = {"m": Whole(2048), "n": Whole(2048), "k": Whole(2048)}
SUM_THREADS = 256  # of gemm_sum
Size = tuple[int, int, int]  # m, n, k


class Operation:
    """C(M, N) = A(M, K) B(K, N)."""

    def __init__(self, options: Mapping[str, str], files: Mapping[str, Path], knobs: Mapping[str, Value]) -> None:
        found = whole_numbers(options, OPTIONS)
        self._size: Size = (found["m"], found["n"], found["k"])
        self._precision = str(knobs.get("precision", "f32"))
        self._tensor = bool(knobs.get("TENSOR", False))
        self._terms_along = self._tensor or knobs.get("layout_a", "terms") == "terms"
        # a knob that its condition switches off is absent: the source then takes its own default, as here
        self._knobs = {name: int(knobs.get(name, default)) for name, default in DEFAULTS.items()}

    @cached_property
    def _threads(self) -> int:
        x = self._knobs
        if self._tensor:
            return x["BLOCK_M"] // x["WARP_M"] * (x["BLOCK_N"] // x["WARP_N"]) * 32
        return x["BLOCK_M"] // x["THREAD_M"] * (x["BLOCK_N"] // x["THREAD_N"])

    @cached_property
    def _shared_bytes(self) -> int:
        x, size = self._knobs, ELEMENT_BYTES[self._precision]
        lines, length = (x["BLOCK_M"], x["BLOCK_K"]) if self._terms_along else (x["BLOCK_K"], x["BLOCK_M"])
        a = whole_vectors(lines * (length + x["PAD"]) * size)
        b = whole_vectors(x["BLOCK_K"] * (x["BLOCK_N"] + x["PAD"]) * size)
        return x["STAGES"] * (a + b)

    @property
    def macros(self) -> Mapping[str, int]:
        return {"BLOCK_THREADS": self._threads, "SHARED_BYTES": self._shared_bytes}

    @property
    def blocks(self) -> Mapping[str, Block]:
        blocks = {"gemm": Block(self._threads, self._shared_bytes)}
        return blocks | {"gemm_sum": Block(SUM_THREADS)} if self._knobs["SPLIT_K"] > 1 else blocks

    @property
    def tensor_cores(self) -> bool:
        return self._tensor

    @property
    def facts(self) -> Mapping[str, float]:
        m, n, k = self._size
        operands = ELEMENT_BYTES[self._precision] * (m * k + k * n)
        return {"flop": 2.0 * m * n * k, "bytes_moved": float(operands + 4 * m * n)}

    def small(self) -> Sequence[Case]:
        """Tiles whole and cut on every side, stages that go round, lines that are and are not whole vectors."""
        x = self._knobs
        m, n, k = x["BLOCK_M"], x["BLOCK_N"], x["BLOCK_K"]
        shares = x["SPLIT_K"] * k
        sizes: dict[str, Size] = {
            "odd": (m + 1, n // 2 + 3, (x["STAGES"] + 1) * shares - k // 2 + 1),
            "vectors": (m // 2 + 1, n + 8, shares + 8),
            "one": (1, 1, 1),
        }
        if (rows := x["SWIZZLE"]) > 1:  # more rows of tiles than are worked on together
            sizes["rows"] = (rows * m + 1, n + 1, 3)
        return [self._case(name, size) for name, size in sizes.items()]

    def full(self) -> Sequence[Case]:
        return [self._case("scenario", self._size)]

    def scenario(self) -> Work:
        return self._work(self._size, *_operands(self._size))

    def readings(self, seconds: Mapping[str, float]) -> Mapping[str, float]:
        return {"latency_s": seconds["run"], "throughput_ips": 1.0 / seconds["run"]}

    def _work(self, size: Size, a: Array, b: Array) -> Work:
        m, n, k = size
        x = self._knobs
        tiles, split = ceil_div(m, x["BLOCK_M"]) * ceil_div(n, x["BLOCK_N"]), x["SPLIT_K"]
        buffers = {"a": stored(a, self._precision), "b": stored(b, self._precision), "c": unwritten(m, n)}
        sizes = (np.int32(m), np.int32(n), np.int32(k))
        to = "c"
        last: tuple[Launch, ...] = ()
        if split > 1:
            buffers["parts"], to = unwritten(split, m, n), "parts"
            blocks = min(ceil_div(m * n, SUM_THREADS), 1 << 16)
            last = (Launch("gemm_sum", (blocks, 1, 1), (SUM_THREADS, 1, 1), ("parts", "c", np.int64(m * n))),)
        first = Launch("gemm", (tiles, 1, split), (self._threads, 1, 1), ("a", "b", to, *sizes), self._shared_bytes)
        return Work(buffers, {"run": (first, *last)}, ("c",))

    def _case(self, name: str, size: Size) -> Case:
        a, b = _operands(size)
        exact = rounded(a, "f32") @ rounded(b, "f32")
        kept = exact if self._precision == "f32" else rounded(a, self._precision) @ rounded(b, self._precision)
        judge = ComparedTwice("c", exact, kept)
        sums = of_sums(size[2], self._tensor)
        tolerances = {"max_rel_error": sums + 4 * ROUNDING[self._precision], "max_rel_error_of_sums": sums}
        return Case(name, self._work(size, a, b), judge, tolerances)


DEFAULTS = {**TILE, "SWIZZLE": 1, "SPLIT_K": 1}
"""What gemm.cu takes where a macro is not defined."""


def _operands(size: Size) -> tuple[Array, Array]:
    m, n, k = size
    return uniform(1, m, k), uniform(2, k, n)
