"""Law 8: imports point one way, up the list of rooms in docs/architecture.md."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "optimizer"
ORDER = [
    "__init__", "errors", "files", "expression", "space", "feasible", "trial", "metrics", "stats", "objective",
    "text", "recipe", "protocols", "strategies", "conditions", "keeper", "forkserver", "kills", "process", "targets",
    "nvml", "telemetry", "device", "waiting", "executors", "measure", "study", "confirm", "noise", "journal", "readers",
    "race", "report", "listeners", "export", "resources", "config", "session", "production", "cli", "__main__",
]  # fmt: skip
HEAVY = {
    "mlflow": {
        *("readers/store.py", "readers/mlflow.py", "listeners/mlflow.py", "listeners/system.py"),
        *("listeners/monitored.py", "listeners/together.py", "export/registry.py", "export/pyfunc_model.py"),
    },
    "torch": {
        *(str(p.relative_to(PACKAGE)) for p in (PACKAGE / "targets/torch").rglob("*.py")),
        "strategies/bayesian.py",  # Optuna's Gaussian process computes with it, in one thread
    },
    "torchao": {"targets/torch/quantize.py"},
    "torch_pruning": {"targets/torch/channels.py"},
    "transformers": {"targets/torch/weights.py"},
    "optuna": {"strategies/auto.py", "strategies/bayesian.py", "report/importance.py"},
    "deap": {"strategies/genetic.py"},
    "hydra": {"config/compose.py", "config/domains.py"},
    "omegaconf": {"config/compose.py", "cli/search.py"},
    "rich": {"listeners/console.py", "cli/doctor.py", "cli/ingest.py", "cli/studies.py"},
    "pynvml": {"nvml.py"},
    "cuda": {"targets/cuda/gpu.py", "targets/cuda/nvrtc.py"},
    "matplotlib": {"report/curves.py", "production/picture.py"},
    "ray": {"executors/ray.py", "executors/remote.py", "executors/machine.py"},
    "jinja2": {"report/page/page.py"},
    "vl_convert": {"report/page/page.py"},
}
"""Rule 10: a library that takes long to import is imported by the files that need it, and by no others."""

FILES = sorted(p for p in PACKAGE.rglob("*.py") if "kernels" not in p.parts and "conf" not in p.parts)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "optimizer"}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_up_the_list(path: Path) -> None:
    here = room(path)
    assert here in ORDER, f"{here} is no room of the house: docs/architecture.md lists them"
    for name in imported(path):
        if name.startswith("optimizer."):
            there = name.split(".")[1]
            if there != here and there in ORDER:
                assert ORDER.index(there) < ORDER.index(here), f"{here} imports {there}, which stands below it"


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_are_imported_only_where_they_are_needed(library: str) -> None:
    users = {str(p.relative_to(PACKAGE)) for p in FILES if any(n.split(".")[0] == library for n in imported(p))}
    assert users <= HEAVY[library]
    assert users


def test_broad_excepts_are_absent() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                broad = caught in ("everything", "Exception", "BaseException")
                assert not broad or _raises_on(node), f"{path.name}:{node.lineno} catches {caught}"


def _raises_on(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
