"""What is measured on: a device held alone, described, and watched while something runs on it."""

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import psutil
from filelock import FileLock

from optimizer.conditions import conditions, throttle_count
from optimizer.errors import ConfigError
from optimizer.nvml import EXCLUSIVE_PROCESS, PROHIBITED, VISIBLE, GpuFacts, described, gpus, named, visible
from optimizer.recipe import NO_DEVICE, Environment
from optimizer.space import Json
from optimizer.telemetry import watched

PACKAGES = ("optuna", "deap", "torch", "mlflow", "numpy")


@dataclass
class Telemetry:
    """The samples of one watch; filled when it ends."""

    samples: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Host:
    """The processor of this machine. `compilers`: what builds here, name → version, for the environment."""

    compilers: Mapping[str, str] = field(default_factory=dict)
    lock: str = "cpu"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits for other searches on this machine; a search that was killed holds nothing."""
        with FileLock(lock_path(self.lock), mode=0o666).acquire(poll_interval=0.005):
            yield

    @contextmanager
    def watch(self, pid: int | None) -> Iterator[Telemetry]:
        """foreign_load_pct: the share of all cores that neither this process nor the runner `pid` used; throttled_pct:
        100 where heat held the clocks down; and what the first GPU did meanwhile, where NVML answers."""
        telemetry = Telemetry()
        with watched(None, None, only_utilization=True) as gpu:
            heat, before, own_before, start = throttle_count(), _busy_s(), _own_s(pid), time.monotonic()
            yield telemetry
            capacity_s = (time.monotonic() - start) * (os.cpu_count() or 1)
            after, own_after = _busy_s(), _own_s(pid)
        telemetry.samples = dict(gpu)
        if heat is not None and (heat_after := throttle_count()) is not None:
            telemetry.samples |= {"throttled_pct": (100.0 * (heat_after > heat),)}
        if own_before is None or own_after is None or capacity_s <= 0:
            return  # a runner that has ended: absent is absent
        foreign = max(0.0, (after - before) - (own_after - own_before))
        telemetry.samples |= {"foreign_load_pct": (min(100.0, 100.0 * foreign / capacity_s),)}

    def describe(self) -> Environment:
        return Environment(
            device=cpu_model(),
            driver="",
            compilers=dict(self.compilers),
            host=host_facts(),
            commit=commit(),
        )


@dataclass(frozen=True)
class NoDevice:
    """Where code is built for a device that is not here: nothing runs, so builds are all that is measured, on the
    processor. `builds_for`: the architecture, for people."""

    builds_for: str
    compilers: Mapping[str, str] = field(default_factory=dict)
    lock: str = "cpu"

    def alone(self) -> AbstractContextManager[None]:
        return Host(lock=self.lock).alone()

    def watch(self, pid: int | None) -> AbstractContextManager[Telemetry]:
        return Host(lock=self.lock).watch(pid)

    def describe(self) -> Environment:
        described = Host(self.compilers).describe()
        return replace(described, device=f"{NO_DEVICE}{self.builds_for} compiled on {described.device}, nothing ran)")


@dataclass(frozen=True)
class Cuda:
    """One NVIDIA GPU, or one part of a GPU in MIG mode: parts share no multiprocessors, caches or memory."""

    gpu: GpuFacts
    compilers: Mapping[str, str] = field(default_factory=dict)

    @property
    def uuid(self) -> str:
        """As CUDA_VISIBLE_DEVICES names it."""
        return self.gpu.uuid

    @property
    def arch(self) -> str:
        return self.gpu.arch

    @property
    def lock(self) -> str:
        return f"cuda-{self.gpu.uuid}"

    @property
    def warnings(self) -> tuple[str, ...]:
        if not self.gpu.holders:
            return ()
        pids = ", ".join(map(str, self.gpu.holders))
        return (
            f"{self.gpu.name} ({self.gpu.uuid}) is in use by other processes (pid {pids}), which disturb what is "
            "measured; nvidia-smi shows them.",
        )

    def alone(self) -> AbstractContextManager[None]:
        return Host(lock=self.lock).alone()

    @contextmanager
    def watch(self, pid: int | None) -> Iterator[Telemetry]:
        """Telemetry of the GPU. The load of the processor is left out: builds are part of it, beside measurements."""
        telemetry = Telemetry()
        with watched(self.gpu.uuid, pid) as gpu:
            yield telemetry
        telemetry.samples = dict(gpu)

    def describe(self) -> Environment:
        gpu = self.gpu
        facts: dict[str, Json] = {
            "uuid": gpu.uuid,
            "memory_bytes": gpu.memory_bytes,
            "compute_capability": f"{gpu.capability[0]}.{gpu.capability[1]}",
            "driver_cuda": f"{gpu.driver_cuda[0]}.{gpu.driver_cuda[1]}",
            "max_sm_clock_hz": gpu.max_sm_clock_hz,
            "max_mem_clock_hz": gpu.max_mem_clock_hz,
            "holders": list(gpu.holders),
        }
        host = {**host_facts(), "processor": cpu_model(), "gpu": facts}
        return Environment(gpu.name, gpu.driver, dict(self.compilers), host, commit())


def chosen_gpus(device: str, compilers: Mapping[str, str]) -> tuple[Cuda, ...]:
    """The GPUs that a configured device names: cuda (all that are like the first), cuda:1, cuda:0+1, cuda:GPU-…,
    cuda:MIG-…. `compilers`: name → version, for the environment, and for whether the driver can run what they build.

    Raises ConfigError where there is none, where it can't be used, or where several differ: the search compares times.
    """
    everything, problem = gpus()
    shown = visible(everything, os.environ.get(VISIBLE))
    if not shown:
        raise ConfigError(_no_gpu(everything, problem))
    words = [w for w in re.split(r"[+,]", device.partition(":")[2]) if w]
    chosen = [_named(word, everything) for word in words] or [g for g in shown if _kind(g) == _kind(shown[0])]
    if len({g.uuid for g in chosen}) < len(chosen):
        raise ConfigError(f"device={device} names a GPU twice.")
    if len({_kind(g) for g in chosen}) > 1:
        listed = "; ".join(map(described, chosen))
        raise ConfigError(f"device={device} mixes GPUs whose times can't be compared: {listed}. Choose equal ones.")
    for gpu in chosen:
        _check_usable(gpu)
    for name, version in compilers.items():
        if (toolkit := version_of(version)) and (text := driver_problem(chosen[0].driver_cuda, toolkit)):
            raise ConfigError(f"{name}: {text}")
    return tuple(Cuda(gpu, compilers) for gpu in chosen)


def gpu_kinds() -> dict[str, list[str]]:
    """The GPUs that this search may use, by what must agree before their times are compared: its name → their UUIDs.
    Raises ConfigError where there is none."""
    everything, problem = gpus()
    shown = visible(everything, os.environ.get(VISIBLE))
    if not shown:
        raise ConfigError(_no_gpu(everything, problem))
    found: dict[str, list[str]] = {}
    for gpu in sorted(shown, key=_kind):
        found.setdefault(f"{gpu.name}, {gpu.memory_bytes >> 20} MiB", []).append(gpu.uuid)
    return found


def chosen_gpu(device: str, compilers: Mapping[str, str]) -> Cuda:
    """The first of them."""
    return chosen_gpus(device, compilers)[0]


def driver_problem(driver_cuda: tuple[int, int], toolkit: tuple[int, int]) -> str | None:
    """Why a driver that runs CUDA up to `driver_cuda` can't run what a toolkit builds; None where it can: within a
    major version newer toolkits work on older drivers (CUDA Compatibility, minor version compatibility)."""
    if driver_cuda[0] >= toolkit[0]:
        return None
    has, wants = (".".join(map(str, v)) for v in (driver_cuda, toolkit))
    return (
        f"the NVIDIA driver runs CUDA up to {has}, and the toolkit here is CUDA {wants}. Install a newer driver, or a "
        f"toolkit of CUDA {driver_cuda[0]}: pip install 'cuda-toolkit[nvcc,cudart,cccl,nvrtc]=={driver_cuda[0]}.*'."
    )


def version_of(text: str) -> tuple[int, int] | None:
    """Major and minor of the first version in a text: 13.0.88 → (13, 0)."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _kind(gpu: GpuFacts) -> tuple[str, int]:
    return gpu.name, gpu.memory_bytes


