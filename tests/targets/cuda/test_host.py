"""The check on the processor: right kernels pass it, and each kind of mistake that it promises to find is found."""

import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from optimizer.errors import ConfigError
from optimizer.process import run_tool
from optimizer.resources import kernels_dir
from optimizer.targets.cuda.host import HostCheck, HostProgram
from optimizer.targets.cuda.plan import Array, Block, Case, Compared, Launch, Operation, Work
from optimizer.trial import Check, Reason, TrialError

KERNELS = kernels_dir()
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> HostCheck:
    return HostCheck.found(tmp_path_factory.mktemp("host"), 60.0)


def built(check: HostCheck, text: str, *macros: str, kernel: str = "k") -> HostProgram:
    """The program of a .cu of this text, which lies in a folder of its own."""
    folder = check.folder / f"source-{abs(hash(text))}"
    folder.mkdir(exist_ok=True)
    source = folder / "kernel.cu"
    if not source.exists():
        source.write_text(f'#include "device.cuh"\n{text}', encoding="utf-8")
    return check.program(source, KERNELS, macros, (kernel,))


def launched(
    program: HostProgram,
    buffers: Mapping[str, Array],
    *numbers: np.generic,
    threads: int | tuple[int, int, int] = 64,
    grid: int | tuple[int, int, int] = 1,
    shared_bytes: int = 0,
    seed: int = 1,
) -> dict[str, Array]:
    """All buffers after one launch of `k`, which takes them in their order, then the numbers."""
    launch = Launch(
        "k",
        grid if isinstance(grid, tuple) else (grid, 1, 1),
        threads if isinstance(threads, tuple) else (threads, 1, 1),
        (*buffers, *numbers),
        shared_bytes,
    )
    return program.run(Work(buffers, {"run": (launch,)}, tuple(buffers)), seed)


def crash(program: HostProgram, buffers: Mapping[str, Array], *numbers: np.generic, **how: int) -> str:
    with pytest.raises(TrialError) as caught:
        launched(program, buffers, *numbers, **how)
    assert caught.value.reason is Reason.CRASH, caught.value
    return caught.value.log


def zeros(n: int) -> Array:
    return np.zeros(n, np.float32)


