"""Are a CUDA kernel's answers right where no GPU is? The source is built by g++ and its threads run as fibres on the
processor (kernels/cuda_on_host.h), with sanitizers that see every access to memory.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optimizer.errors import ConfigError
from optimizer.process import conversation, run_tool
from optimizer.space import digest
from optimizer.targets.builds import file_hash, moved
from optimizer.targets.cuda.plan import Array, Case, Launch, Operation, Work, combined
from optimizer.trial import Check, Reason, TrialError

RUNTIME = ("cuda_on_host.h", "cuda_on_host.cpp")
RUNTIME_FLAGS = ("-std=c++17", "-O2", "-w")
FLAGS = (
    *("-std=c++17", "-O1", "-g", "-w", "-fno-strict-aliasing", "-fno-omit-frame-pointer"),
    "-ftrivial-auto-var-init=pattern",  # what a thread did not set it must not read
)
SANITIZERS = ("-fsanitize=address,alignment,bounds,integer-divide-by-zero,shift", "-fno-sanitize-recover=all")
ASAN_OPTIONS = "detect_leaks=0:detect_stack_use_after_return=0:verify_asan_link_order=0:allocator_may_return_null=0"
SHOWN_LINES = 12  # of what a sanitizer says: the mistake and where it was made
KINDS: Mapping[str, str] = {"b": "i", "i": "i", "u": "i", "f": "f"}  # of a NumPy scalar, in work.txt


@dataclass(frozen=True)
class HostCheck:
    """Builds kernels for the processor and runs them there.

    folder: where programs go, by the hash of all that they were built from; version: of the compiler; sanitize: whether
    accesses out of bounds, misaligned accesses and the like end a run, which then takes about twice as long; repeats:
    how often the launches of a work run, of which the last is looked at.
    """

    compiler: str
    version: str
    folder: Path
    timeout_s: float
    memory_bytes: int = 4 << 30
    sanitize: bool = True
    repeats: int = 1
    seed: int = 0

    @classmethod
    def found(cls, folder: Path, timeout_s: float) -> "HostCheck":
        """With this machine's g++. Raises ConfigError where there is none."""
        if (path := shutil.which("g++")) is None:
            raise ConfigError(
                "Without a GPU kernels are executed on the processor, built by g++, which is not on the PATH. "
                "Install it (Debian: apt install g++; Fedora: dnf install gcc-c++ libasan libubsan)."
            )
        done = run_tool((path, "--version"), 20.0, Path.cwd())
        return cls(path, done.output.partition("\n")[0].strip(), folder, timeout_s)

    def verify(self, source: Path, include: Path, macros: Sequence[str], operation: Operation) -> Check:
        """What the operation's small cases give. Raises TrialError: WRONG beyond a tolerance, CRASH for what a
        sanitizer found and for threads that wait for ever."""
        program = self.program(source, include, macros, tuple(operation.blocks))
        check, _ = combined(program.judged(operation.small(), self.seed))
        return check

    def program(self, source: Path, include: Path, macros: Sequence[str], kernels: Sequence[str]) -> "HostProgram":
        """Builds a .cu; its program stays in `folder`. macros: words as "-DTILE=4"; kernels: what will be launched.

        Raises TrialError(COMPILE), or ConfigError where the compiler itself fails.
        """
        words = (*FLAGS, *(SANITIZERS if self.sanitize else ()), *macros)
        sources = {p: file_hash(p) for p in sorted(_read_by(source, include))}
        named = {
            str(path.relative_to(include) if path.is_relative_to(include) else path): sources[path] for path in sources
        }
        place = self.folder / f"host-{digest([named, self.version, list(words), list(kernels)])}"
        if not (place / "program").is_file():
            runtime = self._runtime(include)
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix="building-") as scratch:
                stub = Path(scratch) / "kernels.cpp"
                stub.write_text(_registration(source.resolve(), kernels), encoding="utf-8")
                command = (self.compiler, *words, f"-I{include.resolve()}", stub.name, str(runtime), "-o", "program")
                self._compile(command, Path(scratch))
                moved(Path(scratch), place)
        return HostProgram(self, place / "program")

    def _runtime(self, include: Path) -> Path:
        """The half of cuda_on_host that no kernel changes."""
        key = digest([*(file_hash(include / name) for name in RUNTIME), self.version, list(RUNTIME_FLAGS)])
        made = (self.folder / f"cuda_on_host-{key}.o").resolve()
        if not made.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix="building-") as scratch:
                source = str((include / RUNTIME[1]).resolve())
                self._compile((self.compiler, *RUNTIME_FLAGS, "-c", source, "-o", "runtime.o"), Path(scratch))
                (Path(scratch) / "runtime.o").replace(made)
        return made

    def _compile(self, command: Sequence[str], folder: Path) -> None:
        try:
            done = run_tool(command, self.timeout_s, folder)
        except FileNotFoundError:
            raise ConfigError(f"{self.compiler} is gone; install g++ (Debian: apt install g++).") from None
        log = f"$ {' '.join(command)}\n{done.output}"
        if done.status is None:
            raise TrialError(Reason.TIMEOUT, f"g++ took more than {self.timeout_s:g} s\n{log}")
        if (missing := re.search(r"cannot find\W.*?(lib|-l)(asan|ubsan)", done.output)) is not None:
            raise ConfigError(
                f"g++ lacks lib{missing[2]}, which sees accesses out of bounds. Install it (Fedora: dnf install "
                f"libasan libubsan).\n{log}"
            )
        if done.status != 0:
            raise TrialError(Reason.COMPILE, log, again=done.killed)


