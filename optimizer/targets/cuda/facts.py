"""What does a build of a CUDA kernel tell before it ever runs? Numbers, by the names under which metrics are known.

Resources are the largest over the kernels that a point launches, occupancy the lowest, instructions and spills the sum;
what each kernel takes stands in the build's log.
"""

import re
from collections.abc import Mapping

from optimizer.targets.cuda.cubin import Kernel, code_key, kernels_of
from optimizer.targets.cuda.occupancy import MAX_THREADS, REGISTERS, Limits, limits_of, occupancy_pct
from optimizer.targets.cuda.plan import Block
from optimizer.targets.cuda.sass import found_nvdisasm, instruction_facts
from optimizer.trial import Reason, TrialError

__all__ = ["code_key", "facts_of", "spills"]

FUNCTION = re.compile(
    r"Function properties for (?P<name>\S+)\s+(?:ptxas\s+\.\s+)?\d+ bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)
"""What `ptxas --verbose` says of a function."""


def facts_of(cubin: bytes, log: str, blocks: Mapping[str, Block], arch: str) -> dict[str, float]:
    """Facts of a build. blocks: the kernels that are launched, with their blocks; none = all, without an occupancy.

    Absent is what nothing told: spills where the log is not of `ptxas --verbose`, the occupancy of an architecture
    that is not listed, kinds of instructions where nvdisasm is not installed.
    Raises TrialError(COMPILE) where a kernel is not in the cubin, TrialError(REJECTED) where a block can't be launched.
    """
    kernels = kernels_of(cubin)
    if missing := sorted(set(blocks) - set(kernels)):
        raise TrialError(
            Reason.COMPILE, f"the source has no kernel {', '.join(missing)}; it has {', '.join(sorted(kernels))}"
        )
    launched = [kernels[name] for name in blocks or kernels]
    facts = {
        "registers": float(max((k.registers for k in launched), default=0)),
        "shared_bytes": float(max((_shared_bytes(k, blocks) for k in launched), default=0)),
        "constant_bytes": float(max((k.constant_bytes for k in launched), default=0)),
        "stack_bytes": float(max((k.stack_bytes for k in launched), default=0)),
        "binary_bytes": float(len(cubin)),
        **_spilt(spills(log), launched, kernels),
        **instruction_facts([k.code for k in launched], arch, found_nvdisasm()),
    }
    if blocks and (limits := limits_of(arch)) is not None:
        facts["occupancy_pct"] = min(_occupancy_pct(k, blocks[k.name], arch, limits) for k in launched)
    return facts


def spills(log: str) -> dict[str, tuple[int, int]]:
    """Bytes of spill stores and spill loads by function, as `ptxas --verbose` told them."""
    return {m["name"]: (int(m["stores"]), int(m["loads"])) for m in FUNCTION.finditer(log)}


def _spilt(
    told: Mapping[str, tuple[int, int]], launched: list[Kernel], kernels: Mapping[str, Kernel]
) -> dict[str, float]:
    """Of the kernels that are launched and of the functions that any kernel may call."""
    if not told:
        return {}
    names = {k.name for k in launched} | (set(told) - set(kernels))
    counted = [told[name] for name in names if name in told]
    stores, loads = (float(sum(pair[i] for pair in counted)) for i in (0, 1))
    return {"spill_bytes": stores + loads, "spill_store_bytes": stores, "spill_load_bytes": loads}


def _shared_bytes(kernel: Kernel, blocks: Mapping[str, Block]) -> int:
    """Static and dynamic shared memory of a block."""
    return kernel.shared_bytes + (blocks[kernel.name].shared_bytes if kernel.name in blocks else 0)


def _occupancy_pct(kernel: Kernel, block: Block, arch: str, limits: Limits) -> float:
    shared = _shared_bytes(kernel, {kernel.name: block})
    pct = occupancy_pct(limits, block.threads, kernel.registers, shared)
    if pct == 0:
        raise TrialError(
            Reason.REJECTED,
            f"{kernel.name} can't be launched on {arch}: a block has {block.threads} threads of {kernel.registers} "
            f"registers and {shared} bytes of shared memory; it may have {MAX_THREADS} threads, {REGISTERS} registers "
            f"in all and {limits.shared_bytes_a_block} bytes",
        )
    return pct