def numbers(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# ---- Order of threads ----

SUM = """
extern "C" __global__ void k(const float* x, float* y, int n) {
  __shared__ float parts[8];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float sum = warp_sum(i < n ? x[i] : 0.0f);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
#ifndef FORGET_BARRIER
  __syncthreads();
#endif
  if (threadIdx.x < 32) {
    const float total = warp_sum(threadIdx.x < 8 ? parts[threadIdx.x] : 0.0f);
    if (threadIdx.x == 0) y[blockIdx.x] = total;
  }
}
"""


@pytest.mark.parametrize("seed", SEEDS)
def test_sum_over_blocks_is_right_in_every_order(check: HostCheck, seed: int) -> None:
    x = numbers(1000)
    out = launched(built(check, SUM), {"x": x, "y": zeros(4)}, np.int32(1000), threads=256, grid=4, seed=seed)
    expected = np.pad(x.astype(np.float64), (0, 24)).reshape(4, 256).sum(axis=1)
    np.testing.assert_allclose(out["y"], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_missing_barrier_is_found(check: HostCheck, seed: int) -> None:
    program = built(check, SUM, "-DFORGET_BARRIER")
    out = launched(program, {"x": numbers(1000), "y": zeros(4)}, np.int32(1000), threads=256, grid=4, seed=seed)
    assert not (np.abs(out["y"]) < 1e3).all()  # a block may have luck; NaN elsewhere, or as large as the poison


TILES = """
extern "C" __global__ void k(const float* x, float* y, int tiles) {
  __shared__ float tile[64];
  float sum = 0.0f;
  for (int t = 0; t < tiles; t++) {
    tile[threadIdx.x] = x[t * 64 + threadIdx.x];
    __syncthreads();
    sum += tile[63 - threadIdx.x];
#ifndef FORGET_BARRIER
    __syncthreads();
#endif
  }
  y[threadIdx.x] = sum;
}
"""


@pytest.mark.parametrize("seed", SEEDS)
def test_tile_that_is_overwritten_too_early_is_found(check: HostCheck, seed: int) -> None:
    x, n = numbers(4 * 64), np.int32(4)
    expected = x.reshape(4, 64).sum(axis=0)[::-1]
    right = launched(built(check, TILES), {"x": x, "y": zeros(64)}, n, seed=seed)["y"]
    wrong = launched(built(check, TILES, "-DFORGET_BARRIER"), {"x": x, "y": zeros(64)}, n, seed=seed)["y"]
    np.testing.assert_allclose(right, expected, atol=1e-5)
    assert np.abs(wrong - expected).max() > 0.1


ORDER = """
extern "C" __global__ void k(int* threads, int* blocks, int* count) {
  if (threadIdx.x == 0) blocks[blockIdx.x] = atomicAdd(count + 1, 1);
  threads[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(count, 1);
}
"""


def test_seed_decides_the_order_of_blocks_and_threads(check: HostCheck) -> None:
    program = built(check, ORDER)
    buffers = {"threads": np.zeros(512, np.int32), "blocks": np.zeros(8, np.int32), "count": np.zeros(2, np.int32)}
    one, again, other = (launched(program, buffers, grid=8, seed=seed) for seed in (1, 1, 2))
    for name in ("threads", "blocks"):
        assert sorted(one[name]) == list(range(len(one[name])))
        assert (one[name] == again[name]).all()
        assert (one[name] != other[name]).any()


# ---- Memory ----

ACCESS = """
template <int N>
__device__ float& fixed(int i) {  // beyond the array's end as the compiler knows it
  __shared__ float x[N];
  return x[i];
}
extern "C" __global__ void k(float* x, float* y, int n) {
  DYNAMIC_SHARED(float, dynamic);
  if (threadIdx.x == 0) {
    dynamic[0] = 1.0f;
    fixed<32>(0) = 1.0f;
    y[0] = 0.0f;
    ACCESS;
  }
}
"""


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ("y[0] = x[n]", "heap-buffer-overflow"),
        ("y[0] = x[-1]", "heap-buffer-overflow"),
        ("x[n] = 1.0f", "heap-buffer-overflow"),
        ("y[0] = dynamic[64]", "heap-buffer-overflow"),
        ("dynamic[64] = 1.0f", "heap-buffer-overflow"),
        ("y[0] = fixed<32>(n)", "out of bounds"),
        ("copy_async<16>(dynamic + 64, x)", "heap-buffer-overflow"),
        ("copy_async<16>(dynamic, x + n - 2)", "address that is not a multiple"),
        ("copy_async<8>(dynamic, x + n + 1)", "heap-buffer-overflow"),
        ("y[0] = load_vector<4>(x + 1).v[0]", "misaligned"),
        ("y[0] = load_vector<4>(x + n - n % 4).v[0]", "heap-buffer-overflow"),
        ("store_vector(dynamic + 1, load_vector<2>(x))", "misaligned"),
        ("float local[4] = {}; y[0] = local[n % 8]", "out of bounds"),
    ],
)
def test_forbidden_access_is_found_where_it_happens(check: HostCheck, access: str, said: str) -> None:
    text = ACCESS.replace("ACCESS;", f"{access};")
    log = crash(built(check, text), {"x": numbers(47), "y": zeros(1)}, np.int32(47), shared_bytes=256)
    assert said in log
    assert "kernel.cu" in log
    assert len(log.splitlines()) <= 12


@pytest.mark.parametrize(
    "access",
    [
        "y[0] = x[n - 1]",
        "y[0] = dynamic[63] = 2.0f",
        "y[0] = fixed<32>(31) = 2.0f",
        "copy_async<16>(dynamic + 60, x + n, false); copy_async_commit(); copy_async_wait<0>(); y[0] = dynamic[63] + 2",
        "y[0] = load_vector<4>(x + 40).v[3]",
    ],
)
def test_the_last_element_may_be_read(check: HostCheck, access: str) -> None:
    text = ACCESS.replace("ACCESS;", f"{access};")
    x = np.full(47, 2.0, np.float32)
    out = launched(built(check, text), {"x": x, "y": zeros(1)}, np.int32(47), shared_bytes=256)
    assert out["y"][0] == 2.0


