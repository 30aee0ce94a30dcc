"""Which of Inductor's options are knobs, where do its caches lie, and what code did it generate?

A trial's cache is its own: no trial is fast because a neighbour compiled the same. What depends on the machine and on
torch alone (does this processor have AVX-512? the precompiled headers of the usual flags) is prepared once, by the
probe, and every trial's cache begins with it; so a cold compile time is that of the model's own kernels.
"""

import hashlib
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optimizer.space import Value, digest
from optimizer.targets.native import code_key
from optimizer.targets.torch.parts import FP32_TOLERANCE, Knobs
from optimizer.trial import Reason, TrialError

OPTIONS: Mapping[str, str] = {
    "freezing": "freezing",
    "max_autotune": "max_autotune",
    "cpp_wrapper": "cpp_wrapper",
    "simdlen": "cpp.simdlen",
    "epilogue_fusion": "epilogue_fusion",
    "pattern_matcher": "pattern_matcher",
    "coordinate_descent": "coordinate_descent_tuning",
    "shape_padding": "shape_padding",
    "layout_optimization": "layout_optimization",
    "reorder_for_locality": "reorder_for_locality",
    "max_fusion_size": "max_fusion_size",
    "horizontal_fusion": "cpp.max_horizontal_fusion_size",
    "min_chunk_size": "cpp.min_chunk_size",
    "fast_math": "cpp.enable_unsafe_math_opt_flag",
    "fp_contract": "cpp.enable_floating_point_contract_flag",
    "tiling_heuristics": "cpp.enable_tiling_heuristics",
    "dynamic_threads": "cpp.dynamic_threads",
    "concat_linear": "cpp.enable_concat_linear",
    "conv_1x1_as_mm": "conv_1x1_as_mm",
    "memory_planning": "memory_planning",
    "prologue_fusion": "prologue_fusion",
}
"""Knob → key of torch._inductor.config. A knob that a point lacks leaves torch's own setting."""

MODE = "compile_mode"
CACHE, HEADERS = "inductor", "precompiled_headers"


def tolerance(knobs: Knobs) -> float:
    """Of what Inductor compiled: liberties with floating point cost some of the last places."""
    return 10 * FP32_TOLERANCE if knobs.get("fast_math") else FP32_TOLERANCE


def options_of(knobs: Knobs) -> dict[str, Any]:
    """Inductor's options at a point, by their own names."""
    return {key: _meant(name, knobs[name]) for name, key in OPTIONS.items() if name in knobs}


def _meant(name: str, value: Value) -> Any:
    if name == "simdlen":
        return value or None  # 0: what the processor has
    if name == "fp_contract":
        return "fast" if value else "off"
    return value


def environment(folder: Path) -> dict[str, str]:
    """Variables that keep a worker's compile caches in an artifact's folder."""
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder / CACHE), "TRITON_CACHE_DIR": str(folder / "triton")}


def keep_headers(folder: Path) -> None:
    """Headers are precompiled into the artifact's cache too: torch would share them between all processes of a user."""
    from torch._inductor import codecache

    codecache._HEADER_DIR = str(folder / CACHE / HEADERS)  # a constant of the module; there is no setting
    codecache._HEADER_LOCK_DIR = str(folder / CACHE / HEADERS / "locks")


def without_headers() -> None:
    """In a warm worker nothing is compiled, and torch would precompile its headers all the same before it looks for
    what it has. Where something must be compiled after all, that then takes longer."""
    from torch._inductor import codecache

    codecache._precompile_header = lambda *words, **options: None  # type: ignore[assignment]


def in_effect(options: Mapping[str, Any]) -> None:
    """Sets Inductor's options for the whole process, which is a worker: torch.compile(options=…) sets them for a part
    of the compilation only, and freezing, which is decided before it, would silently not happen. Raises TrialError
    where this torch has no such option."""
    from torch._inductor import config

    if unknown := [name for name in options if name not in config.get_config_copy()]:
        raise TrialError(Reason.REJECTED, f"Inductor of this torch has no option {', '.join(unknown)}")
    config.patch(dict(options)).__enter__()  # the process ends before the patch does
    for name, value in options.items():
        if config.get_config_copy()[name] != value:
            raise TrialError(Reason.REJECTED, f"Inductor's option {name} did not become {value!r}")


def seed_of(cache: Path) -> Path:
    """Where the beginning of every cache lies, in the folder kept between studies: one a torch and a machine."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    kinds = sorted({line for line in text.splitlines() if line.startswith(("model name", "flags", "Features"))})
    return cache / f"inductor-{digest([version('torch'), platform.machine(), shutil.which('g++') or '', kinds])}"


def sown(folder: Path, seed: Path) -> None:
    """Begins an artifact's cache with what depends on the machine alone; nothing where the probe left no seed."""
    if seed.is_dir():
        shutil.copytree(seed, folder / CACHE, copy_function=_linked, dirs_exist_ok=True)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def harvested(cache: Path, seed: Path) -> None:
    """Keeps of a probe's cache what depends on the machine alone."""
    beside = seed.with_name(f"{seed.name}.{os.getpid()}")
    ignored = shutil.ignore_patterns("fxgraph", "aotautograd", "locks", "*.py", "*.main.*", "*.lock")
    shutil.copytree(cache, beside, ignore=ignored, copy_function=_linked)
    try:
        beside.rename(seed)
    except OSError:  # another search was faster
        shutil.rmtree(beside)


def trimmed(folder: Path) -> None:
    """Drops what only compiling needs: a precompiled header is 150 MB."""
    shutil.rmtree(folder / CACHE / HEADERS, ignore_errors=True)


def code_of(folder: Path, seed: Path) -> str:
    """A hash of all generated code: the Python around the kernels, and the machine code of the kernels."""
    known = {p.name for p in seed.rglob("*.so")}
    hashes = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder / CACHE).rglob("*.py")]
    hashes += [code_key(p) for p in (folder / CACHE).rglob("*.so") if p.name not in known]
    return digest(sorted(hashes)) if hashes else ""


def generated(folder: Path) -> str:
    """The text of the generated code, for evidence."""
    sources = [p for kind in ("*.py", "*.cpp") for p in sorted((folder / CACHE).rglob(kind))]
    return "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in sources)
