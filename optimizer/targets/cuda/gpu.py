"""How does a GPU run a work? Buffers, launches and timing through cuda-core; the only file that calls CUDA.

runner.py needs of it what `Gpu` and `Loaded` say; tests put a GPU made of NumPy in its place.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from optimizer.targets.cuda.plan import Array, Launch, Work
from optimizer.trial import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cuda.core import Buffer, Event, Kernel

FLUSH_OVER_L2 = 2  # sizes of the L2 cache that are written to put everything else out of it


class GpuError(Exception):
    """CUDA refused or failed; after an illegal access nothing works any more in this process."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Loaded(Protocol):
    """A work whose buffers are on a GPU. Every method may raise GpuError."""

    @property
    def bytes_held(self) -> int:
        """Of GPU memory, by the buffers."""
        ...

    def run(self, repeats: int, *, flush_l2: bool) -> Mapping[str, float]:
        """Seconds of each phase, `repeats` runs together. With flush_l2 no run finds its data in the L2 cache, and the
        time of flushing is left out; without, runs follow each other with nothing in between."""
        ...

    def outputs(self) -> Mapping[str, Array]: ...

    def close(self) -> None:
        """Gives the buffers back."""
        ...


class Gpu(Protocol):
    def load(self, work: Work, *, graph: bool) -> Loaded:
        """graph: each phase is captured once and started as one. Raises GpuError."""
        ...


def reason_of(message: str) -> Reason:
    """What an error of CUDA means for the trial, from the name that its message begins with."""
    if "CUDA_ERROR_OUT_OF_MEMORY" in message:
        return Reason.MEMORY
    return Reason.REJECTED if "CUDA_ERROR_NO_BINARY_FOR_GPU" in message else Reason.CRASH


@contextmanager
def _cuda_errors(doing: str) -> "Iterator[None]":
    from cuda.core._utils.cuda_utils import CUDAError  # its public name does not exist yet

    try:
        yield
    except CUDAError as error:
        message = str(error)
        raise GpuError(reason_of(message), f"{doing}: {message}") from None


class CudaGpu:
    """The first device that CUDA_VISIBLE_DEVICES shows, with the kernels of one cubin."""

    def __init__(self, cubin: Path) -> None:
        from cuda.core import Device, ObjectCode

        with _cuda_errors("start"):
            self.device = Device(0)
            self.device.set_current()
            self.stream = self.device.create_stream()
            self._code = ObjectCode.from_cubin(cubin.read_bytes())
        self._kernels: dict[str, Kernel] = {}
        self._shared: dict[str, int] = {}  # dynamic shared memory that a kernel may use so far
        self._flushed: Buffer | None = None

    def load(self, work: Work, *, graph: bool) -> "CudaLoaded":
        with _cuda_errors("load"):
            loaded = CudaLoaded(self, {name: self._uploaded(a) for name, a in work.buffers.items()}, work)
            if graph:
                loaded.capture()
            self.stream.sync()
        return loaded

    def _uploaded(self, array: Array) -> "Buffer":
        buffer = self.device.allocate(max(1, array.nbytes), stream=self.stream)
        if array.nbytes:
            array = np.ascontiguousarray(array)
            _checked("cuMemcpyHtoDAsync", int(buffer.handle), array.ctypes.data, array.nbytes, self.stream.handle)
            self.stream.sync()  # the array may go away
        return buffer

    def downloaded(self, buffer: "Buffer", like: Array) -> Array:
        array = np.empty(like.shape, like.dtype)
        if array.nbytes:
            _checked("cuMemcpyDtoHAsync", array.ctypes.data, int(buffer.handle), array.nbytes, self.stream.handle)
        self.stream.sync()
        return array

    def kernel(self, launch: Launch) -> "Kernel":
        """Allowed as much dynamic shared memory as the launch wants: more than the default (48 KiB less what is
        static) must be asked for."""
        if (kernel := self._kernels.get(launch.kernel)) is None:
            kernel = self._kernels[launch.kernel] = self._code.get_kernel(launch.kernel)
            self._shared[launch.kernel] = kernel.attributes.max_dynamic_shared_size_bytes
        if launch.shared_bytes > self._shared[launch.kernel]:
            from cuda.bindings import driver

            which = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            device = driver.CUdevice(self.device.device_id)
            _checked("cuKernelSetAttribute", which, launch.shared_bytes, kernel.handle, device)
            self._shared[launch.kernel] = launch.shared_bytes
        return kernel

    def flush_l2(self) -> None:
        if self._flushed is None:
            size = max(1 << 20, FLUSH_OVER_L2 * self.device.properties.l2_cache_size)
            self._flushed = self.device.allocate(size, stream=self.stream)
        self._flushed.fill(0, stream=self.stream)

    def event(self) -> "Event":
        from cuda.core import EventOptions

        # blocking: a wait that spins would take a processor from the builds beside it
        return self.device.create_event(EventOptions(timing_enabled=True, blocking_sync=True))


