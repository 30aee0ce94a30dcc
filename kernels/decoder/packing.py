"""How do the decoder's weights lie in a GPU's memory? decoder.cu says what it expects; this makes it.

A row's kept weights lie side by side in slots, padded with zeros to whole 16-byte loads whatever the bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.targets.cuda.operands import ceil_div

from .weights import BLOCK, LANES, TWO_OF_FOUR, Matrix, to_bf16

COLUMNS = 64  # a row of activations is padded to whole 64s, so that two of four has whole loads too
SLOTS = 32


def padded(size: int, whole: int) -> int:
    return ceil_div(size, whole) * whole


@dataclass(frozen=True)
class Packed:
    """values: bytes (rows, …); scales (rows, groups); index: which inputs pruned slots stand for."""

    values: NDArray[np.uint8]
    scales: NDArray[np.float32]
    index: NDArray[np.uint16]
    slots: int
    columns: int
    kept: int  # weights that are multiplied
    dense: int
    has_scales: bool
    has_index: bool

    @property
    def groups(self) -> int:
        return int(self.scales.shape[1])

    @property
    def bytes(self) -> int:
        return self.values.nbytes + self.has_scales * self.scales.nbytes + self.has_index * self.index.nbytes


def pack(parts: Sequence[Matrix], bits: int, pruning: str, group: int) -> Packed:
    """Matrices of as many columns, one below the other, each padded to whole blocks of LANES rows."""
    columns = parts[0].floats.shape[1]
    wide = padded(columns, COLUMNS)
    weights = _stacked([m.floats if m.integers is None else m.integers for m in parts], wide)
    keep = _stacked([m.keep for m in parts], wide)
    scales = np.zeros((len(weights), max(1, ceil_div(wide, group))), np.float32)
    if bits <= 8:
        kept_scales = [m.scales for m in parts if m.scales is not None]
        found = _stacked(kept_scales, kept_scales[0].shape[1])
        scales[:, : found.shape[1]] = found
    index = np.zeros((1, 1), np.uint16)
    if pruning == TWO_OF_FOUR:
        weights, index = _two_of_four(weights, keep)
    elif pruning == BLOCK:
        weights, index = _blocks(
            weights, keep, columns, group if bits <= 8 else columns, 32 // bits if bits <= 8 else 1
        )
    return Packed(
        values=_encoded(weights, bits),
        scales=scales,
        index=index,
        slots=weights.shape[1],
        columns=columns,
        kept=sum(int(m.keep.sum()) for m in parts),
        dense=sum(m.keep.size for m in parts),
        has_scales=bits <= 8,
        has_index=pruning in (TWO_OF_FOUR, BLOCK),
    )


def _stacked(parts: Sequence[NDArray[Any]], wide: int) -> NDArray[Any]:
    rows = [padded(len(part), LANES) for part in parts]
    whole = np.zeros((sum(rows), wide), parts[0].dtype)
    for start, part in zip(np.cumsum([0, *rows[:-1]]), parts, strict=True):
        whole[start : start + len(part), : part.shape[1]] = part
    return whole


def _two_of_four(weights: NDArray[Any], keep: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.uint16]]:
    """The kept two of each four in their order (in padding, the first two), and two bits each that say which."""
    rows = len(weights)
    which = np.argsort(~keep.reshape(rows, -1, 4), axis=2, kind="stable")[:, :, :2]
    slots = np.take_along_axis(weights.reshape(rows, -1, 4), which, 2).reshape(rows, -1)
    codes = which.reshape(rows, -1, 8).astype(np.uint16) << np.arange(0, 16, 2, dtype=np.uint16)
    return slots, np.bitwise_or.reduce(codes, axis=2)


def _blocks(
    weights: NDArray[Any], keep: NDArray[np.bool_], columns: int, group: int, run: int
) -> tuple[NDArray[Any], NDArray[np.uint16]]:
    """What blocks of LANES rows keep, and one list of inputs a block. The kept inputs of a group are padded to whole
    runs, so that each run has one scale; a padded slot stands for the group's first input, with a weight of zero."""
    lists: list[list[int]] = []
    real: list[list[bool]] = []
    for first in range(0, len(weights), LANES):
        inputs: list[int] = []
        there: list[bool] = []
        for start in range(0, columns, group):
            found = (start + np.flatnonzero(keep[first, start : min(start + group, columns)])).tolist()
            rest = -len(found) % run
            inputs += found + [start] * rest
            there += [True] * len(found) + [False] * rest
        lists.append(inputs)
        real.append(there)
    slots = padded(max(1, *(len(inputs) for inputs in lists)), SLOTS)
    index = np.zeros((len(lists), slots), np.uint16)
    packed = np.zeros((len(weights), slots), weights.dtype)
    for block, (inputs, there) in enumerate(zip(lists, real, strict=True)):
        index[block, : len(inputs)] = inputs
        rows = slice(block * LANES, (block + 1) * LANES)
        packed[rows, : len(inputs)] = np.where(there, weights[rows][:, inputs], 0)
    return packed, index


def _encoded(weights: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    if bits == 4:  # the even slot of a pair in the low half, both offset by 8
        offset = (weights + 8).astype(np.uint8)
        return np.ascontiguousarray(offset[:, ::2] | offset[:, 1::2] << 4)
    kept: NDArray[Any] = to_bf16(weights) if bits == 16 else weights
    return np.ascontiguousarray(kept).view(np.uint8)
