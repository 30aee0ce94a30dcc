"""What do the launch.py of several kernels need: options of the scenario, inputs, and storage in 16 bits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import nearest
from optimizer.targets.cuda.plan import Array, max_rel_error
from optimizer.trial import Check, Reason, TrialError

LARGEST_SHARED_BYTES = 99 * 1024  # what it may ask for on every GPU from sm_86 on
ELEMENT_BYTES: Mapping[str, int] = {"f32": 4, "f16": 2, "bf16": 2}
ROUNDING: Mapping[str, float] = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
"""The most that storing a number changes it, relative to itself."""

TILE: Mapping[str, int] = {
    "BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16, "THREAD_M": 1, "THREAD_N": 1, "STAGES": 1, "PAD": 0, "WARP_M": 16,
    "WARP_N": 8,
}  # fmt: skip
"""What kernels/tile_knobs.cuh takes where a macro that shapes a launch is not defined."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number among the options of a scenario."""

    default: int
    low: int = 1
    high: int = 1 << 15


def whole_numbers(options: Mapping[str, str], known: Mapping[str, Whole]) -> dict[str, int]:
    """Every known option's value. Raises TrialError(REJECTED) for one that is unknown or out of range."""
    for name in options:
        if name not in known:
            raise TrialError(Reason.REJECTED, f"there is no option {name}.{nearest(name, known)}")
    return {name: _whole(name, options.get(name), spec) for name, spec in known.items()}


def _whole(name: str, text: str | None, spec: Whole) -> int:
    if text is None:
        return spec.default
    if not (text.isascii() and text.isdigit() and spec.low <= int(text) <= spec.high):
        raise TrialError(Reason.REJECTED, f"{name}={text} is not a whole number from {spec.low} to {spec.high}")
    return int(text)


def of_sums(terms: int, tensor_cores: bool) -> float:
    """How far sums of `terms` products in float may lie apart, relative to the largest sum: kernels/gemm/README.md says
    why. A tensor core cuts off where float rounds, each time that it adds 16 products."""
    return 2e-5 + (ceil_div(terms, 16) * 2.0**-22 if tensor_cores else 0.0)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def whole_vectors(size_bytes: int) -> int:
    """Bytes rounded up to the 16 of the widest access."""
    return ceil_div(size_bytes, 16) * 16


def uniform(seed: int, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    """The same numbers from -scale to scale wherever they are made."""
    drawn = np.random.default_rng([seed, *shape]).uniform(-scale, scale, shape)
    return drawn.astype(np.float32)


def unwritten(*shape: int) -> NDArray[np.float32]:
    """An output before the kernel: what it does not write stays NaN and is found."""
    return np.full(shape, np.nan, dtype=np.float32)


def stored(values: NDArray[np.float32], precision: str) -> Array:
    """As the GPU stores them: float32, float16, or the 16 bits of a bfloat16; rounded to nearest, ties to even."""
    match precision:
        case "f16":
            return values.astype(np.float16)
        case "bf16":
            bits = values.view(np.uint32)
            return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
        case _:
            return values


def rounded(values: NDArray[np.float32], precision: str) -> NDArray[np.float64]:
    """What is left of them after storing."""
    kept = stored(values, precision)
    if precision == "bf16":
        kept = (kept.astype(np.uint32) << 16).view(np.float32)
    return kept.astype(np.float64)


@dataclass(frozen=True)
class ComparedTwice:
    """A judge that compares an output with the answer for the given operands, and with that for the operands as they
    are stored. The first says what storing costs; the second leaves room for the order of sums only, so that it finds a
    kernel's mistakes in 16 bits as surely as in 32."""

    output: str
    exact: Array
    after_storing: Array

    def __call__(self, outputs: Mapping[str, Array]) -> Check:
        actual = outputs[self.output]
        return Check(
            {
                "max_rel_error": max_rel_error(actual, self.exact),
                "max_rel_error_of_sums": max_rel_error(actual, self.after_storing),
            }
        )
