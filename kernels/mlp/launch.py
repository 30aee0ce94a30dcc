"""How is mlp.cu launched at a point of its space, and what must come out?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
from optimizer.targets.cuda.plan import Array, Block, Case, Dim, Launch, Work

OPTIONS = {"rows": Whole(256, high=1 << 20), "in": Whole(1024), "hidden": Whole(4096), "out": Whole(1024)}
START_THREADS = 256  # of mlp_start


@dataclass(frozen=True, slots=True)
class Size:
    rows: int
    inputs: int
    hidden: int
    out: int


@dataclass(frozen=True)
class Layers:
    x: NDArray[np.float32]
    w1: NDArray[np.float32]
    b1: NDArray[np.float32]
    w2: NDArray[np.float32]
    b2: NDArray[np.float32]

    @classmethod
    def of(cls, size: Size) -> "Layers":
        return cls(
            x=uniform(5, size.rows, size.inputs),
            w1=uniform(1, size.inputs, size.hidden, scale=2.0 / size.inputs**0.5),
            b1=uniform(2, size.hidden, scale=0.5),
            w2=uniform(3, size.hidden, size.out, scale=2.0 / size.hidden**0.5),
            b2=uniform(4, size.out, scale=0.5),
        )

    def answer(self, precision: str) -> NDArray[np.float64]:
        """In double, with operands and hidden units as `precision` stores them."""
        z = rounded(self.x, precision) @ rounded(self.w1, precision) + self.b1
        units = 0.5 * z * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (z + 0.044715 * z**3)))
        kept = units if precision == "f32" else rounded(units.astype(np.float32), precision)
        answer: NDArray[np.float64] = kept @ rounded(self.w2, precision) + self.b2
        return answer


class Operation:
    """y = gelu(x W1 + b1) W2 + b2."""

    def __init__(self, options: Mapping[str, str], files: Mapping[str, Path], knobs: Mapping[str, Value]) -> None:
        found = whole_numbers(options, OPTIONS)
        self._size = Size(found["rows"], found["in"], found["hidden"], found["out"])
        self._precision = str(knobs.get("precision", "f32"))
        self._tensor = bool(knobs.get("TENSOR", False))
        self._fused = bool(knobs.get("fused", False))
        # a knob that its condition switches off is absent: the source then takes its own default, as here
        self._knobs = {name: int(knobs.get(name, default)) for name, default in TILE.items()}

    @cached_property
    def _threads(self) -> int:
        x = self._knobs
        if self._tensor:
            return x["BLOCK_M"] // x["WARP_M"] * (x["BLOCK_N"] // x["WARP_N"]) * 32
        return x["BLOCK_M"] // x["THREAD_M"] * (x["BLOCK_N"] // x["THREAD_N"])

    @cached_property
    def _shared_bytes(self) -> int:
        x, size = self._knobs, ELEMENT_BYTES[self._precision]
        a = whole_vectors(x["BLOCK_M"] * (x["BLOCK_K"] + x["PAD"]) * size)
        b = whole_vectors(x["BLOCK_K"] * (x["BLOCK_N"] + x["PAD"]) * size)
        units = whole_vectors(x["BLOCK_M"] * (x["BLOCK_N"] + x["PAD"]) * size) if self._fused else 0
        return x["STAGES"] * (a + b) + units

    @property
    def macros(self) -> Mapping[str, int]:
        return {"BLOCK_THREADS": self._threads, "SHARED_BYTES": self._shared_bytes}

    @property
    def blocks(self) -> Mapping[str, Block]:
        block = Block(self._threads, self._shared_bytes)
        if self._fused:
            return {"mlp_start": Block(START_THREADS), "mlp_fused": block}
        return {"mlp_hidden": block, "mlp_out": block}

    @property
    def tensor_cores(self) -> bool:
        return self._tensor

    @property
    def facts(self) -> Mapping[str, float]:
        d, size = self._size, ELEMENT_BYTES[self._precision]
        weights = d.inputs * d.hidden + d.hidden * d.out
        moved = size * (weights + d.rows * d.inputs) + 4 * (d.hidden + d.out + d.rows * d.out)
        return {
            "flop": 2.0 * d.rows * weights,
            "bytes_moved": float(moved),
            "model_bytes": float(size * weights + 4 * (d.hidden + d.out)),
        }

    def small(self) -> Sequence[Case]:
        """Tiles whole and cut on every side, stages that go round, lines that are and are not whole vectors."""
        x = self._knobs
        m, n, k = x["BLOCK_M"], x["BLOCK_N"], x["BLOCK_K"]
        sizes = {
            "odd": Size(m + 1, x["STAGES"] * k + k // 2 + 1, n + 3, n // 2 + 1),
            "vectors": Size(m // 2 + 1, k + 8, n // 2 + 8, n + 8),
            "one": Size(1, 1, 1, 1),
        }
        return [self._case(name, size) for name, size in sizes.items()]

    def full(self) -> Sequence[Case]:
        return [self._case("scenario", self._size)]

    def scenario(self) -> Work:
        return self._work(self._size, Layers.of(self._size))

    def readings(self, seconds: Mapping[str, float]) -> Mapping[str, float]:
        return {"latency_s": seconds["run"], "throughput_ips": self._size.rows / seconds["run"]}

    def _work(self, d: Size, layers: Layers) -> Work:
        buffers: dict[str, Array] = {
            "x": stored(layers.x, self._precision),
            "w1": stored(layers.w1, self._precision),
            "b1": layers.b1,
            "w2": stored(layers.w2, self._precision),
            "b2": layers.b2,
            "y": unwritten(d.rows, d.out),
        }
        rows, inputs, hidden, out = (np.int32(v) for v in (d.rows, d.inputs, d.hidden, d.out))
        if self._fused:
            blocks = min(ceil_div(d.rows * d.out, START_THREADS), 1 << 16)
            start = Launch("mlp_start", (blocks, 1, 1), (START_THREADS, 1, 1), ("b2", "y", rows, out))
            words = ("x", "w1", "b1", "w2", "y", rows, inputs, hidden, out)
            return Work(buffers, {"run": (start, self._tiled("mlp_fused", d.rows, d.hidden, words))}, ("y",))
        # hidden units before the kernel are NaN as the output is: in 16 bits those of a float that are its upper half
        buffers["units"] = stored(unwritten(d.rows, d.hidden), self._precision)
        first = self._tiled("mlp_hidden", d.rows, d.hidden, ("x", "w1", "b1", "units", rows, inputs, hidden))
        second = self._tiled("mlp_out", d.rows, d.out, ("units", "w2", "b2", "y", rows, hidden, out))
        return Work(buffers, {"run": (first, second)}, ("y",))

    def _tiled(self, kernel: str, rows: int, columns: int, arguments: tuple[str | np.generic, ...]) -> Launch:
        grid: Dim = (ceil_div(columns, self._knobs["BLOCK_N"]), ceil_div(rows, self._knobs["BLOCK_M"]), 1)
        return Launch(kernel, grid, (self._threads, 1, 1), arguments, self._shared_bytes)

    def _case(self, name: str, size: Size) -> Case:
        layers = Layers.of(size)
        exact = layers.answer("f32")
        judge = ComparedTwice("y", exact, exact if self._precision == "f32" else layers.answer(self._precision))
        sums = of_sums(max(size.inputs, size.hidden), self._tensor)
        # A hidden unit near the middle between two stored numbers may be rounded to either.
        either = 0.0 if self._precision == "f32" else 2 * ROUNDING[self._precision]
        tolerances = {
            "max_rel_error": sums + 4 * ROUNDING[self._precision],
            "max_rel_error_of_sums": sums + either,
        }
        return Case(name, self._work(size, layers), judge, tolerances)