UNSET = """
template <int N>
__device__ float in_template(int i) {
  __shared__ float x[N];
  if (i < 4 && blockIdx.x == 0) x[i] = 1.0f;
  __syncthreads();
  return x[i];
}
extern "C" __global__ void k(float* y) {
  DYNAMIC_SHARED(float, dynamic);
  __shared__ int whole[64];
  __shared__ float fixed[64];
  if (threadIdx.x < 4 && blockIdx.x == 0) dynamic[threadIdx.x] = fixed[threadIdx.x] = whole[threadIdx.x] = 1;
  __syncthreads();
  float* to = y + blockIdx.x * 320 + threadIdx.x;
  to[0] = dynamic[threadIdx.x];
  to[64] = fixed[threadIdx.x];
  to[128] = whole[threadIdx.x];
  to[192] = in_template<64>(threadIdx.x);
  float local;
  to[256] = local;
}
"""


def test_memory_that_no_thread_of_the_block_set_is_poisoned(check: HostCheck) -> None:
    out = launched(built(check, UNSET), {"y": zeros(3 * 320)}, grid=3, shared_bytes=256)["y"].reshape(3, 5, 64)
    assert (out[0, :4, :4] == 1.0).all()
    plausible = (np.abs(out) < 1e6) & (out != -1.0)
    plausible[0, :4, :4] = False
    assert not plausible.any()
    assert np.isnan(out[:, 0, 4:]).any() and (out[:, 0, 4:] > 1e38).any()  # both patterns: fmaxf lets the second pass


# ---- Asynchronous copies ----

COPIES = """
extern "C" __global__ void k(const float* x, float* y, int tiles) {
  alignas(16) __shared__ float tile[2][256];
  float sum = 0.0f;
  const auto fetch = [&](int t) {
    if (t < tiles) copy_async<16>(&tile[t % 2][4 * threadIdx.x], x + t * 256 + 4 * threadIdx.x);
    COMMIT;
  };
  fetch(0);
  for (int t = 0; t < tiles; t++) {
    fetch(t + 1);
    WAIT;
    __syncthreads();
    sum += tile[t % 2][255 - threadIdx.x];
    BARRIER;
  }
  y[threadIdx.x] = sum;
}
"""
RIGHT = {"COMMIT": "copy_async_commit()", "WAIT": "copy_async_wait<1>()", "BARRIER": "__syncthreads()"}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("changed", "passes"),
    [
        ({}, True),
        ({"WAIT": "copy_async_wait<0>()"}, True),
        ({"WAIT": ""}, False),
        ({"WAIT": "copy_async_wait<2>()"}, False),
        ({"COMMIT": ""}, False),
        ({"BARRIER": ""}, False),
    ],
)
def test_copies_are_done_only_when_waited_for(
    check: HostCheck, changed: dict[str, str], passes: bool, seed: int
) -> None:
    words = [f"-D{name}={text}" for name, text in (RIGHT | changed).items()]
    x = numbers(6, 256)
    out = launched(built(check, COPIES, *words), {"x": x, "y": zeros(64)}, np.int32(6), seed=seed)["y"]
    right = np.allclose(out, x.sum(axis=0)[::-1][:64], atol=1e-5)
    assert right is passes


# ---- Threads that wait for one another in vain ----

WAITING = """
extern "C" __global__ void k(float* y) {
  const int t = threadIdx.x, lane = t % 32;
  __syncthreads();
  WAITING;
  y[t] = lane;
}
"""


@pytest.mark.parametrize(
    ("waiting", "said"),
    [
        (
            "if (t < 40) __syncthreads()",
            ("40 at __syncthreads (kernel.cu:6)", "24 of 64 have ended", "after 1 barriers"),
        ),
        ("if (t == 7) return; __syncthreads()", ("63 at __syncthreads", "1 of 64 have ended")),
        (
            "if (t < 32)\n __syncthreads();\n else\n __syncthreads()",
            ("two __syncthreads", "kernel.cu:7", "kernel.cu:9"),
        ),
        ("if (lane < 16) warp_sum(1.0f); else __syncthreads()", ("32 at __syncthreads", "32 at a shuffle")),
        ("if (lane < 16) __syncwarp(); else __ballot_sync(0xffffffffu, 1)", ("__syncwarp", "a vote")),
        ("if (lane > 0) __syncwarp(0xffffu)", ("mask that it is not in",)),
        ("if (lane == 3) return; mma_16x8x16(d, a, b)", ("a tensor-core product", "without all 32 lanes")),
    ],
)
def test_waiting_in_vain_is_told_with_kernel_block_and_counts(
    check: HostCheck, waiting: str, said: Sequence[str]
) -> None:
    registers = "float d[4] = {}; unsigned a[4] = {}, b[2] = {};"
    text = WAITING.replace("WAITING;", f"{registers} {waiting};")
    log = crash(built(check, text), {"y": zeros(64)})
    for words in ("k, block (0, 0, 0)", *said):
        assert words in log


