"""Under which conditions does this machine's processor measure, and which of them make readings unsteady?"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from optimizer.space import Json

CPUS = Path("/sys/devices/system/cpu")


def conditions(cpus: Path = CPUS, information: Path = Path("/proc/cpuinfo")) -> Mapping[str, Json]:
    """What is recorded of a search's processor besides its model; what the system does not tell is None.

    governor: who sets its clocks (several, where cores differ); turbo: whether clocks may pass the base clock; smt:
    whether two threads share a core; cpus: those that this process may use; nice: its priority, 20 is the lowest;
    virtual: whether this is a virtual machine, whose host may give its processors to others.
    """
    governors = sorted({text for p in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor") if (text := _text(p))})
    smt = _text(cpus / "smt" / "active")
    return {
        "governor": ", ".join(governors) or None,
        "turbo": _turbo(cpus),
        "smt": None if smt is None else smt == "1",
        "cpus": listed(os.sched_getaffinity(0)),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "virtual": re.search(r"^flags\s*:.*\bhypervisor\b", _text(information) or "", re.MULTILINE) is not None,
    }


def _turbo(cpus: Path) -> bool | None:
    """intel_pstate says that it is off, acpi-cpufreq and amd-pstate that it is on (kernel.org, admin-guide/pm)."""
    if (off := _text(cpus / "intel_pstate" / "no_turbo")) is not None:
        return off == "0"
    boost = _text(cpus / "cpufreq" / "boost")
    return None if boost is None else boost == "1"


def unsteady(host: Mapping[str, Json]) -> Iterator[str]:
    """Advice: what of the conditions that a search recorded makes clocks and readings wander, and how it is ended."""
    governor = host.get("governor")
    if governor and governor != "performance":
        yield (
            f"The frequency governor is {governor}: clocks follow the load. Hold them for the time of a search: "
            "sudo cpupower frequency-set -g performance"
        )
    if host.get("turbo"):
        yield (
            "Turbo is on: how long clocks stay above the base clock depends on heat and on what other cores do. Switch "
            "it off for the time of a search: echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo, or "
            "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
        )
    if host.get("virtual"):
        yield (
            "This is a virtual machine: its host may give the processors to others, which is seen here in part only. "
            "Measure on dedicated processors where differences of a few percent matter."
        )
    if isinstance(nice := host.get("nice"), int) and nice > 0:
        yield f"The search runs at nice {nice}, so whatever else runs goes first: start it without nice."


def listed(numbers: Sequence[int] | set[int]) -> str:
    """Processors as taskset -c takes them: 0-3,6."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def processors(text: str) -> frozenset[int]:
    """The inverse of `listed`. Raises ValueError."""
    found: set[int] = set()
    for part in filter(None, text.replace(" ", "").split(",")):
        first, dash, last = part.partition("-")
        found |= set(range(int(first), int(last if dash else first) + 1))
    return frozenset(found)


def throttle_count() -> int | None:
    """How often heat has held down a package's clocks since the start; None where the system does not count it."""
    counts = [int(text) for path in _throttle_files() if (text := _text(path)) is not None and text.isdigit()]
    return sum(counts) if counts else None


@lru_cache(maxsize=1)
def _throttle_files() -> tuple[Path, ...]:
    """One a package: its processors tell the same (kernel.org, admin-guide/abi, thermal_throttle)."""
    packages: dict[str, Path] = {}
    for path in CPUS.glob("cpu[0-9]*/thermal_throttle/package_throttle_count"):
        packages.setdefault(_text(path.parents[1] / "topology" / "physical_package_id") or "", path)
    return tuple(packages.values())


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
