"""How does a kernel's launch.py become the class `Operation`?

Its folder stands for a package of a name of its own, so launch.py takes what lies beside it with
`from .weights import …`, and two kernels that both have a weights.py never meet.
"""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from optimizer.errors import ConfigError
from optimizer.targets.cuda.plan import Operation

CLASS = "Operation"


def load_operation(path: Path) -> type[Operation]:
    """The class `Operation` of a launch.py; loaded once a process. Raises ConfigError where there is none."""
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"There is no {path}: a CUDA kernel's folder holds its launch.py.")
    module = importlib.import_module(f"{_package(path.parent).__name__}.{path.stem}")
    found = getattr(module, CLASS, None)
    if not isinstance(found, type):
        raise ConfigError(f"{path} defines no class {CLASS}; optimizer/targets/cuda/plan.py says what it must be.")
    return found


def _package(folder: Path) -> ModuleType:
    name = f"kernel_{folder.name}_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    if (known := sys.modules.get(name)) is not None:
        return known
    spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    return package