def test_lanes_that_have_ended_are_not_waited_for(check: HostCheck) -> None:
    text = WAITING.replace("WAITING;", "if (lane > 8) return; __syncwarp(); y[t + 64] = __popc(__ballot_sync(~0u, 1));")
    out = launched(built(check, text), {"y": zeros(128)})["y"]
    assert (out[64:73] == 9).all()


# ---- What lanes exchange ----

EXCHANGE = """
extern "C" __global__ void k(const float* x, float* y, unsigned* votes, double* wide, int width) {
  const int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const int n = blockDim.x * blockDim.y * blockDim.z;
  y[t] = __shfl_sync(~0u, x[t], 3 * t + 1, width);
  y[n + t] = __shfl_xor_sync(~0u, x[t], 5, width);
  y[2 * n + t] = __shfl_down_sync(~0u, x[t], 3, width);
  y[3 * n + t] = __shfl_up_sync(~0u, x[t], 3, width);
  y[4 * n + t] = warp_max(x[t]);
  votes[t] = __ballot_sync(~0u, x[t] > 0);
  votes[n + t] = __any_sync(~0u, x[t] > 2) + 2 * __all_sync(~0u, x[t] > -2);
  wide[t] = __shfl_xor_sync(~0u, 1.0 / (t + 1), 1);
  if (t % 32 < 7) y[5 * n + t] = __shfl_sync(0x7fu, x[t], 0);
}
"""


@pytest.mark.parametrize("width", [32, 16, 4])
def test_exchanges_within_a_warp(check: HostCheck, width: int) -> None:
    n = 128
    x, t = numbers(n), np.array(range(n))
    buffers = {"x": x, "y": zeros(6 * n), "votes": np.zeros(2 * n, np.uint32), "wide": np.zeros(n)}
    out = launched(built(check, EXCHANGE), buffers, np.int32(width), threads=(4, 8, 4))
    y = out["y"].reshape(6, n)
    first = t - t % width
    other = t ^ 5
    assert (y[0] == x[first + (3 * t + 1) % width]).all()
    assert (y[1] == x[np.where(other < first + width, other, t)]).all()
    assert (y[2] == x[np.where(t + 3 < first + width, t + 3, t)]).all()
    assert (y[3] == x[np.where(t - 3 >= first, t - 3, t)]).all()
    warps = x.reshape(4, 32)
    assert (y[4].reshape(4, 32) == warps.max(axis=1, keepdims=True)).all()
    bits = np.array([[sum(1 << lane for lane in range(32) if warp[lane] > 0)] for warp in warps])
    assert (out["votes"][:n].reshape(4, 32) == bits).all()
    truth = np.array([[(warp > 2).any() + 2 * (warp > -2).all()] for warp in warps])
    assert (out["votes"][n:].reshape(4, 32) == truth).all()
    assert (out["wide"] == 1.0 / ((t ^ 1) + 1)).all()
    assert (y[5].reshape(4, 32)[:, :7] == warps[:, :1]).all()


MMA = """
extern "C" __global__ void k(const unsigned short* a, const unsigned short* b, float* d) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const auto pair = [](unsigned short low, unsigned short high) { return low | unsigned(high) << 16; };
  unsigned fa[4], fb[2];
  for (int i = 0; i < 4; i++) {
    const unsigned short* from = a + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);  // (16, 16)
    fa[i] = pair(from[0], from[1]);
  }
  for (int i = 0; i < 2; i++) {
    const unsigned short* from = b + (2 * t + 8 * i) * 8 + g;  // (16, 8)
    fb[i] = pair(from[0], from[8]);
  }
  float sums[4];
  for (int i = 0; i < 4; i++) sums[i] = d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
  MULTIPLY(sums, fa, fb);
  for (int i = 0; i < 4; i++) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sums[i];
}
"""


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_tensor_core_product_equals_numpy(check: HostCheck, kind: str) -> None:
    multiply = "mma_16x8x16" if kind == "f16" else "mma_16x8x16_bf16"
    a, b, d = numbers(16, 16), numbers(16, 8) + 1, numbers(16, 8) - 1
    if kind == "f16":
        bits, values = [m.astype(np.float16).view(np.uint16) for m in (a, b)], [m.astype(np.float16) for m in (a, b)]
    else:
        bits = [(m.view(np.uint32) >> 16).astype(np.uint16) for m in (a, b)]
        values = [(m.astype(np.uint32) << 16).view(np.float32) for m in bits]
    out = launched(built(check, MMA, f"-DMULTIPLY={multiply}"), {"a": bits[0], "b": bits[1], "d": d.copy()}, threads=32)
    expected = d + values[0].astype(np.float64) @ values[1].astype(np.float64)
    np.testing.assert_allclose(out["d"], expected, rtol=1e-5, atol=1e-5)


