"""How many warps of a kernel does a multiprocessor of an architecture hold at a time?

Limits: NVIDIA's CUDA programming guide, "Technical specifications per compute capability" and the maximum shared memory
of each; rules of allocation: cuda_occupancy.h of the CUDA runtime, with which a test compares every number.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

WARP = 32  # threads
REGISTERS = 65_536  # of a multiprocessor, and at most of a block, for all that are listed
REGISTER_UNIT = 256  # registers are given to a warp in units of so many
PARTITIONS = 4  # of a multiprocessor; a warp's registers lie in one of them
MAX_THREADS = 1024  # of a block
KIB = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one multiprocessor holds at most."""

    blocks: int
    warps: int
    shared_bytes: int
    shared_bytes_a_block: int  # with the opt-in that launching asks for
    shared_unit_bytes: int = 128
    shared_reserved_bytes: int = 1 * KIB  # which the system takes of each block


LIMITS: Mapping[str, Limits] = {
    "75": Limits(16, 32, 64 * KIB, 64 * KIB, shared_unit_bytes=256, shared_reserved_bytes=0),
    "80": Limits(32, 64, 164 * KIB, 163 * KIB),
    "86": Limits(16, 48, 100 * KIB, 99 * KIB),
    "87": Limits(16, 48, 164 * KIB, 163 * KIB),
    "88": Limits(16, 48, 100 * KIB, 99 * KIB),
    "89": Limits(24, 48, 100 * KIB, 99 * KIB),
    "90": Limits(32, 64, 228 * KIB, 227 * KIB),
    "100": Limits(32, 64, 228 * KIB, 227 * KIB),
    "103": Limits(32, 64, 228 * KIB, 227 * KIB),
    "110": Limits(24, 48, 228 * KIB, 227 * KIB),
    "120": Limits(24, 48, 100 * KIB, 99 * KIB),
    "121": Limits(24, 48, 100 * KIB, 99 * KIB),
}
"""By the number of sm_NN."""


def limits_of(arch: str) -> Limits | None:
    """The limits of sm_NN, sm_NNa or sm_NNf; None for an architecture that is not listed."""
    found = re.fullmatch(r"sm_(\d+)[af]?", arch)
    return LIMITS.get(found[1]) if found else None


def resident_blocks(limits: Limits, threads: int, registers: int, shared_bytes: int) -> int:
    """Blocks that a multiprocessor holds at a time; 0 where not even one fits (launching it would fail).

    registers: of a thread; shared_bytes: static and dynamic, of a block.
    """
    warps = _in_units(threads, WARP) // WARP
    if not 0 < threads <= MAX_THREADS:
        return 0
    a_warp = _in_units(max(1, registers) * WARP, REGISTER_UNIT)
    if a_warp * _in_units(warps, PARTITIONS) > REGISTERS or registers > 255:
        return 0
    by_registers = REGISTERS // PARTITIONS // a_warp * PARTITIONS // warps
    if shared_bytes > limits.shared_bytes_a_block:
        return 0
    taken = _in_units(shared_bytes + limits.shared_reserved_bytes, limits.shared_unit_bytes)
    by_shared = limits.shared_bytes // taken if taken else limits.blocks
    return min(limits.blocks, limits.warps // warps, by_registers, by_shared)


def occupancy_pct(limits: Limits, threads: int, registers: int, shared_bytes: int) -> float:
    """Warps that are resident at a time, in per cent of those that a multiprocessor holds at most."""
    warps = _in_units(threads, WARP) // WARP
    return 100.0 * resident_blocks(limits, threads, registers, shared_bytes) * warps / limits.warps


def _in_units(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit
