"""Can language models be searched behind Ollama and in llama.cpp here, and what is missing?"""

import os
import shutil
from importlib import metadata

from optimizer.cli.finding import Finding
from optimizer.config.llamacpp import EXTRA, absent_packages
from optimizer.targets.llamacpp.target import LIBRARIES
from optimizer.targets.llamacpp.wheels import PACKAGE
from optimizer.targets.torch.weights import PACKAGES, packaged_here

OLLAMA = (
    "target=ollama needs the program: https://ollama.com/download, or target.server=http://127.0.0.1:11434 for a "
    "server that runs"
)


def language_findings() -> list[Finding]:
    return [_ollama(), _llamacpp(), *_weights()]


def _ollama() -> Finding:
    path = shutil.which("ollama")
    return Finding("ollama", True if path else None, f"{path}: target=ollama" if path else "", OLLAMA)


def _llamacpp() -> Finding:
    """Told by its distribution alone: importing it loads llama.cpp."""
    if absent := absent_packages():
        return Finding("llama.cpp", None, "", f"target=llamacpp needs {' and '.join(absent)}: {EXTRA}")
    version = metadata.version(PACKAGE)
    other = os.environ.get(LIBRARIES)
    where = f", with the libraries in {LIBRARIES}={other}" if other else ""
    return Finding("llama.cpp", True, f"{PACKAGE} {version}{where}: target=llamacpp")


def _weights() -> list[Finding]:
    return [
        Finding(f"weights {name}", True if packaged_here(name) else None, "trained weights" * packaged_here(name), how)
        for name, how in PACKAGES.items()
    ]