def _no_gpu(everything: Sequence[GpuFacts], problem: str) -> str:
    if not everything:
        return (
            f"There is no NVIDIA GPU here ({problem}). device=none compiles for one, and checks on the processor what "
            "the kernels answer; `optimizer doctor` shows what this machine has."
        )
    return (
        f"{VISIBLE}={os.environ.get(VISIBLE, '')} leaves no GPU of {len(everything)}: unset it, or name one by its "
        f"UUID. There are: {'; '.join(map(described, everything))}."
    )


def _named(word: str, everything: Sequence[GpuFacts]) -> GpuFacts:
    found = [g for g in everything if named(g, word)]
    listed = "; ".join(f"{g.index}: {described(g)}" for g in everything)
    if len(found) != 1:
        raise ConfigError(f"device=cuda:{word} names {'no GPU' if not found else 'several GPUs'}. There are: {listed}.")
    if found[0].split:
        raise ConfigError(f"device=cuda:{word} is in MIG mode: name one of its parts. There are: {listed}.")
    return found[0]


def _check_usable(gpu: GpuFacts) -> None:
    """A compute mode that leaves no room for this search."""
    if gpu.mode == PROHIBITED:
        raise ConfigError(
            f"{gpu.name} ({gpu.uuid}) is in the compute mode `prohibited`: nothing may run on it. Allow it with: "
            f"sudo nvidia-smi -i {gpu.uuid} -c DEFAULT"
        )
    if gpu.mode == EXCLUSIVE_PROCESS and gpu.holders:
        pids = ", ".join(map(str, gpu.holders))
        raise ConfigError(
            f"{gpu.name} ({gpu.uuid}) is in the compute mode `exclusive process`, and another process holds it (pid "
            f"{pids}). End that process, choose another GPU with device=cuda:N, or allow several with: "
            f"sudo nvidia-smi -i {gpu.uuid} -c DEFAULT"
        )


