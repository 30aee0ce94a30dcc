"""Races and bad accesses that only hardware shows, looked for by NVIDIA's compute-sanitizer on small scenarios."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_setups import setup_of

from optimizer.targets.cuda.sass import wheel_program
from optimizer.targets.cuda.target import RUNNER_MODULE, CudaTarget

SANITIZER = shutil.which("compute-sanitizer") or wheel_program("compute-sanitizer")
FOUND = 9  # its exit status where it found something
SMALL = {
    "gemm_cuda": ("m=200", "n=136", "k=72"),
    "conv_cuda": ("n=2", "c=6", "h=20", "w=12", "o=20"),
    "mlp_cuda": ("rows=40", "in=72", "hidden=136", "out=50"),
}
pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(SANITIZER is None, reason="needs compute-sanitizer, which comes with the CUDA toolkit"),
]


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
@pytest.mark.parametrize("name", SMALL)
def test_no_race_and_no_bad_access(name: str, tool: str, studies: Path) -> None:
    setup = setup_of(name, studies, *(f"+target.options.{word}" for word in SMALL[name]))
    target = setup.made.target
    assert isinstance(target, CudaTarget)
    for point in setup.recipe.start:
        artifact = target.build(point)
        command = [
            *(str(SANITIZER), "--tool", tool, "--error-exitcode", str(FOUND), sys.executable, "-m", RUNNER_MODULE),
            *(f"--cubin={artifact.path}", f"--launch={target.launch}", *artifact.arguments),
        ]
        done = subprocess.run(command, input="verify\nquit\n", capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{dict(point)}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
