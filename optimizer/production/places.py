"""What changed between two environments that may matter to speed or answers?"""

from collections.abc import Mapping

from optimizer.recipe import Environment, differences
from optimizer.space import Json

PASSING = ("name", "load_1min", "load_avg", "noise")
"""Facts of a host that say nothing of how fast it is when it is quiet."""


def changes(old: Environment, new: Environment) -> list[str]:
    """A line each: 'compiler g++: … 12.2.0 → … 13.1.0', 'package torch: 2.12.0 → 2.13.0'. Facts that one of them does
    not state are left out."""
    before, after = _facts(old), _facts(new)
    shared = [name for name in before if name in after]
    return differences({n: before[n] for n in shared}, {n: after[n] for n in shared})


def _facts(environment: Environment) -> dict[str, Json]:
    host = {k: v for k, v in environment.host.items() if k not in (*PASSING, "packages")}
    packages = environment.host.get("packages")
    named = {
        "device": environment.device,
        "driver": environment.driver,
        **{f"compiler {name}": version for name, version in environment.compilers.items()},
        **{f"host {name}": value for name, value in host.items()},
        **{f"package {n}": v for n, v in (packages.items() if isinstance(packages, Mapping) else ())},
    }
    return {name: value for name, value in named.items() if value not in (None, "")}
