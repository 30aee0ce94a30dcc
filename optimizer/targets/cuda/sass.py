"""Which machine instructions is a kernel made of? Counted by kind, from the bytes of its code.

From compute capability 7.0 on an instruction is 16 bytes long; its lowest 12 bits say which one it is and the next 4
under which predicate it is executed. What the 12 bits mean is asked of nvdisasm once for each code and process: to
disassemble a whole kernel takes longer than to compile it (0.2 to 0.3 s against 0.05 to 0.2 s), to read it 1 ms.
"""

import re
import shutil
import sys
import sysconfig
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from optimizer.process import run_tool

INSTRUCTION_BYTES = 16
ALWAYS = 7  # the predicate of an instruction that every thread executes
NOTHING, NOTHING_CODE = "NOP", 0x918  # fills the code up to a whole line
LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")  # /*0010*/  @!P0 LDG.E R2, … ;
TIMEOUT_S = 60.0
BATCH = 64  # instructions a call: what nvdisasm says of them is a few kilobytes

KINDS: Mapping[str, frozenset[str]] = {
    "memory": frozenset(
        (
            *("LD", "LDG", "ST", "STG", "LDGSTS", "LDGMC", "ATOM", "ATOMG", "RED", "REDG"),
            *("UBLKCP", "UBLKRED", "UTMALDG", "UTMASTG", "UTMAREDG"),
        )
    ),
    "shared": frozenset(("LDS", "STS", "LDSM", "STSM", "ATOMS")),
    "local": frozenset(("LDL", "STL")),
    "fma": frozenset(("FFMA", "FFMA2", "FHFMA", "HFMA2", "DFMA")),
    "tensor": frozenset(
        (
            *("HMMA", "IMMA", "DMMA", "BMMA", "QMMA", "OMMA", "HGMMA", "IGMMA", "QGMMA", "BGMMA"),
            *("UTCHMMA", "UTCIMMA", "UTCQMMA", "UTCOMMA"),
        )
    ),
}
"""Mnemonics by kind. memory is global memory, a copy from there to shared memory included."""

_names: dict[tuple[str, int], str] = {}  # by architecture and code; filled by nvdisasm, the only state of this module
_lock = threading.Lock()


def found_nvdisasm() -> str | None:
    """nvdisasm of the PATH, else of the wheel nvidia-cuda-nvdisasm; None where there is neither."""
    return shutil.which("nvdisasm") or wheel_program("nvdisasm")


def wheel_program(name: str) -> str | None:
    """A program of NVIDIA's wheels in this Python's site-packages."""
    roots = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path}
    for root in sorted(filter(None, roots)):
        for place in sorted(Path(root, "nvidia").glob(f"cu*/bin/{name}"), reverse=True):
            return str(place)
    return None


def instruction_facts(code: Sequence[bytes], arch: str, nvdisasm: str | None) -> dict[str, float]:
    """Numbers of instructions in sections of machine code. Those of a kind are absent where nvdisasm is.

    instructions_predicated: those that run under a predicate, so that some or all threads may skip them.
    """
    sections = [np.frombuffer(section, "<u8").astype(np.uint64) for section in code]
    words = np.concatenate(sections or [np.zeros(0, np.uint64)]).reshape(-1, 2)
    codes = words[:, 0] & np.uint64(0xFFF)
    predicated = (words[:, 0] >> np.uint64(12)) & np.uint64(0xF) != ALWAYS
    found, first, count = np.unique(codes, return_index=True, return_counts=True)
    names = _named({int(c): words[i].tobytes() for c, i in zip(found, first, strict=True)}, arch, nvdisasm)
    counts: Counter[str] = Counter()
    for value, number in zip(found, count, strict=True):
        counts[names.get(int(value), NOTHING if int(value) == NOTHING_CODE else "")] += int(number)
    facts = {
        "instructions_total": float(len(words) - counts[NOTHING]),
        "instructions_predicated": float(predicated.sum()),
    }
    if len(names) < len(found):
        return facts
    return facts | {f"instructions_{kind}": float(sum(counts[m] for m in known)) for kind, known in KINDS.items()}


def _named(examples: Mapping[int, bytes], arch: str, nvdisasm: str | None) -> dict[int, str]:
    """Mnemonics by code, of those for which nvdisasm is or was there to tell; examples: an instruction of each code."""
    with _lock:
        unknown = [code for code in examples if (arch, code) not in _names]
        if nvdisasm is not None:
            for start in range(0, len(unknown), BATCH):
                batch = {code: examples[code] for code in unknown[start : start + BATCH]}
                _names.update({(arch, code): name for code, name in _asked(batch, arch, nvdisasm).items()})
        return {code: _names[arch, code] for code in examples if (arch, code) in _names}


def _asked(examples: Mapping[int, bytes], arch: str, nvdisasm: str) -> dict[int, str]:
    """Mnemonics as nvdisasm tells them; "" for what it can't read (an architecture that is newer than it)."""
    with tempfile.TemporaryDirectory(prefix="optimizer-sass-") as folder:
        (Path(folder) / "code").write_bytes(b"".join(examples.values()))
        command = (nvdisasm, "--binary", arch.replace("sm_", "SM"), "--no-dataflow", "code")
        done = run_tool(command, TIMEOUT_S, Path(folder))
    told = {int(line[1], 16) // INSTRUCTION_BYTES: line[2] for line in LINE.finditer(done.output)}
    return {code: told.get(i, "") for i, code in enumerate(examples)}
