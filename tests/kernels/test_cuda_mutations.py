"""The CUDA product, convolution and MLP: a mistake in one of them is found when the processor executes it."""

import shutil
from pathlib import Path

import pytest
from kernels.cuda_points import corner

from optimizer.resources import kernels_dir
from optimizer.space import Value
from optimizer.targets.cuda.host import HostCheck
from optimizer.trial import Reason, TrialError

pytestmark = [pytest.mark.extra, pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> HostCheck:
    return HostCheck.found(tmp_path_factory.mktemp("host"), timeout_s=100.0)


ASYNC: dict[str, Value] = {"STAGES": 2, "VECTOR": 4}
REGISTERS: dict[str, Value] = {"BLOCK_M": 32, "BLOCK_N": 32, "THREAD_M": 4, "THREAD_N": 2}
HALF: dict[str, Value] = {"precision": "f16", "TENSOR": True, "BLOCK_M": 32, "BLOCK_N": 32, "WARP_M": 32, "PAD": 8}
IMPLICIT: dict[str, Value] = {"algorithm": "implicit_gemm", "BLOCK_O": 8, "THREAD_O": 2}

# kernel, name, the file, what is right, what is wrong, knobs: each is a mistake that somebody makes
MUTATIONS: list[tuple[str, str, str, str, str, dict[str, Value]]] = [
    ("gemm", "no-barrier", "tile.cuh", "__syncthreads();  // all copies", "// all copies", ASYNC),
    ("gemm", "no-wait", "tile.cuh", "copy_async_wait<SLOTS - 2>();", "", ASYNC),
    ("gemm", "next-tile-too-early", "tile.cuh", "compute(0);\n      __syncthreads();", "compute(0);", REGISTERS),
    ("gemm", "reads-beyond-the-matrix", "tile.cuh", "first_line + line < lines ? length - first - at : 0",
     "length - first - at", {}),
    ("gemm", "reads-beyond-the-line", "tile.cuh", "aligned && valid >= N) {\n      store", "aligned) {\n      store",
     {"VECTOR": 4}),
    ("gemm", "vectors-from-anywhere", "tile.cuh", "const bool aligned = length % N == 0;", "const bool aligned = true;",
     {"VECTOR": 4}),
    ("gemm", "last-term-of-prefetch", "tile.cuh", "int k = 1; k <= B::DEPTH", "int k = 1; k < B::DEPTH",
     {"PREFETCH": True}),
    ("gemm", "rows-of-the-fragment", "tile.cuh", "group + e % 2 * 8, k + pair + e / 2 * 8",
     "group + e / 2 * 8, k + pair + e % 2 * 8", HALF),
    ("gemm", "quarters-of-ldmatrix", "tile.cuh", "lane % 16, k + lane / 16 * 8",
     "lane / 16 * 8 + lane % 8, k + lane / 8 % 2 * 8", {**HALF, "fragments": "ldmatrix"}),
    ("gemm", "columns-of-ldmatrix", "tile.cuh", "column + j * 8 + lane / 16 * 8, k + lane % 16",
     "column + j * 8, k + lane % 16", {**HALF, "fragments": "ldmatrix", "WARP_N": 16}),
    ("gemm", "last-rows-of-tiles", "gemm/gemm.cu", "tiles_m - first < SWIZZLE ? tiles_m - first : SWIZZLE", "SWIZZLE",
     {"SWIZZLE": 4}),
    ("gemm", "share-of-the-terms", "gemm/gemm.cu", "(depth.first + t) * BLOCK_K", "t * BLOCK_K", {"SPLIT_K": 2}),
    ("gemm", "one-share-forgotten", "gemm/gemm.cu", "part < SPLIT_K; ++part", "part < SPLIT_K - 1; ++part",
     {"SPLIT_K": 4}),
    ("gemm", "writes-beyond-the-matrix", "gemm/gemm.cu", "if (row + i < x.m)", "", {}),
    ("conv", "no-relu", "conv/conv.cu", "fmaxf(sum + bias[o], 0.0f)", "sum + bias[o]", {}),
    ("conv", "no-border", "conv/conv.cu", "first_q * STRIDE - d.pad", "first_q * STRIDE", {}),
    ("conv", "chunk-of-weights", "conv/conv.cu", "r) * FILTER_W + s, chunk * TERMS", "r) * FILTER_W + s, 0",
     {"weights": "global"}),
    ("conv", "border-wraps-around", "conv/conv.cu", "i < d.h && j >= 0 && j < d.w;\n  const int from = corners",
     "i < d.h;\n  const int from = corners", IMPLICIT),
    ("conv", "channels-of-a-term", "conv/conv.cu", "term - place * d.c", "term % FILTER_W",
     {**IMPLICIT, "layout": "nhwc"}),
    ("conv", "image-of-a-pixel", "conv/conv.cu", "pixel / (d.p * d.q), within", "0, within", IMPLICIT),
    ("mlp", "constant-of-gelu", "mlp/mlp.cu", "0.044715f", "0.04f", {}),
    ("mlp", "taylor-term", "mlp/mlp.cu", "0.166666667f", "0.15f", {"gelu": "polynomial"}),
    ("mlp", "sums-not-cleared", "mlp/mlp.cu", "sums.clear();", "", {"fused": True}),
    ("mlp", "outputs-not-started", "mlp/mlp.cu", "y[i] = b2[i % out];", ";", {"fused": True}),
    ("mlp", "step-of-the-units", "mlp/mlp.cu", "units + step * BLOCK_K", "units",
     {"fused": True, "BLOCK_N": 64, "THREAD_N": 4}),
    ("mlp", "bias-of-another-unit", "mlp/mlp.cu", "b1[first + j + e]", "b1[j + e]", {"fused": True}),
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m[0]}-{m[1]}")
def test_a_planted_bug_is_found(
    mutation: tuple[str, str, str, str, str, dict[str, Value]], check: HostCheck, tmp_path: Path
) -> None:
    kernel, _, file, right, wrong, knobs = mutation
    x, kernels = corner(kernel, knobs), tmp_path / "kernels"
    kernels.mkdir()
    for pattern in ("*.h", "*.cuh", "*.cpp"):
        for path in kernels_dir().glob(pattern):
            shutil.copy(path, kernels)
    shutil.copytree(kernels_dir() / kernel, kernels / kernel)
    text = (kernels / file).read_text(encoding="utf-8")
    assert right in text, f"{file} no longer says {right!r}: choose another place"
    (kernels / file).write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(TrialError) as caught:
        check.verify(kernels / kernel / f"{kernel}.cu", kernels, x.words, x.operation)
    assert caught.value.reason in (Reason.WRONG, Reason.CRASH), caught.value.log
