"""conf/ and kernels/ are found from a checkout, an editable install and a wheel; the commands are there."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PLACES = "from optimizer.resources import conf_dir, kernels_dir; print(conf_dir()); print(kernels_dir())"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(CHECKOUT)]
    subprocess.run(pip, check=True, cwd=folder)
    return next(folder.glob("*.whl"))


def installed(folder: Path, *words: str) -> Path:
    """A virtual environment that borrows this one's libraries and has only our package installed; its python."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*")) / "site-packages"
    ours = [p for p in sys.path if p.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(ours) + "\n")
    pip = [str(python), "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", *words]
    subprocess.run(pip, check=True, cwd=folder, env=bare())
    return python


def bare() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def places(python: Path, cwd: Path) -> list[Path]:
    done = subprocess.run([str(python), "-c", PLACES], cwd=cwd, env=bare(), capture_output=True, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines()]


def test_a_checkout_needs_no_installation() -> None:
    assert places(Path(sys.executable), CHECKOUT) == [CHECKOUT / "conf", CHECKOUT / "kernels"]


def test_a_wheel_brings_configuration_kernels_and_commands(wheel: Path, tmp_path: Path) -> None:
    python = installed(tmp_path / "venv", str(wheel))
    conf, kernels = places(python, tmp_path)
    assert conf.is_relative_to(tmp_path)
    assert kernels.is_relative_to(tmp_path)
    words = ["search", "target=gemm_cpu", "--dry-run", "budget.trials=3"]
    for command in ([str(python), "-m", "optimizer"], [str(python.with_name("optimizer"))]):
        done = subprocess.run([*command, *words], cwd=tmp_path, env=bare(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "gemm.cpp" in done.stdout


def test_an_editable_install_reads_the_checkout(tmp_path: Path) -> None:
    python = installed(tmp_path / "venv", "-e", str(CHECKOUT))
    assert places(python, tmp_path) == [CHECKOUT / "conf", CHECKOUT / "kernels"]
    done = subprocess.run([str(python.with_name("optimizer")), "targets"], cwd=tmp_path, env=bare(), check=False)
    assert done.returncode == 0


def test_the_wheel_holds_every_kernel_and_configuration_and_nothing_built(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "conf", "kernels", "optimizer"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:  # an unpacked sdist
        files = [
            str(p.relative_to(CHECKOUT)) for n in ("conf", "kernels", "optimizer") for p in (CHECKOUT / n).rglob("*")
        ]
        names = [f for f in files if (CHECKOUT / f).is_file() and "__pycache__" not in f]
    else:
        names = listed.stdout.splitlines()
    expected = {n if n.startswith("optimizer/") else f"optimizer/{n}" for n in names}
    assert expected <= held
    assert not {n for n in held if n.endswith((".o", ".pyc", ".so", ".orig"))}


def test_a_damaged_installation_is_told(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path, [n for n in archive.namelist() if not n.startswith("optimizer/conf/")])
    done = subprocess.run(
        [sys.executable, "-m", "optimizer", "targets"],
        cwd=tmp_path, env={**bare(), "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "conf/ is missing" in done.stderr
    assert "Traceback" not in done.stderr