# ---- Half precision ----

HALF = """
extern "C" __global__ void k(const f16* half, const bf16* brain, const float* x, float* wide, f16* to_half,
                             bf16* to_brain, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    wide[i] = to_float(half[i]);
    wide[n + i] = to_float(brain[i]);
    to_half[i] = from_float<f16>(x[i]);
    to_brain[i] = from_float<bf16>(x[i]);
  }
}
"""


def nearest_bf16(x: Array) -> Array:
    """Of the two bf16 around a number the nearer one, of two as near the even one; NaN stays NaN."""
    below = x.view(np.uint32) >> 16
    neighbours = [((below + up) << 16).astype(np.uint32).view(np.float32).astype(np.float64) for up in (0, 1)]
    limit = np.where(
        np.isinf(neighbours[1]), np.copysign(2.0**128, x.astype(np.float64)), neighbours[1]
    )  # as if exponents went on
    to_below, to_above = np.abs(x - neighbours[0]), np.abs(limit - x)
    up = (to_above < to_below) | ((to_above == to_below) & (below % 2 == 1))
    return np.where(np.isinf(x), below, below + up).astype(np.uint16)


def test_half_precision_rounds_as_ieee_754_says(check: HostCheck) -> None:
    n = 1 << 16
    every = np.arange(n, dtype=np.uint16)
    random = np.random.default_rng(0).integers(0, 1 << 32, n, dtype=np.uint32)
    random[: n // 2] = (random[: n // 2] & 0x8FFFFFFF) | 0x30000000  # near 1, where f16 has its numbers
    halves = every.view(np.float16)
    with np.errstate(all="ignore"):
        between = (halves[:-1].astype(np.float32) + halves[1:].astype(np.float32)) / 2  # ties
        x = np.concatenate([random.view(np.float32), between])[::2][:n].copy()
        x[:8] = [0.0, -0.0, np.inf, -np.inf, np.nan, 65519.99, 65520.0, 3.4028235e38]
        x[8:16] = [2.0**-24, 2.0**-25, 2.0**-25 * 1.0001, 1e-45, 1.00390625, 1.01171875, -1.00390625, 6.1e-5]
        expected_half = x.astype(np.float16)
        wide_half, wide_brain = halves.astype(np.float32), (every.astype(np.uint32) << 16).view(np.float32)
        expected_brain = nearest_bf16(x)
    buffers = {
        "half": every, "brain": every, "x": x, "wide": zeros(2 * n), "to_half": np.zeros(n, np.uint16),
        "to_brain": np.zeros(n, np.uint16),
    }  # fmt: skip
    assert len(x) == n
    out = launched(built(check, HALF), buffers, np.int32(n), threads=256, grid=8)
    np.testing.assert_array_equal(out["wide"][:n], wide_half)
    np.testing.assert_array_equal(out["wide"][n:], wide_brain)
    numbers_only = ~np.isnan(x)
    np.testing.assert_array_equal(out["to_half"][numbers_only], expected_half.view(np.uint16)[numbers_only])
    np.testing.assert_array_equal(out["to_brain"][numbers_only], expected_brain[numbers_only])
    assert np.isnan(out["to_half"].view(np.float16)[~numbers_only]).all()
    assert np.isnan((out["to_brain"].astype(np.uint32) << 16).view(np.float32)[~numbers_only]).all()


# ---- Launches ----

PLAIN = """
extern "C" __global__ void k(const float* x, float* y, float scale, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] += scale * x[i];
}
extern "C" __global__ void other(float* y, long long n) { y[n] = -1.0f; }
extern "C" __global__ void endless(volatile float* y) { while (y[0] == 0.0f) {} }
"""


def plain(check: HostCheck) -> HostProgram:
    folder = check.folder / "plain"
    folder.mkdir(exist_ok=True)
    (folder / "kernel.cu").write_text(f'#include "device.cuh"\n{PLAIN}', encoding="utf-8")
    return check.program(folder / "kernel.cu", KERNELS, (), ("k", "other", "endless"))


def test_launches_run_in_order_and_only_outputs_come_back(check: HostCheck) -> None:
    x = numbers(5)
    first = Launch("k", (1, 1, 1), (32, 1, 1), ("x", "y", np.float32(2), np.int32(5)))
    second = Launch("other", (1, 1, 1), (1, 1, 1), ("y", np.int64(3)))
    work = Work({"x": x, "y": np.ones((1, 5), np.float32)}, {"first": (first, first), "second": (second,)}, ("y",))
    out = plain(check).run(work, seed=1)
    assert list(out) == ["y"] and out["y"].shape == (1, 5)
    expected = 1 + 4 * x
    expected[3] = -1
    np.testing.assert_allclose(out["y"][0], expected, rtol=1e-6)


def test_repeats_run_all_launches_again(check: HostCheck) -> None:
    x = numbers(5)
    program = plain(replace(check, repeats=3))
    out = launched(program, {"x": x, "y": zeros(5)}, np.float32(1), np.int32(5))
    np.testing.assert_allclose(out["y"], 3 * x, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x", "y", np.float32(1), np.int64(5)), "argument 3 is a integer of 8 bytes"),
        (("x", "y", np.int32(1), np.int32(5)), "the kernel takes a floating-point number of 4"),
        (("x", np.float32(1), "y", np.int32(5)), "argument 1 is a floating-point number"),
        (("x", "y", np.float32(1)), "3 arguments; it takes 4"),
    ],
)
def test_arguments_that_do_not_fit_the_kernel(
    check: HostCheck, arguments: tuple[str | np.generic, ...], said: str
) -> None:
    launch = Launch("k", (1, 1, 1), (32, 1, 1), arguments)
    with pytest.raises(TrialError, match=said):
        plain(check).run(Work({"x": zeros(5), "y": zeros(5)}, {"run": (launch,)}), seed=1)


