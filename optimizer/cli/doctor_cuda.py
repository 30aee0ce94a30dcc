"""What of CUDA does this machine have, and what does each part make possible?"""

import shutil
from collections.abc import Callable, Sequence
from importlib import metadata

from optimizer.cli.finding import Finding
from optimizer.device import Cuda, driver_problem, version_of
from optimizer.errors import ConfigError
from optimizer.nvml import GpuFacts, described, gpus
from optimizer.targets.cuda.compile import REMEDY, Nvcc, Nvrtc
from optimizer.targets.cuda.sass import wheel_program

EXTRA = "pip install 'inference-optimizer[cuda]'"


def cuda_findings() -> list[Finding]:
    found, problem = gpus()
    nvrtc, nvcc = _compiler("NVRTC", _nvrtc_version), _compiler("nvcc", _nvcc_version)
    versions = {f.what: v for f in (nvrtc, nvcc) if f.ok and (v := version_of(f.found))}
    return [*_gpus(found, problem), *drivers(found, versions), nvrtc, nvcc, *_packages()]


def _gpus(found: Sequence[GpuFacts], problem: str) -> list[Finding]:
    if not found:
        advice = (
            f"no NVIDIA GPU answers ({problem}): CPU targets work, CUDA targets are compiled and checked on the "
            "processor (device=none), GPU metrics are absent"
        )
        return [Finding("GPU", None, "", advice)]
    listed = [Finding(f"GPU {g.index}", True, described(g)) for g in found]
    held = [Finding(f"GPU {g.index}", None, "", text) for g in found for text in Cuda(g).warnings]
    return listed + held


def drivers(found: Sequence[GpuFacts], versions: dict[str, tuple[int, int]]) -> list[Finding]:
    """Whether the driver can run what each compiler here builds."""
    if not found:
        return []
    problems = {name: text for name, v in versions.items() if (text := driver_problem(found[0].driver_cuda, v))}
    if problems:
        return [Finding("CUDA driver", False, "", f"{name}: {text}") for name, text in problems.items()]
    newest = ".".join(map(str, found[0].driver_cuda))
    return [Finding("CUDA driver", True, f"{found[0].driver}, runs what CUDA up to {newest} builds")]


def _compiler(name: str, version: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, version())
    except ConfigError as error:
        return Finding(name, None, "", str(error))


def _nvrtc_version() -> str:
    nvrtc = Nvrtc.found()
    try:
        return f"{nvrtc.version}: compiles CUDA kernels in a process that stays (compiler=nvrtc), {_range(nvrtc.archs)}"
    finally:
        nvrtc.close()


def _nvcc_version() -> str:
    nvcc = Nvcc.found()
    return f"{nvcc.version}, {nvcc.path}: compiles CUDA kernels, a process each (compiler=nvcc), {_range(nvcc.archs)}"


def _range(archs: Sequence[str]) -> str:
    return f"{archs[0]} to {archs[-1]}"


def _packages() -> list[Finding]:
    try:
        core = Finding("cuda-core", True, f"{metadata.version('cuda-core')}: runs kernels on a GPU")
    except metadata.PackageNotFoundError:
        core = Finding("cuda-core", None, "", f"no kernel runs on a GPU without it: {EXTRA}")
    disassembler = shutil.which("nvdisasm") or wheel_program("nvdisasm")
    sanitizer = shutil.which("compute-sanitizer") or wheel_program("compute-sanitizer")
    return [
        core,
        Finding(
            "nvdisasm",
            True if disassembler else None,
            f"{disassembler}: counts instructions by kind" if disassembler else "",
            f"builds tell no instruction mix without it: {REMEDY}",
        ),
        Finding(
            "compute-sanitizer",
            True if sanitizer else None,
            f"{sanitizer}: finds races in `pytest -m gpu -n 0`" if sanitizer else "",
            "races are not looked for in `pytest -m gpu -n 0` without it: it comes with the CUDA toolkit",
        ),
    ]