def _checked(name: str, *arguments: Any) -> None:
    """A call of the driver that cuda-core has no word for."""
    from cuda.bindings import driver
    from cuda.core._utils.cuda_utils import handle_return

    handle_return(getattr(driver, name)(*arguments))


@dataclass
class CudaLoaded:
    """A work on the GPU."""

    gpu: CudaGpu
    buffers: "dict[str, Buffer]"
    work: Work
    _events: "list[Event]" = field(default_factory=list)
    _phases: dict[str, list[Any]] = field(default_factory=dict)  # name → what starts it: calls without arguments

    def __post_init__(self) -> None:
        for name, launches in self.work.phases.items():
            self._phases[name] = [self._starter(launch) for launch in launches]

    @property
    def bytes_held(self) -> int:
        return sum(b.size for b in self.buffers.values())

    def _starter(self, launch: Launch) -> Any:
        from cuda.core import LaunchConfig
        from cuda.core import launch as start

        kernel = self.gpu.kernel(launch)
        config = LaunchConfig(grid=launch.grid, block=launch.block, shmem_size=launch.shared_bytes)
        arguments = [self.buffers[a] if isinstance(a, str) else a for a in launch.arguments]
        return lambda stream: start(stream, config, kernel, *arguments)

    def capture(self) -> None:
        for name, starters in self._phases.items():
            if not starters:
                continue
            builder = self.gpu.device.create_graph_builder()
            builder.begin_building()
            for starter in starters:
                starter(builder)
            builder.end_building()
            captured = builder.complete()
            captured.upload(self.gpu.stream)
            self._phases[name] = [captured.launch]

    def run(self, repeats: int, *, flush_l2: bool) -> Mapping[str, float]:
        with _cuda_errors("run"):
            apart = flush_l2 or len(self._phases) > 1  # every run between events of its own
            marks = self._marked(repeats, flush_l2=flush_l2) if apart else self._marked_together(repeats)
            self.gpu.stream.sync()
            seconds = dict.fromkeys(self._phases, 0.0)
            for start, ends in marks:
                before = start
                for name, end in zip(self._phases, ends, strict=True):
                    seconds[name] += 1e-3 * (end - before)  # a difference of events is in milliseconds
                    before = end
            return seconds

    def _marked(self, repeats: int, *, flush_l2: bool) -> "list[tuple[Event, list[Event]]]":
        marks: list[tuple[Event, list[Event]]] = []
        used = 0
        self._reserve(repeats * (1 + len(self._phases)))
        for _ in range(repeats):
            if flush_l2:
                self.gpu.flush_l2()
            start = self._record(used)
            ends: list[Event] = []
            for starters in self._phases.values():
                for starter in starters:
                    starter(self.gpu.stream)
                ends.append(self._record(used + len(ends) + 1))
            used += 1 + len(ends)
            marks.append((start, ends))
        return marks

    def _marked_together(self, repeats: int) -> "list[tuple[Event, list[Event]]]":
        self._reserve(2)
        start = self._record(0)
        for _ in range(repeats):
            for starters in self._phases.values():
                for starter in starters:
                    starter(self.gpu.stream)
        return [(start, [self._record(1)])]

    def _reserve(self, count: int) -> None:
        """Beforehand, since making an event takes time."""
        while len(self._events) < count:
            self._events.append(self.gpu.event())

    def _record(self, index: int) -> "Event":
        return self.gpu.stream.record(self._events[index])

    def outputs(self) -> Mapping[str, Array]:
        with _cuda_errors("read back"):
            return {n: self.gpu.downloaded(self.buffers[n], self.work.buffers[n]) for n in self.work.outputs}

    def close(self) -> None:
        with _cuda_errors("free"):
            for buffer in self.buffers.values():
                buffer.close()
            self.gpu.stream.sync()
