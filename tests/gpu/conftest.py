"""The GPU suite: `pytest -m gpu -n 0`, one process for the one GPU. Without a GPU, or without what runs kernels on it,
every test is skipped, with its reason."""

import importlib.util
import os
from pathlib import Path

import pytest

from optimizer.device import Cuda, chosen_gpu
from optimizer.nvml import VISIBLE, gpus, visible

HERE = Path(__file__).parent


def reason_to_skip() -> str | None:
    found, problem = gpus()
    if not found:
        return f"no NVIDIA GPU answers: {problem}"
    if not visible(found, os.environ.get(VISIBLE)):
        return f"{VISIBLE}={os.environ.get(VISIBLE)} leaves no GPU"
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.core") is None:
        return "needs cuda-core (pip install 'inference-optimizer[cuda]')"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    reason = reason_to_skip() if mine else None
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def gpu() -> Cuda:
    return chosen_gpu("cuda", {})


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")
