"""What does a cubin say of itself? Its kernels, what they take of a multiprocessor, and a hash of what runs."""

import hashlib
import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, SymbolTableSection

from optimizer.space import Json, digest
from optimizer.trial import Reason, TrialError

VALUE_OF_SIZE = 4  # EIFMT_SVAL: an attribute of .nv.info that is followed by its size and its value
MAX_THREADS, FRAME_SIZE, REQUIRED_THREADS, MIN_STACK_SIZE, REGISTERS = 0x05, 0x11, 0x10, 0x12, 0x2F
RESOURCES = (MAX_THREADS, REQUIRED_THREADS, FRAME_SIZE, MIN_STACK_SIZE, REGISTERS)
"""Attributes of .nv.info that decide how a kernel is launched and what it takes."""

LOADED = (".text.", ".nv.constant", ".nv.global", ".nv.shared.")  # what a program's answers depend on
RELOCATED = tuple(f"{kind}{name}" for kind in (".rel", ".rela") for name in LOADED)
INFO = ".nv.info"
RESERVED, RESERVED_BYTES = ".nv.shared.reserved.0", 1024
"""Where a cubin has this section (compute capability 9.0 and above), sizes of shared memory include this part of the
system."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An entry point. code: its machine instructions; shared_bytes: static, without what the system reserves;
    constant_bytes: banks of its own and of all kernels; stack_bytes: of a thread, in local memory."""

    name: str
    code: bytes = field(repr=False)
    registers: int
    shared_bytes: int
    constant_bytes: int
    stack_bytes: int


def kernels_of(cubin: bytes) -> Mapping[str, Kernel]:
    """The kernels of a cubin by name. Raises TrialError(COMPILE) where it is none."""
    file = _opened(cubin)
    sections = {s.name: s for s in file.iter_sections()}
    reserved = RESERVED_BYTES if RESERVED in sections else 0
    everywhere = sum(s["sh_size"] for name, s in sections.items() if _constants_of_all(name))
    told = {(name, attribute): value for name, attribute, value in _resources(file, sections)}
    kernels = {}
    for name, section in sections.items():
        if not name.startswith(".text.") or f"{INFO}.{name[6:]}" not in sections:
            continue
        kernel = name[6:]
        own, shared = sections.get(f".nv.constant0.{kernel}"), sections.get(f".nv.shared.{kernel}")
        kernels[kernel] = Kernel(
            name=kernel,
            code=section.data(),
            registers=told.get((kernel, REGISTERS), 0),
            shared_bytes=max(0, shared["sh_size"] - reserved) if shared else 0,
            constant_bytes=everywhere + (own["sh_size"] if own else 0),
            stack_bytes=told.get((kernel, MIN_STACK_SIZE), 0),
        )
    return kernels


def code_key(cubin: bytes) -> str:
    """A hash of what runs: machine code, constants, initial values, the shared memory and registers that it takes.
    Line numbers, notes and names of temporary files do not matter. Raises TrialError(COMPILE) where it is no cubin."""
    file = _opened(cubin)
    sections = {s.name: s for s in file.iter_sections()}
    parts: list[Json] = [["resource", *told] for told in _resources(file, sections)]
    for name, section in sections.items():
        if name.startswith(LOADED):
            stored = section["sh_type"] != "SHT_NOBITS"
            parts.append([name, section["sh_size"], hashlib.sha256(section.data()).hexdigest() if stored else ""])
        elif isinstance(section, RelocationSection) and name.startswith(RELOCATED):
            parts += [[name, *place] for place in _places(file, section)]
    return digest(sorted(parts, key=str))


def _opened(cubin: bytes) -> ELFFile:
    try:
        return ELFFile(io.BytesIO(cubin))
    except ELFError as error:
        raise TrialError(Reason.COMPILE, f"the compiler ended well and left no cubin: {error}") from None


def _constants_of_all(name: str) -> bool:
    """Whether a section is a constant bank that all kernels share: .nv.constant3 is, .nv.constant0.gemm is not."""
    bank = name.removeprefix(".nv.constant")
    return bank != name and bank.isdigit()


def _resources(file: ELFFile, sections: Mapping[str, Section]) -> Iterator[tuple[str, int, int]]:
    """(kernel, attribute, value) of what .nv.info and .nv.info.KERNEL say of resources."""
    symbols = file.get_section_by_name(".symtab")
    for name, section in sections.items():
        if name == INFO and isinstance(symbols, SymbolTableSection):
            for attribute, value in _attributes(section.data()):
                if attribute in RESOURCES and len(value) == 8:
                    symbol, number = struct.unpack("<II", value)
                    yield symbols.get_symbol(symbol).name, attribute, number
        elif name.startswith(f"{INFO}."):
            for attribute, value in _attributes(section.data()):
                if attribute in RESOURCES and len(value) == 12:
                    x, y, z = struct.unpack("<III", value)
                    yield name[len(INFO) + 1 :], attribute, x * y * z


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Attributes of an .nv.info section: a format, a code, then two bytes that are the value or the value's size."""
    at = 0
    while at + 4 <= len(data):
        shape, attribute, size = struct.unpack_from("<BBH", data, at)
        at += 4
        if shape == VALUE_OF_SIZE:
            yield attribute, data[at : at + size]
            at += size


def _places(file: ELFFile, section: RelocationSection) -> Iterator[list[Json]]:
    """Where addresses are filled in at loading, and which: symbols by where they lie, as names may be a file's hash."""
    symbols = file.get_section(section["sh_link"])
    if not isinstance(symbols, SymbolTableSection):
        return
    for entry in section.iter_relocations():
        symbol = symbols.get_symbol(entry["r_info_sym"])
        index = symbol["st_shndx"]
        target = file.get_section(index).name if isinstance(index, int) else symbol.name
        addend = entry["r_addend"] if section.is_RELA() else 0
        yield [entry["r_offset"], entry["r_info_type"], target, symbol["st_value"], addend]