@pytest.mark.parametrize(
    ("threads", "grid"), [((32, 33, 1), (1, 1, 1)), ((0, 1, 1), (1, 1, 1)), ((1, 1, 1), (1, 0, 1))]
)
def test_blocks_and_grids_that_no_gpu_runs(
    check: HostCheck, threads: tuple[int, int, int], grid: tuple[int, int, int]
) -> None:
    with pytest.raises(TrialError, match="a GPU"):
        launched(plain(check), {"x": zeros(5), "y": zeros(5)}, np.float32(1), np.int32(5), threads=threads, grid=grid)


def test_endless_kernel_is_ended(check: HostCheck) -> None:
    program = plain(check)
    hasty = replace(program, check=replace(check, timeout_s=0.5))
    launch = Launch("endless", (1, 1, 1), (1, 1, 1), ("y",))
    with pytest.raises(TrialError) as caught:
        hasty.run(Work({"y": zeros(1)}, {"run": (launch,)}), seed=1)
    assert caught.value.reason is Reason.TIMEOUT


@pytest.mark.parametrize("sanitize", [True, False])
def test_memory_is_limited(check: HostCheck, sanitize: bool) -> None:
    program = plain(replace(check, sanitize=sanitize, memory_bytes=64 << 20))
    launch = Launch("endless", (1, 1, 1), (1, 1, 1), ("y",))
    with pytest.raises(TrialError) as caught:
        program.run(Work({"y": np.zeros(100 << 18, np.float32)}, {"run": (launch,)}), seed=1)
    assert caught.value.reason is Reason.MEMORY


# ---- Builds ----


def test_code_that_does_not_compile(check: HostCheck) -> None:
    with pytest.raises(TrialError) as caught:
        built(check, 'extern "C" __global__ void k() { static_assert(THREADS <= 1024, "too many"); }', "-DTHREADS=2048")
    assert caught.value.reason is Reason.COMPILE
    assert "too many" in caught.value.log