def lock_path(name: str) -> str:
    """Where the lock of a device lies: one folder for all users of the machine, so that they wait for each other."""
    folder = Path(tempfile.gettempdir()) / "optimizer-locks"
    folder.mkdir(exist_ok=True)
    if folder.stat().st_uid == os.getuid():
        folder.chmod(0o1777)
    return str(folder / f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)}.lock")


def _busy_s() -> float:
    """CPU seconds that the whole machine has spent working since it started."""
    times = psutil.cpu_times()
    return float(sum(getattr(times, f, 0.0) for f in ("user", "nice", "system", "irq", "softirq", "steal")))


def _own_s(pid: int | None) -> float | None:
    """CPU seconds of this process and of the runner, with what it has waited for; None where the runner is gone."""
    mine = psutil.Process().cpu_times()
    total = float(mine.user + mine.system)
    if pid is not None:
        try:
            theirs = psutil.Process(pid).cpu_times()
        except psutil.Error:
            return None
        total += float(theirs.user + theirs.system + theirs.children_user + theirs.children_system)
    return total


def physical_cores() -> int:
    """Cores, not hardware threads, that this process may use; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def host_facts() -> Mapping[str, Json]:
    """What else may matter of the machine; recorded, never compared."""
    return {
        "name": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cores": physical_cores(),
        "threads": os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        **conditions(),
        "load_1min": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The git commit of the working directory, "" where there is none."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
