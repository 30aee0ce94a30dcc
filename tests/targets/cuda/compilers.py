"""CUDA compilers and sample kernels for tests."""

import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from optimizer.targets.cuda.compile import Built, Nvcc, Nvrtc, Toolchain
from optimizer.targets.cuda.sass import found_nvdisasm, wheel_program

HAS_NVRTC = find_spec("cuda") is not None and find_spec("cuda.bindings") is not None
HAS_NVCC = (shutil.which("nvcc") or wheel_program("nvcc")) is not None and shutil.which("gcc") is not None
NVRTC = pytest.mark.skipif(not HAS_NVRTC, reason="needs the package cuda-core (extra: cuda)")
NVCC = pytest.mark.skipif(not HAS_NVCC, reason="needs nvcc (extra: cuda) and gcc")
NVDISASM = pytest.mark.skipif(found_nvdisasm() is None, reason="needs nvdisasm (extra: cuda)")
BOTH = [
    pytest.param("nvrtc", marks=[pytest.mark.extra, NVRTC]),
    pytest.param("nvcc", marks=[pytest.mark.extra, NVCC]),
]
TIMEOUT_S = 120.0

SHORT = """
extern "C" __global__ void k(const float* a, float* b, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) b[i] = 2.0f * a[i] + b[i] / a[i + 1];
}
"""
GEMM = """
#ifndef MIN_BLOCKS
#define MIN_BLOCKS 0
#endif
#if MIN_BLOCKS > 0
#define BOUNDS __launch_bounds__(256, MIN_BLOCKS)
#else
#define BOUNDS __launch_bounds__(256)
#endif
// C = A B on 64 x 64 tiles, 4 x 4 sums a thread, then a function of C that divides and takes roots.
extern "C" __global__ void BOUNDS gemm(const float* a, const float* b, float* c, int m, int n, int k) {
  __shared__ float as[16][64], bs[16][64];
  float sums[4][4] = {};
  const int t = threadIdx.x, x = t % 16, y = t / 16, row = blockIdx.y * 64, column = blockIdx.x * 64;
  for (int start = 0; start < k; start += 16) {
    for (int i = t; i < 1024; i += 256) as[i % 16][i / 16] = a[(row + i / 16) * k + start + i % 16];
    for (int i = t; i < 1024; i += 256) bs[i / 64][i % 64] = b[(start + i / 64) * n + column + i % 64];
    __syncthreads();
    for (int q = 0; q < 16; ++q)
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sums[i][j] += as[q][y * 4 + i] * bs[q][x * 4 + j];
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j)
      c[(row + y * 4 + i) * n + column + x * 4 + j] = sqrtf(fabsf(sums[i][j])) / (1.0f + expf(sums[i][j]));
}
"""


@cache
def toolchain(name: str) -> Toolchain:
    """One for all tests: NVRTC's processes are made to be shared."""
    return Nvrtc.found() if name == "nvrtc" else Nvcc.found()


def built(name: str, folder: Path, text: str, *words: str, arch: str = "sm_80") -> Built:
    source = folder / "sample.cu"
    source.write_text(text, encoding="utf-8")
    return toolchain(name).compile(source, folder, words, arch, folder, TIMEOUT_S)