def test_a_compiler_that_somebody_kills_is_no_verdict_on_the_point(check: HostCheck, tmp_path: Path) -> None:
    source = tmp_path / "kernel.cu"
    source.write_text('#include "device.cuh"\nextern "C" __global__ void k(float* y) { y[0] = 3; }\n', encoding="utf-8")
    (tmp_path / "g++").write_text("#!/bin/sh\nkill -9 $$\n", encoding="utf-8")
    (tmp_path / "g++").chmod(0o755)
    with pytest.raises(TrialError) as caught:
        replace(check, compiler=str(tmp_path / "g++")).program(source, KERNELS, (), ("k",))
    assert (caught.value.reason, caught.value.again) == (Reason.COMPILE, True)


def test_builds_are_kept_by_all_that_they_are_made_of(check: HostCheck, tmp_path: Path) -> None:
    for name in ("device.cuh", "cuda_on_host.h", "cuda_on_host.cpp"):
        shutil.copy(KERNELS / name, tmp_path / name)
    source, beside = tmp_path / "a" / "kernel.cu", tmp_path / "a" / "value.cuh"
    source.parent.mkdir()
    text = (
        '#include "device.cuh"\n#include "value.cuh"\nextern "C" __global__ void k(float* y) { y[0] = VALUE + MORE; }\n'
    )
    source.write_text(text, encoding="utf-8")
    own = replace(check, folder=tmp_path / "builds")

    def value(more: int, check: HostCheck) -> float:
        program = check.program(source, tmp_path, (f"-DMORE={more}",), ("k",))
        return float(launched(program, {"y": zeros(1)}, threads=1)["y"][0])

    beside.write_text("#define VALUE 1\n", encoding="utf-8")
    assert [value(1, own), value(2, own)] == [2.0, 3.0]
    gone = replace(own, compiler="/nowhere/g++")
    assert value(1, gone) == 2.0  # nothing is compiled again
    beside.write_text("#define VALUE 5\n", encoding="utf-8")
    assert value(1, own) == 6.0
    with pytest.raises(ConfigError, match="apt install"):
        value(9, gone)


def test_builders_of_the_same_program_do_not_disturb_each_other(check: HostCheck, tmp_path: Path) -> None:
    own = replace(check, folder=tmp_path)
    (tmp_path / "kernel.cu").write_text(f'#include "device.cuh"\n{TILES}', encoding="utf-8")
    found: list[float] = []

    def work() -> None:
        program = own.program(tmp_path / "kernel.cu", KERNELS, (), ("k",))
        found.append(float(launched(program, {"x": np.ones(256, np.float32), "y": zeros(64)}, np.int32(4))["y"][0]))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [4.0] * 3
    assert not list(tmp_path.glob("building-*"))


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"apt install g\+\+"):
        HostCheck.found(tmp_path, 60.0)


# ---- Cases ----


@dataclass(frozen=True)
class Doubled:
    """y = 2 x, whatever the case; `factors` is what its cases take for right."""

    factors: tuple[float, ...]
    blocks: Mapping[str, Block] = field(default_factory=lambda: {"k": Block(32)})
    macros: Mapping[str, int] = field(default_factory=dict)
    tensor_cores: bool = False

    def small(self) -> Sequence[Case]:
        return [self._case(i, factor) for i, factor in enumerate(self.factors)]

    def _case(self, number: int, factor: float) -> Case:
        x = np.full(3, 1.0, np.float32)
        launch = Launch("k", (1, 1, 1), (32, 1, 1), ("x", "y", np.float32(2), np.int32(3)))
        work = Work({"x": x, "y": zeros(3)}, {"run": (launch,)}, ("y",))
        judge = Compared("y", factor * x.astype(np.float64), quality={f"quality{number}": number})
        return Case(f"factor {factor:g}", work, judge, {"max_rel_error": 0.01})

    full = small

    def scenario(self) -> Work:
        return self.small()[0].work

    def readings(self, seconds: Mapping[str, float]) -> Mapping[str, float]:
        return {"latency_s": sum(seconds.values())}

    @property
    def facts(self) -> Mapping[str, float]:
        return {}


def verified(check: HostCheck, operation: Operation) -> Check:
    plain(check)
    return check.verify(check.folder / "plain" / "kernel.cu", KERNELS, ("-DUNUSED=1",), operation)


