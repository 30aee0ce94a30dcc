"""How is conv.cu launched at a point of its space, and what must come out?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimizer.space import Value
from optimizer.targets.cuda.operands import (
    LARGEST_SHARED_BYTES,
    Whole,
    ceil_div,
    of_sums,
    uniform,
    unwritten,
    whole_numbers,
    whole_vectors,
)
from optimizer.targets.cuda.plan import Array, Block, Case, Compared, Launch, Work
from optimizer.trial import Reason, TrialError

OPTIONS = {
    "n": Whole(32, high=1024), "c": Whole(64, high=4096), "h": Whole(56, high=4096), "w": Whole(56, high=4096),
    "o": Whole(64, high=4096), "r": Whole(3, high=31), "s": Whole(3, high=31), "stride": Whole(1, high=8),
    "pad": Whole(1, low=0, high=15),
}  # fmt: skip
LARGEST_ARRAY = (1 << 31) - 1  # the kernel counts elements with int

DEFAULTS = {
    "BLOCK_O": 4, "BLOCK_P": 64, "THREAD_O": 1, "THREAD_P": 1, "BLOCK_K": 16, "BLOCK_C": 4, "TILE_W": 8, "VECTOR": 1,
    "STAGES": 1, "PAD": 0,
}  # fmt: skip
"""What conv.cu takes where a macro is not defined."""


@dataclass(frozen=True, slots=True)
class Shape:
    n: int  # images
    c: int
    h: int
    w: int
    o: int
    r: int
    s: int
    stride: int
    pad: int

    @property
    def p(self) -> int:
        """Rows of an output image."""
        return (self.h + 2 * self.pad - self.r) // self.stride + 1

    @property
    def q(self) -> int:
        return (self.w + 2 * self.pad - self.s) // self.stride + 1

    @property
    def elements(self) -> tuple[int, int, int]:
        """Of input, weights, output."""
        return self.n * self.c * self.h * self.w, self.o * self.c * self.r * self.s, self.n * self.o * self.p * self.q

    def under(self, p: int, q: int) -> "Shape":
        """With an image so large that, without a border, p × q pixels come out."""
        return replace(self, h=(p - 1) * self.stride + self.r, w=(q - 1) * self.stride + self.s, pad=0)


class Operation:
    """y = relu(conv2d(x, w) + b)."""

    def __init__(self, options: Mapping[str, str], files: Mapping[str, Path], knobs: Mapping[str, Value]) -> None:
        self._shape = Shape(**whole_numbers(options, OPTIONS))
        self._direct = knobs.get("algorithm", "direct") == "direct"
        self._channels_last = knobs.get("layout", "nchw") == "nhwc"
        self._stages_weights = not self._direct or knobs.get("weights", "shared") == "shared"
        # a knob that its condition switches off is absent: the source then takes its own default, as here
        self._knobs = {name: int(knobs.get(name, default)) for name, default in DEFAULTS.items()}
        self._refuse_impossible()

    def _refuse_impossible(self) -> None:
        d = self._shape
        if d.h + 2 * d.pad < d.r or d.w + 2 * d.pad < d.s:
            raise TrialError(
                Reason.REJECTED,
                f"the filter {d.r}×{d.s} is larger than the image {d.h}×{d.w} with its border of {d.pad}",
            )
        if (largest := max(d.elements)) > LARGEST_ARRAY:
            raise TrialError(Reason.REJECTED, f"an array of {largest} elements is larger than {LARGEST_ARRAY}")
        if self._shared_bytes > LARGEST_SHARED_BYTES:
            raise TrialError(
                Reason.REJECTED,
                f"with a filter of {d.r}×{d.s} and stride {d.stride} a block needs {self._shared_bytes} bytes of "
                f"shared memory; it may have {LARGEST_SHARED_BYTES}",
            )

    @cached_property
    def _threads(self) -> int:
        x = self._knobs
        return x["BLOCK_O"] // x["THREAD_O"] * (x["BLOCK_P"] // x["THREAD_P"])

    @cached_property
    def _tile_h(self) -> int:
        return self._knobs["BLOCK_P"] // self._knobs["TILE_W"]

    @cached_property
    def _shared_bytes(self) -> int:
        x, d = self._knobs, self._shape
        terms = x["BLOCK_C"] * d.r * d.s if self._direct else x["BLOCK_K"]
        weights = whole_vectors(4 * terms * (x["BLOCK_O"] + x["PAD"])) if self._stages_weights else 0
        if self._direct:
            line = (x["TILE_W"] - 1) * d.stride + d.s + x["PAD"]
            patch = whole_vectors(4 * x["BLOCK_C"] * ((self._tile_h - 1) * d.stride + d.r) * line)
            return x["STAGES"] * (weights + patch)
        lines, length = ("BLOCK_P", "BLOCK_K") if self._channels_last else ("BLOCK_K", "BLOCK_P")
        fields = whole_vectors(4 * x[lines] * (x[length] + x["PAD"]))
        return x["STAGES"] * (weights + fields) + 12 * x["BLOCK_P"]  # and three numbers that place a pixel

    @property
    def macros(self) -> Mapping[str, int]:
        d = self._shape
        filters = {"FILTER_H": d.r, "FILTER_W": d.s, "STRIDE": d.stride}
        return {"BLOCK_THREADS": self._threads, "SHARED_BYTES": self._shared_bytes, **filters}

    @property
    def blocks(self) -> Mapping[str, Block]:
        return {"conv": Block(self._threads, self._shared_bytes)}

    @property
    def tensor_cores(self) -> bool:
        return False

    @property
    def facts(self) -> Mapping[str, float]:
        d = self._shape
        return {
            "flop": 2.0 * d.elements[2] * d.c * d.r * d.s,
            "bytes_moved": 4.0 * sum(d.elements),
            "model_bytes": 4.0 * (d.elements[1] + d.o),
        }

    def small(self) -> Sequence[Case]:
        """Filter and stride of the scenario; blocks whole and cut, stages that go round, lines that are and are not
        whole vectors, a border wider than the image."""
        x, d = self._knobs, self._shape
        few = x["STAGES"] * x["BLOCK_C"] + 1 if self._direct else x["STAGES"] * x["BLOCK_K"] // (d.r * d.s) + 3
        plain = replace(d, n=2, c=few, o=x["BLOCK_O"] + 3)
        if self._direct:
            vectors = replace(plain, n=1, c=8, o=ceil_div(x["BLOCK_O"], 8) * 8).under(self._tile_h + 1, x["TILE_W"] + 4)
        else:
            vectors = replace(plain, n=x["BLOCK_P"] // 48 + 1, c=8, o=ceil_div(x["BLOCK_O"], 8) * 8).under(6, 8)
        shapes = {
            "odd": replace(plain.under(7, 9), pad=min(1, d.r // 2, d.s // 2)),
            "vectors": vectors,
            "border": replace(plain, n=1, c=1, o=1, h=2, w=3, pad=max(2, ceil_div(d.r, 2), ceil_div(d.s, 2))),
        }
        return [self._case(name, shape) for name, shape in shapes.items()]

    def full(self) -> Sequence[Case]:
        return [self._case("scenario", self._shape)]

    def scenario(self) -> Work:
        return self._work(self._shape)

    def readings(self, seconds: Mapping[str, float]) -> Mapping[str, float]:
        return {"latency_s": seconds["run"], "throughput_ips": self._shape.n / seconds["run"]}

    def _grid(self, d: Shape) -> tuple[int, int, int]:
        x = self._knobs
        tiles_o = ceil_div(d.o, x["BLOCK_O"])
        if self._direct:
            return ceil_div(d.p, self._tile_h) * ceil_div(d.q, x["TILE_W"]), tiles_o, d.n
        return ceil_div(d.n * d.p * d.q, x["BLOCK_P"]), tiles_o, 1

    def _work(self, d: Shape) -> Work:
        x, w, bias = _inputs(d)
        order = (2, 3, 1, 0) if self._channels_last and not self._direct else (1, 2, 3, 0)
        buffers = {
            "x": self._laid(x),
            "w": np.ascontiguousarray(w.transpose(order)),
            "bias": bias,
            "y": self._laid(unwritten(d.n, d.o, d.p, d.q)),
        }
        sizes = [np.int32(v) for v in (d.n, d.c, d.h, d.w, d.o, d.p, d.q, d.pad)]
        launch = Launch(
            "conv", self._grid(d), (self._threads, 1, 1), ("x", "w", "bias", "y", *sizes), self._shared_bytes
        )
        return Work(buffers, {"run": (launch,)}, ("y",))

    def _laid(self, images: Array) -> Array:
        """(N, channels, H, W) in the layout of the point."""
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self._channels_last else images

    def _case(self, name: str, d: Shape) -> Case:
        judge = Compared("y", self._laid(reference(d, *_inputs(d))))
        return Case(name, self._work(d), judge, {"max_rel_error": of_sums(d.c * d.r * d.s, tensor_cores=False)})


def _inputs(d: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    return uniform(1, d.n, d.c, d.h, d.w), uniform(2, d.o, d.c, d.r, d.s), uniform(3, d.o)


def reference(d: Shape, x: Array, w: Array, bias: Array) -> NDArray[np.float64]:
    """(N, O, P, Q): the definition, summed in double, one element of the filter after the other."""
    border = ((0, 0), (0, 0), (d.pad, d.pad), (d.pad, d.pad))
    padded = np.pad(x.astype(np.float64), border)
    sums = np.zeros((d.o, d.n, d.p, d.q))
    for r in range(d.r):
        for s in range(d.s):
            seen = padded[
                :, :, r : r + (d.p - 1) * d.stride + 1 : d.stride, s : s + (d.q - 1) * d.stride + 1 : d.stride
            ]
            sums += np.tensordot(w[:, :, r, s].astype(np.float64), seen, axes=(1, 1))
    result: NDArray[np.float64] = np.maximum(sums.transpose(1, 0, 2, 3) + bias[:, None, None], 0.0)
    return result