@dataclass(frozen=True)
class HostProgram:
    """A built .cu."""

    check: HostCheck
    path: Path

    def run(self, work: Work, seed: int) -> dict[str, Array]:
        """The outputs after all launches. `seed` decides in which order blocks and threads run.

        Raises TrialError: CRASH for what a sanitizer or the runtime found, MEMORY, TIMEOUT.
        """
        limit = self.check.memory_bytes
        asan = f"{ASAN_OPTIONS}:hard_rss_limit_mb={limit >> 20}"
        with tempfile.TemporaryDirectory(prefix="optimizer-host-") as scratch:
            folder = Path(scratch)
            _write(work, seed, self.check.repeats, folder)
            # AddressSanitizer reserves address space by the TiB: it has a limit of its own on what is really used.
            command, environment = (
                (str(self.path.resolve()),),
                {"ASAN_OPTIONS": asan, "UBSAN_OPTIONS": "print_stacktrace=1"},
            )
            try:
                with conversation(
                    command, environment, folder, self.check.timeout_s, limit, reserves=self.check.sanitize
                ) as program:
                    program.answer()
            except TrialError as error:
                raise _explained(error) from None
            return _outputs(work, folder / "outputs.bin")

    def judged(self, cases: Sequence[Case], seed: int) -> Iterator[tuple[Case, Check]]:
        """Every case with what its judge says. Raises TrialError with the case's name."""
        for number, case in enumerate(cases):
            try:
                check = case.judge(self.run(case.work, seed + number))
            except TrialError as error:
                raise error.told(f"case {case.name}: {error.log}") from None
            if not check.errors:
                raise TrialError(Reason.WRONG, f"case {case.name} compared nothing with its reference")
            for name, value in check.errors.items():
                if not value <= (bound := case.tolerances.get(name, 0.0)):  # NaN is never right
                    raise TrialError(Reason.WRONG, f"case {case.name}: {name} is {value:g}; at most {bound:g} is right")
            yield case, check


def _read_by(source: Path, include: Path) -> set[Path]:
    """All that a build may read."""
    beside = [p for pattern in ("*.h", "*.cuh") for p in source.parent.glob(pattern)]
    above = [p for pattern in ("*.h", "*.cuh") for p in include.glob(pattern)]
    return {source, *beside, *above, *(include / name for name in RUNTIME)}


def _registration(source: Path, kernels: Sequence[str]) -> str:
    """The translation unit: the .cu, and a table of the kernels by name."""
    entries = "".join(f'    Entry<&::{name}>::named("{name}"),\n' for name in kernels)
    return f'#include "{source}"\n\nconst cuda_on_host::Kernel cuda_on_host::kernels[] = {{\n{entries}    {{}}}};\n'


def _write(work: Work, seed: int, repeats: int, folder: Path) -> None:
    """What cuda_on_host.cpp reads."""
    numbers = {name: i for i, name in enumerate(work.buffers)}
    lines = [f"seed {seed}", f"repeats {repeats}"]
    with (folder / "buffers.bin").open("wb") as file:
        for name, content in work.buffers.items():
            file.write(np.ascontiguousarray(content).tobytes())
            lines.append(f"buffer {content.nbytes} {int(name in work.outputs)}")
    for launch in work.launches:
        lines += _launched(launch, numbers)
    (folder / "work.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _launched(launch: Launch, numbers: Mapping[str, int]) -> Iterator[str]:
    sizes = (*launch.grid, *launch.block, launch.shared_bytes, len(launch.arguments))
    yield f"launch {launch.kernel} {' '.join(map(str, sizes))}"
    for argument in launch.arguments:
        if isinstance(argument, str):
            yield f"pointer {numbers[argument]}"
        else:
            bits = int.from_bytes(argument.astype(argument.dtype.newbyteorder("<")).tobytes(), "little")
            yield f"value {KINDS[argument.dtype.kind]} {argument.dtype.itemsize} {bits:x}"


def _outputs(work: Work, path: Path) -> dict[str, Array]:
    """The outputs by name; they lie in the file in the order of the buffers."""
    found: dict[str, Array] = {}
    content, start = path.read_bytes(), 0
    for name, buffer in work.buffers.items():
        if name in work.outputs:
            part = np.frombuffer(content[start : start + buffer.nbytes], dtype=buffer.dtype)
            found[name] = part.reshape(buffer.shape).copy()
            start += buffer.nbytes
    return found


def _explained(error: TrialError) -> TrialError:
    """With what a sanitizer said first, without what it says of its own shadow memory."""
    if "hard rss limit exhausted" in error.log:
        return TrialError(Reason.MEMORY, "the kernel's run needed more memory than it may have")
    lines = error.log.splitlines()
    for start, line in enumerate(lines):
        if "ERROR: AddressSanitizer" in line or "runtime error:" in line:
            return TrialError(Reason.CRASH, "\n".join(lines[start : start + SHOWN_LINES]))
    return error.told("\n".join(lines[:SHOWN_LINES]))