def test_errors_of_several_cases_become_one_check(check: HostCheck) -> None:
    found = verified(check, Doubled((2.0, 2.01, 2.001)))
    assert found.errors == {"max_rel_error": pytest.approx(0.01 / 2.01)}
    assert found.quality == {"quality0": 0, "quality1": 1, "quality2": 2}


def test_case_beyond_its_tolerance_is_named(check: HostCheck) -> None:
    with pytest.raises(TrialError, match=r"case factor 2.5: max_rel_error is 0.2; at most 0.01 is right") as caught:
        verified(check, Doubled((2.0, 2.5)))
    assert caught.value.reason is Reason.WRONG


@pytest.mark.parametrize("errors", [{}, {"max_rel_error": float("nan")}])
def test_case_without_a_finite_error_is_wrong(check: HostCheck, errors: Mapping[str, float]) -> None:
    case = replace(Doubled((2.0,)).small()[0], judge=lambda outputs: Check(errors))
    with pytest.raises(TrialError) as caught:
        list(plain(check).judged([case], seed=1))
    assert caught.value.reason is Reason.WRONG


# ---- The GPU's compilers take the same text ----

EVERYTHING = """
extern "C" __global__ void k(float* y, const f16* x, const bf16* z, unsigned* u, int n) {
  DYNAMIC_SHARED(float, s);
  alignas(16) __shared__ f16 fixed[64];
  const int t = threadIdx.x;
  copy_async<16>(s + t * 4, x + t * 8, t < n);
  copy_async<8>(s + 128 + t * 2, x + t * 4);
  copy_async<4>(fixed + t * 2, x + t * 2);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  const auto v = load_vector<8>(x + 8 * t);
  const auto w = load_vector<4>(z + 4 * t);
  const auto b = load_vector<1>(x + t);
  float sum = to_float(b.v[0]);
  for (int i = 0; i < 8; i++) sum += to_float(v.v[i]) + to_float(fixed[i]) + s[128 + i];
  for (int i = 0; i < 4; i++) sum += to_float(w.v[i]) * __ldg(y);
  sum = warp_sum(sum) + warp_max(s[t]);
  float d[4] = {sum, 0, 0, 0};
  const unsigned fa[4] = {u[0], u[1], u[2], u[3]}, fb[2] = {u[4], u[5]};
  mma_16x8x16(d, fa, fb);
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  mma_16x8x16_bf16(d, fa, fb);
#endif
  store_vector(y + 4 * t, Vector<float, 4>{{d[0], d[1], fast_exp(d[2]), rsqrt_(fast_tanh(d[3]))}});
  store_vector(reinterpret_cast<f16*>(u) + 2 * t, Vector<f16, 2>{{from_float<f16>(d[0]), from_float<f16>(d[1])}});
  reinterpret_cast<bf16*>(u)[t] = from_float<bf16>(d[3]);
  atomicAdd(y, from_float<float>(min(t, 3)) + to_float(1.0f));
}
"""


def test_everything_compiles_for_the_processor(check: HostCheck) -> None:
    assert built(check, EVERYTHING).path.is_file()


@pytest.mark.extra
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90", "sm_120"])
def test_everything_compiles_with_nvrtc(arch: str) -> None:
    core = pytest.importorskip("cuda.core", reason="needs cuda-core and NVRTC: pip install 'inference-optimizer[cuda]'")
    options = core.ProgramOptions(arch=arch, std="c++17", include_path=[str(KERNELS)])
    program = core.Program(f'#include "device.cuh"\n{EVERYTHING}', "c++", options)
    assert len(program.compile("cubin").code) > 1000


@pytest.mark.extra
@pytest.mark.parametrize("arch", ["sm_75", "sm_90"])
def test_everything_compiles_with_nvcc(arch: str, tmp_path: Path) -> None:
    if (nvcc := shutil.which("nvcc")) is None:
        pytest.skip("needs nvcc on the PATH")
    (tmp_path / "kernel.cu").write_text(f'#include "device.cuh"\n{EVERYTHING}', encoding="utf-8")
    words = (nvcc, "-std=c++17", f"-arch={arch}", "-cubin", f"-I{KERNELS}", "kernel.cu", "-o", "kernel.cubin")
    done = run_tool(words, 120.0, tmp_path)
    assert done.status == 0, done.output
    assert (tmp_path / "kernel.cubin").stat().st_size > 1000
