"""Where does a search build, and which cache of finished builds stands behind it?"""

import os
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimizer.config.made import Builds
from optimizer.config.native import version_of
from optimizer.device import cpu_model
from optimizer.errors import ConfigError
from optimizer.objective import Goal
from optimizer.space import digest
from optimizer.targets.cache import BuildCache
from optimizer.targets.units import found_launcher

READ_BY_COMPILERS = (
    "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX",
    "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "SOURCE_DATE_EPOCH",
)  # fmt: skip
"""Variables that change what a compiler makes of the same words."""


def builds_of(node: Mapping[str, Any], folder: Path, goal: Goal) -> tuple[Builds, list[str]]:
    """Where builds go, and what the user should know of it. Raises ConfigError for wrong settings; a cache that can't
    be made is only told, since every search works without."""
    cache, told = None, []
    try:
        cache = cache_of(node)
    except OSError as error:
        told.append(f"The build cache {node['folder']} can't be used ({error.strerror}); every build is made here.")
    metrics = [*(o.metric for o in goal.objectives), *(x.metric for x in goal.limits)]
    times_count = any(metric.startswith("compile_") for metric in metrics)
    return Builds(folder, cache, found_launcher() if node.get("launcher") else None, times_count), told


def cache_of(node: Mapping[str, Any]) -> BuildCache | None:
    """The cache that the configuration names; None where it is switched off. Raises ConfigError, OSError."""
    max_bytes = node["max_bytes"]
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int | float) or max_bytes <= 0:
        raise ConfigError(f"build_cache.max_bytes is a number above 0, not '{max_bytes}'.")
    if node["folder"] is None:
        return None
    return BuildCache.opened(Path(str(node["folder"])).expanduser().absolute(), int(max_bytes), made_on())


def made_on() -> str:
    """What decides how a build turns out here and how long it takes, besides its sources, words and compiler: the
    processor with its instructions (which is what -march=native stands for), the C library, the assembler and linker,
    and variables that compilers read."""
    tools = [version_of(path) if (path := shutil.which(name)) else "" for name in ("as", "ld")]
    variables = {name: os.environ[name] for name in READ_BY_COMPILERS if name in os.environ}
    return digest(
        [platform.machine(), cpu_model(), _instructions(), platform.libc_ver(), os.cpu_count(), tools, variables]
    )


def _instructions() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return sorted(found.group(1).split()) if found else []
