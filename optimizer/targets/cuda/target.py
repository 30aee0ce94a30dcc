"""How is a CUDA kernel built and run at a point? By NVRTC or nvcc with the point's flags and macros, then on a GPU in a
process of its own; where there is none it is only built, and the processor executes it to check its answers.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from optimizer.process import conversation
from optimizer.space import Json, Point, Space, Value, digest
from optimizer.targets.builds import file_hash, kept_or_made, knob_words
from optimizer.targets.cache import BuildCache
from optimizer.targets.cuda.compile import Toolchain
from optimizer.targets.cuda.facts import code_key, facts_of
from optimizer.targets.cuda.host import HostCheck
from optimizer.targets.cuda.operation import load_operation
from optimizer.targets.cuda.plan import Operation
from optimizer.targets.native import Limits, NativeRunner
from optimizer.targets.sources import Closure, canonical, closure, include_folders
from optimizer.trial import Artifact, Check, Reason, Samples, TrialError

CUBIN = "kernel.cubin"
RUNNER_MODULE = "optimizer.targets.cuda.runner"


@dataclass(frozen=True)
class Scenario:
    """How a kernel is run: options and files of its launch.py, and settings of the measurement."""

    options: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)  # of the content of files, where it is known already
    flush_l2: bool = True  # between readings, so that none finds its data there
    graph: bool = False  # the launches of a run captured once and started as one


@dataclass(frozen=True)
class CudaTarget:
    """One .cu and its launch.py.

    toolchains: by the value of the knob `compiler`; arch: built for where no knob `arch` says otherwise; gpu: the UUID
    of the GPU that it runs on, None where it is only compiled.
    """

    source: Path
    launch: Path
    include: Path
    scenario: Scenario
    space: Space
    toolchains: Mapping[str, Toolchain]
    arch: str
    gpu: str | None
    folder: Path
    limits: Limits
    check: HostCheck | None = None  # what executes kernels where there is no GPU
    flags: tuple[str, ...] = ()
    cache: BuildCache | None = None  # what other searches have built

    @property
    def shares_cpu(self) -> bool:
        """Without a GPU builds are what is measured, so none may run beside another."""
        return self.gpu is None

    def fingerprint(self) -> Mapping[str, Json]:
        return {
            "sources": digest(self._hashes),
            "files": {n: self.scenario.hashes.get(n) or file_hash(p) for n, p in self.scenario.files.items()},
            "options": dict(self.scenario.options),
            "flags": list(self.flags),
            "flush_l2": self.scenario.flush_l2,
            "graph": self.scenario.graph,
            "arch": self.arch,
        }

    def operation(self, point: Mapping[str, Value]) -> Operation:
        """Raises TrialError(REJECTED) for options that the kernel can't work with."""
        return self._class(self.scenario.options, self.scenario.files, point)

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        cache = None if self._reads.computed else self.cache
        return self.built(point, (*self.flags, *knob_words(self.space, point)), fresh=fresh, cache=cache)

    def built(
        self, point: Point, words: Sequence[str], *, fresh: bool = False, cache: BuildCache | None = None
    ) -> Artifact:
        """A point compiled with these words in place of its own flags and macros."""
        operation, toolchain, arch = self.operation(point), self._toolchain(point), self._arch(point)
        words = (*words, *_derived(operation))
        key = digest([self._hashes, toolchain.version, arch, list(canonical(words)), self._launched(point)])

        def made(scratch: Path, place: Path) -> Artifact:
            built = toolchain.compile(self.source, self.include, words, arch, scratch, self.limits.timeout_s)
            (scratch / CUBIN).write_bytes(built.cubin)
            return Artifact(
                key=key,
                code_key=code_key(built.cubin),
                path=str(place / CUBIN),
                command=tuple(built.command),
                log=built.log,
                facts={**facts_of(built.cubin, built.log, operation.blocks, arch), **built.facts},
            )

        artifact = kept_or_made(self.folder, key, made, fresh=fresh, cache=cache)
        return replace(artifact, arguments=self.arguments(point))

    def arguments(self, point: Point) -> tuple[str, ...]:
        """The runner's words, as far as they say what runs and how: options and what launch.py may read."""
        return (
            f"--knobs={json.dumps(self._launched(point), sort_keys=True)}",
            f"--options={json.dumps(dict(self.scenario.options), sort_keys=True)}",
            f"--flush-l2={str(self.scenario.flush_l2).lower()}",
            f"--graph={str(self.scenario.graph).lower()}",
        )

    def preview(self, point: Point) -> tuple[str, ...]:
        """What builds and runs a point, for people."""
        toolchain, arch = self._toolchain(point), self._arch(point)
        words = " ".join(self.words(point, self.operation(point)))
        built = f"{toolchain.name} {self.source} --gpu-architecture={arch} {words}"
        return (built, " ".join(["(runner)", *self.arguments(point)]) if self.gpu else "(nothing runs: device=none)")

    def words(self, point: Point, operation: Operation) -> tuple[str, ...]:
        """Flags and macros of a point in the order of the space's knobs, then what launch.py derives from it."""
        return (*self.flags, *knob_words(self.space, point), *_derived(operation))

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator["NativeRunner | CompiledOnly"]:
        if self.gpu is None:
            yield CompiledOnly(self, artifact)
            return
        command = (
            *(sys.executable, "-m", RUNNER_MODULE, f"--cubin={artifact.path}", f"--launch={self.launch}"),
            f"--files={json.dumps({name: str(path) for name, path in self.scenario.files.items()}, sort_keys=True)}",
            *artifact.arguments,
        )
        environment = {**artifact.environment, "CUDA_VISIBLE_DEVICES": self.gpu}
        # A CUDA context reserves address space by the hundred GiB: RLIMIT_AS would end it at its start.
        with (
            tempfile.TemporaryDirectory(prefix="optimizer-run-") as scratch,
            conversation(
                command,
                environment,
                Path(scratch),
                self.limits.timeout_s,
                self.limits.memory_bytes,
                reserves=True,
            ) as program,
        ):
            yield NativeRunner(program, program.answer())

    def checked_on_host(self, artifact: Artifact, operation: Operation) -> Check:
        """What the small cases give when the processor executes the source with the artifact's macros."""
        if self.check is None:
            raise TrialError(Reason.REJECTED, "nothing here can execute the kernel: neither a GPU nor g++")
        macros = [word for word in artifact.command if word.startswith("-D")]
        return self.check.verify(self.source, self.include, macros, operation)

    def _launched(self, point: Point) -> dict[str, Value]:
        """The knobs that launch.py may read: what changes the source or its options, not the compiler's flags."""
        kinds = {k.name: k.effect.kind for k in self.space.knobs}
        return {name: value for name, value in point.items() if kinds[name] in ("macro", "option")}

    def _toolchain(self, point: Point) -> Toolchain:
        if (name := point.get("compiler")) is None:
            return next(iter(self.toolchains.values()))
        if (toolchain := self.toolchains.get(str(name))) is None:
            raise TrialError(Reason.REJECTED, f"the compiler {name} is not on this machine")
        return toolchain

    def _arch(self, point: Point) -> str:
        return str(point.get("arch", self.arch))

    @cached_property
    def _class(self) -> type[Operation]:
        return load_operation(self.launch)

    @cached_property
    def _reads(self) -> Closure:
        return closure([self.source], [self.source.parent, self.include, *include_folders(self.flags)])

    @cached_property
    def _hashes(self) -> Mapping[str, str]:
        """Everything that a build or a launch may read: the source and what it includes, launch.py, and headers and
        scripts beside them."""
        beside = [p for pattern in ("*.h", "*.cuh", "*.py") for p in self.source.parent.glob(pattern)]
        above = [p for pattern in ("*.h", "*.cuh") for p in self.include.glob(pattern)]
        return {
            os.path.relpath(p, self.include): file_hash(p) for p in {self.launch, *beside, *above, *self._reads.files}
        }


def _derived(operation: Operation) -> tuple[str, ...]:
    """Macros that launch.py makes of a point."""
    return tuple(f"-D{name}={value}" for name, value in operation.macros.items())


class CompiledOnly:
    """What stands for a running program where nothing runs: its check is the processor's execution of the kernel, and
    it has no readings. What multiplies on tensor cores is `unverified`: the processor only imitates them."""

    pid = None

    def __init__(self, target: CudaTarget, artifact: Artifact) -> None:
        self._target, self._artifact = target, artifact
        self._operation = target.operation(json.loads(artifact.arguments[0].partition("=")[2]))
        self.facts: Mapping[str, float] = {"unverified": 1.0} if self._operation.tensor_cores else {}

    def verify(self) -> Check:
        return self._target.checked_on_host(self._artifact, self._operation)

    def run(self, n: int) -> Samples:
        return {}
