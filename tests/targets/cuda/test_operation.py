"""Finding the class that says how a kernel is launched."""

from pathlib import Path

import pytest

from optimizer.errors import ConfigError
from optimizer.targets.cuda.operation import load_operation


def _kernel(folder: Path, value: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "weights.py").write_text(f"VALUE = {value}\n", encoding="utf-8")
    text = "from .weights import VALUE\n\nclass Operation:\n    value = VALUE\n"
    (folder / "launch.py").write_text(text, encoding="utf-8")
    return folder / "launch.py"


def test_two_kernels_have_siblings_of_one_name(tmp_path: Path) -> None:
    one, two = _kernel(tmp_path / "a" / "gemm", 1), _kernel(tmp_path / "b" / "gemm", 2)
    assert [vars(load_operation(p))["value"] for p in (one, two, one)] == [1, 2, 1]
    assert load_operation(one) is load_operation(one)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no .*launch\.py"):
        load_operation(tmp_path / "launch.py")
    (tmp_path / "launch.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no class Operation"):
        load_operation(tmp_path / "launch.py")
