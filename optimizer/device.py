"""What is measured on: a device held alone, described, and watched while something runs on it."""

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import psutil
from filelock import FileLock

from optimizer.nvml import utilization
from optimizer.recipe import NO_DEVICE, Environment
from optimizer.space import Json

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
        """foreign_load_pct: the share of all cores that neither this process nor the runner `pid` used; and what the
        first GPU did meanwhile, where NVML answers."""
        telemetry = Telemetry()
        with utilization() as gpu:
            before, own_before, start = _busy_s(), _own_s(pid), time.monotonic()
            yield telemetry
            capacity_s = (time.monotonic() - start) * (os.cpu_count() or 1)
            after, own_after = _busy_s(), _own_s(pid)
        telemetry.samples = dict(gpu)
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
    """CPU seconds of this process and of the runner; None where the runner is gone."""
    mine = psutil.Process().cpu_times()
    total = float(mine.user + mine.system)
    if pid is not None:
        try:
            theirs = psutil.Process(pid).cpu_times()
        except psutil.Error:
            return None
        total += float(theirs.user + theirs.system)
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
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_1min": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
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
