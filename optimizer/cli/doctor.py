"""What does this machine have, what is missing, and how is it got?"""

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from optimizer.cli.doctor_cuda import cuda_findings
from optimizer.cli.doctor_language import language_findings
from optimizer.cli.finding import Finding
from optimizer.config.native import COMPILERS, found_compilers
from optimizer.config.torch import backends_here
from optimizer.device import PACKAGES, cpu_model, physical_cores
from optimizer.resources import conf_dir, kernels_dir

OPENMP = {"g++": "libgomp (it comes with the compiler's package)", "clang++": "libomp (Debian: libomp-dev)"}


def command(*, as_json: bool) -> None:
    found = findings()
    if as_json:
        print(json.dumps([asdict(f) for f in found]))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2), show_header=False)
    for finding in found:
        mark = {True: "[green]ok[/]", False: "[red]missing[/]", None: "[yellow]absent[/]"}[finding.ok]
        table.add_row(mark, escape(finding.what), escape(finding.found or finding.advice))  # [cuda] is no markup
    Console(soft_wrap=True).print(table)


def findings() -> list[Finding]:
    parts = (_machine, _compilers, cuda_findings, _packages, _backends, language_findings, _folders)
    return [finding for part in parts for finding in part()]


def _machine() -> list[Finding]:
    memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    return [Finding("processor", True, f"{cpu_model()}, {physical_cores()} cores, {memory}")]


def _compilers() -> list[Finding]:
    here = found_compilers()
    found = []
    for name, advice in COMPILERS.items():
        optional = None if here else False
        version = here[name].version if name in here else ""
        found.append(Finding(name, True if name in here else optional, version, f"install {advice}"))
        if name in here and not _makes_openmp_programs(here[name].path):
            found.append(Finding(f"OpenMP for {name}", False, "", f"{name} can't link it: install {OPENMP[name]}"))
    return found


def _makes_openmp_programs(compiler: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        words = [compiler, "-x", "c++", "-fopenmp", "-", "-o", str(Path(folder) / "program")]
        text = "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n"
        try:
            done = subprocess.run(words, input=text, text=True, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0


def _packages() -> list[Finding]:
    found = []
    for name in (*PACKAGES, "hydra-core", "nvidia-ml-py"):
        try:
            found.append(Finding(name, True, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append(Finding(name, False, "", f"pip install {name}"))
    if _redirecting_pynvml():
        found.append(
            Finding(
                "pynvml", None, "", "the distribution pynvml only redirects: pip uninstall pynvml ends its warnings"
            )
        )
    return found


def _backends() -> list[Finding]:
    """What may compile a torch model; a search tries each before its first trial."""
    return [
        Finding(f"backend {name}", True if why is None else None, "for torch models" if why is None else "", why or "")
        for name, why in backends_here().items()
    ]


def _redirecting_pynvml() -> bool:
    try:
        return bool(metadata.version("pynvml"))
    except metadata.PackageNotFoundError:
        return False


def _folders() -> list[Finding]:
    writable = os.access(Path.cwd(), os.W_OK)
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return [
        Finding("configuration", True, str(conf_dir())),
        Finding("kernels", True, str(kernels_dir())),
        Finding(
            "working folder",
            writable,
            f"{Path.cwd()}, {free:.1f} GiB free" if writable else "",
            "not writable: cd elsewhere",
        ),
    ]
