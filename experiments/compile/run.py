"""How fast do CUDA kernels compile? NVRTC in processes that stay against nvcc, one thread against two.

python experiments/compile/run.py            (about three minutes; needs the extra cuda and gcc, no GPU)

Writes result.json beside itself and prints it. Ratios are of neighbours, measured interleaved.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from optimizer.device import cpu_model, physical_cores
from optimizer.resources import kernels_dir
from optimizer.targets.cuda.compile import Nvcc, Nvrtc, Toolchain
from optimizer.targets.cuda.cubin import kernels_of
from optimizer.targets.cuda.sass import found_nvdisasm, instruction_facts

HERE = Path(__file__).parent
TIMEOUT_S = 300.0
ARCH = "sm_90"
SHORT = """
extern "C" __global__ void axpy(const float* x, float* y, float a, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
"""
TILE_64 = ("-DBLOCK_M=64", "-DBLOCK_N=64", "-DTHREAD_M=4", "-DTHREAD_N=4")
TILE_128 = ("-DBLOCK_M=128", "-DBLOCK_N=128", "-DTHREAD_M=8", "-DTHREAD_N=8", "-DVECTOR=4", "-DUNROLL=4")
TENSOR = ("-DBLOCK_M=64", "-DBLOCK_N=64", "-DTENSOR=1", "-DPRECISION=1", "-DWARP_M=32", "-DWARP_N=32", "-DSTAGES=2")


def sources(folder: Path) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """Kernels by name, from a few lines to tiles that are unrolled far."""
    (folder / "axpy.cu").write_text(SHORT, encoding="utf-8")
    gemm = kernels_dir() / "gemm" / "gemm.cu"
    return {
        "axpy": (folder / "axpy.cu", ()),
        "gemm, textbook": (gemm, ()),
        "gemm, textbook, minimal": (gemm, ("--minimal",)),
        "gemm, 4 x 4 sums a thread": (gemm, TILE_64),
        "gemm, 8 x 8 sums a thread": (gemm, TILE_128),
        "gemm, tensor cores": (gemm, (*TENSOR, "-DVECTOR=8")),
    }


def interval(values: Sequence[float]) -> list[float]:
    """A bootstrapped 95% interval of the median."""
    rng = Random(0)
    medians = sorted(median(rng.choices(values, k=len(values))) for _ in range(2000))
    return [medians[49], medians[1950]]


def summary(values: Sequence[float]) -> dict[str, Any]:
    return {"median": median(values), "interval_95": interval(values), "n": len(values)}


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def build(toolchain: Toolchain, source: Path, words: Sequence[str], folder: Path) -> bytes:
    return toolchain.compile(source, kernels_dir(), words, ARCH, folder, TIMEOUT_S).cubin


def against_nvcc(nvrtc: Nvrtc, nvcc: Nvcc, folder: Path, repeats: int) -> dict[str, Any]:
    """A whole build as a trial sees it: from the call until the cubin is there."""
    result = {}
    for name, (source, words) in sources(folder).items():
        known_to_both = [w for w in words if w != "--minimal"]
        build(nvrtc, source, words, folder)
        build(nvcc, source, known_to_both, folder)
        ours, ratios = [], []
        for _ in range(repeats):
            ours.append(timed(lambda s=source, w=words: build(nvrtc, s, w, folder)))  # type: ignore[misc]
            theirs = timed(lambda s=source, w=known_to_both: build(nvcc, s, w, folder))  # type: ignore[misc]
            ratios.append(theirs / ours[-1])
        result[name] = {"nvrtc_s": summary(ours), "ratio_nvcc_to_nvrtc": summary(ratios)}
    return result


def in_parallel(toolchain: Toolchain, folder: Path, repeats: int, count: int) -> dict[str, Any]:
    """`count` builds by one thread and by two, of a kernel of middling size."""
    source, words = sources(folder)["gemm, 4 x 4 sums a thread"]

    def run(threads: int) -> float:
        places = [Path(tempfile.mkdtemp(dir=folder)) for _ in range(count)]
        with ThreadPoolExecutor(threads) as pool:
            return timed(lambda: list(pool.map(lambda place: build(toolchain, source, words, place), places)))

    run(2)
    return summary([run(1) / run(2) for _ in range(repeats)])


def reading_code(nvrtc: Nvrtc, folder: Path, repeats: int) -> dict[str, Any]:
    """Kinds of instructions counted from the bytes of a kernel's code against disassembling it."""
    tool = found_nvdisasm()
    assert tool is not None, "needs nvdisasm"
    source, words = sources(folder)["gemm, 8 x 8 sums a thread"]
    cubin = build(nvrtc, source, words, folder)
    (folder / "x.cubin").write_bytes(cubin)
    code = [k.code for k in kernels_of(cubin).values()]
    first = timed(lambda: instruction_facts(code, ARCH, tool))
    command = [tool, "--print-code", "--no-dataflow", str(folder / "x.cubin")]
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(timed(lambda: instruction_facts(code, ARCH, tool)))
        theirs.append(timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)))
    return {"first_s": first, "counted_s": summary(ours), "nvdisasm_s": summary(theirs)}


def forked(nvrtc: Nvrtc, folder: Path, repeats: int) -> dict[str, Any]:
    """What a word costs that NVRTC would not forget, so that it is compiled in a fork. (Its code is the same here.)"""
    source, words = sources(folder)["gemm, textbook"]
    apart = (*words, "--Ofast-compile=0")
    build(nvrtc, source, apart, folder)
    return summary(
        [
            timed(lambda: build(nvrtc, source, apart, folder)) - timed(lambda: build(nvrtc, source, words, folder))
            for _ in range(repeats)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    nvrtc, nvcc = Nvrtc.found(), Nvcc.found()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = {
            "hardware": f"{cpu_model()}, {physical_cores()} cores",
            "compilers": {"nvrtc": nvrtc.version, "nvcc": nvcc.version},
            "arch": ARCH,
            "builds": against_nvcc(nvrtc, nvcc, folder, repeats),
            "ratio_one_thread_to_two_nvrtc": in_parallel(nvrtc, folder, repeats, 10),
            "ratio_one_thread_to_two_nvcc": in_parallel(nvcc, folder, max(5, repeats // 3), 6),
            "fork_s": forked(nvrtc, folder, repeats),
            "instructions": reading_code(nvrtc, folder, repeats),
        }
    nvrtc.close()
    text = json.dumps(result, indent=1)
    (HERE / "result.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
