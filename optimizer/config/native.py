"""How does a C++ program become a target, built by the compilers that this machine has?"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimizer.config.compose import Tree
from optimizer.config.language import inputs_of
from optimizer.config.made import Builds, Made, beside, needed, with_compilers
from optimizer.device import Host
from optimizer.errors import ConfigError
from optimizer.recipe import Plan
from optimizer.resources import kernels_dir
from optimizer.space import Space
from optimizer.targets.native import BASE_FLAGS, Limits, NativeTarget
from optimizer.targets.units import Compiler

COMPILERS = {"g++": "gcc (Debian: apt install g++)", "clang++": "clang (Debian: apt install clang libomp-dev)"}


def native(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    compilers, kernels = with_compilers(needed(space, node), found_compilers(), COMPILERS), kernels_dir()
    space, used = compilers.space, compilers.used
    sources = [_source(node, s) for s in node.get("sources") or [node["source"]]]
    inputs = inputs_of(node)
    target = NativeTarget(
        source=sources[0],
        support=tuple(kernels / s for s in node["support"]),
        include=kernels,
        options=inputs.options,
        space=space,
        compilers=used,
        folder=builds.folder,
        limits=Limits(plan.timeout_s, plan.memory_bytes),
        flags=tuple(node.get("flags") or BASE_FLAGS),
        files=inputs.files,
        hashes=inputs.hashes,
        more=tuple(sources[1:]),
        cache=builds.cache,
        launcher=builds.launcher,
        times_count=builds.times_count,
    )
    host = Host({c.name: c.version for c in used.values()})
    return Made(target, space, host, device, {}, compilers.missing, prepare=target.prepare, preview=target.preview)


def _source(node: Tree, path: Any) -> Path:
    """Of a user's own target beside its file, else of kernels/. Raises ConfigError where it is in neither place."""
    places = [kernels_dir() / str(path), *([beside(node, path)] if node.get("home") else [])]
    for place in reversed(places):
        if place.is_file():
            return place
    raise ConfigError(f"target={node['name']}: there is no source {places[-1]}.")


def found_compilers() -> Mapping[str, Compiler]:
    """The C++ compilers on the PATH, by name."""
    paths = {name: shutil.which(name) for name in COMPILERS}
    return {name: Compiler(name, path, version_of(path)) for name, path in paths.items() if path is not None}


def version_of(path: str) -> str:
    """The first line of --version, or "" where it says nothing."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.stdout else ""
