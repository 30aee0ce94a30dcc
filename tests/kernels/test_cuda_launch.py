"""The product, the convolution and the MLP on a GPU: launched as they are declared, and taken by both compilers."""

import math
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.cuda_points import OPERATIONS, Placed, corner, corners, drawn, feasible, placed, source, space

from optimizer.resources import kernels_dir
from optimizer.space import Value
from optimizer.targets.cuda.plan import Array, Case, Launch, Work
from optimizer.trial import Reason, TrialError

LARGEST_SHARED_BYTES = 101376
LARGEST_GRID = (2**31 - 1, 65535, 65535)
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=20, derandomize=True, deadline=None)

NVRTC = ("sm_75", "sm_80", "sm_90", "sm_120")
ARCHITECTURES = ("sm_80", "sm_90")
needs_nvrtc = pytest.mark.skipif(
    find_spec("cuda") is None or find_spec("cuda.core") is None, reason="needs cuda-core: pip install '.[cuda]'"
)
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc on the PATH")


def outputs_covered(x: Placed, launch: Launch) -> int:
    """How many outputs the blocks of a launch reach, tiles that stand over included."""
    blocks = math.prod(launch.grid)
    if launch.block == (256, 1, 1) and launch.kernel in ("gemm_sum", "mlp_start"):
        return blocks * 256
    if x.kernel == "conv":
        return blocks * x.value("BLOCK_O", 4) * x.value("BLOCK_P", 64)
    return blocks // x.value("SPLIT_K", 1) * x.value("BLOCK_M", 16) * x.value("BLOCK_N", 16)


def written(work: Work, launch: Launch) -> int:
    """Elements of the buffer that a launch writes."""
    name = {"gemm": "c", "gemm_sum": "c", "conv": "y", "mlp_hidden": "units", "mlp_out": "y", "mlp_start": "y"}
    if launch.kernel == "mlp_fused":  # a block for each tile of hidden units
        return int(work.buffers["w1"].shape[1] * work.buffers["x"].shape[0])
    return int(work.buffers[name[launch.kernel]].size)


def works(x: Placed) -> list[Work]:
    return [*(case.work for case in x.operation.small()), x.operation.scenario()]


@pytest.mark.parametrize("kernel", OPERATIONS)
@few
@given(seed=SEEDS)
def test_every_point_is_launched_as_it_is_declared(kernel: str, seed: int) -> None:
    x = drawn(kernel, seed)
    blocks, macros = x.operation.blocks, x.operation.macros
    main = {b.threads for name, b in blocks.items() if name not in ("gemm_sum", "mlp_start")}
    assert main == {macros["BLOCK_THREADS"]}
    assert 32 <= macros["BLOCK_THREADS"] <= 1024
    assert macros["BLOCK_THREADS"] % 32 == 0
    assert 0 < macros["SHARED_BYTES"] <= LARGEST_SHARED_BYTES
    for work in works(x):
        assert {launch.kernel for launch in work.launches} == set(blocks)
        for launch in work.launches:
            block = blocks[launch.kernel]
            assert (math.prod(launch.block), launch.shared_bytes) == (block.threads, block.shared_bytes)
            assert all(1 <= size <= most for size, most in zip(launch.grid, LARGEST_GRID, strict=True))
            assert all(a in work.buffers for a in launch.arguments if isinstance(a, str))
            assert outputs_covered(x, launch) >= written(work, launch)
        for name in work.outputs:
            assert np.isnan(work.buffers[name]).all()  # what a kernel leaves out is found


@pytest.mark.parametrize("kernel", OPERATIONS)
@few
@given(seed=SEEDS)
def test_facts_and_readings_are_whole(kernel: str, seed: int) -> None:
    x = drawn(kernel, seed)
    assert {"flop", "bytes_moved"} <= set(x.operation.facts)
    assert all(value > 0 for value in x.operation.facts.values())
    assert x.operation.tensor_cores == bool(x.point.get("TENSOR", False))
    assert list(x.operation.scenario().phases) == ["run"]
    readings = x.operation.readings({"run": 0.5})
    assert readings["latency_s"] == 0.5
    inferences = {"gemm": 1, "conv": 2, "mlp": 40}[kernel]
    assert readings["throughput_ips"] == 2.0 * inferences


def judged(case: Case, outputs: dict[str, Array]) -> bool:
    errors = case.judge(outputs).errors
    assert set(errors) == set(case.tolerances)
    return all(error <= case.tolerances[name] for name, error in errors.items())


@pytest.mark.parametrize("kernel", OPERATIONS)
@few
@given(seed=SEEDS)
def test_a_judge_takes_the_answer_and_nothing_else(kernel: str, seed: int) -> None:
    x = drawn(kernel, seed)
    for case in (*x.operation.small(), *x.operation.full()):
        (name,) = case.work.outputs
        answer = definition(kernel, x, case.work).astype(np.float32)
        assert answer.shape == case.work.buffers[name].shape
        assert judged(case, {name: answer})
        # The stored operands' answer is right to the last digits, so one element that is off by a hundredth is found.
        off = answer.copy()
        off.flat[off.size // 2] += np.float32(0.02) * np.abs(answer).max() + np.float32(0.02)
        assert not judged(case, {name: off})
        off.flat[off.size // 2] = np.nan
        assert not judged(case, {name: off})


def definition(kernel: str, x: Placed, work: Work) -> Array:
    """What comes out, by plain loops or NumPy over the buffers that the GPU would get."""
    buffers = {name: widened(content, x) for name, content in work.buffers.items()}
    if kernel == "gemm":
        return np.asarray(buffers["a"] @ buffers["b"])
    if kernel == "mlp":
        z = buffers["x"] @ buffers["w1"] + buffers["b1"]
        u = 0.7978845608028654 * (z + 0.044715 * z**3)
        hidden = z / (1.0 + np.exp(-2.0 * u))
        return np.asarray(stored_again(hidden, x) @ buffers["w2"] + buffers["b2"])
    return convolved(x, work, buffers)


def widened(content: Array, x: Placed) -> Array:
    if content.dtype == np.uint16:  # bf16: the upper half of a float
        content = (content.astype(np.uint32) << 16).view(np.float32)
    return content.astype(np.float64)


def stored_again(hidden: Array, x: Placed) -> Array:
    match x.point["precision"]:
        case "f16":
            return hidden.astype(np.float16).astype(np.float64)
        case "bf16":  # to the nearest multiple of a 2^-8th of the power of two above
            scale = 2.0 ** (np.floor(np.log2(np.abs(hidden) + 1e-300)) - 7)
            return np.asarray(np.round(hidden / scale) * scale)
    return hidden


def convolved(x: Placed, work: Work, buffers: dict[str, Array]) -> Array:
    (launch,) = work.launches
    n, c, h, w, o, p, q, pad = (int(a) for a in launch.arguments if not isinstance(a, str))
    last, direct = x.point["layout"] == "nhwc", x.point["algorithm"] == "direct"
    images = buffers["x"].transpose(0, 3, 1, 2) if last else buffers["x"]
    weights = buffers["w"].transpose((3, 2, 0, 1) if last and not direct else (3, 0, 1, 2))  # (O, C, R, S)
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[2:], axis=(2, 3))
    assert (images.shape, windows.shape[2:4]) == ((n, c, h, w), (p, q))
    y = np.einsum("ncpqrs,ocrs->nopq", windows, weights, optimize=True) + buffers["bias"][:, None, None]
    assert y.shape == (n, o, p, q)
    y = np.maximum(y, 0.0)
    return np.asarray(y.transpose(0, 2, 3, 1) if last else y)


@pytest.mark.parametrize("kernel", OPERATIONS)
def test_the_baseline_is_the_textbook_and_what_is_called_good_is_valid(kernel: str) -> None:
    baseline, *good = corners(kernel)
    assert baseline.operation.macros["BLOCK_THREADS"] == 256
    assert not baseline.operation.tensor_cores
    assert {baseline.point[k] for k in ("VECTOR", "STAGES", "UNROLL")} == {1}
    assert len(good) == 2


@pytest.mark.parametrize(
    ("kernel", "changes", "constraint"),
    [
        ("gemm", {"BLOCK_M": 64, "BLOCK_N": 64}, "block_of_threads"),
        ("gemm", {"THREAD_M": 16, "THREAD_N": 8}, "block_of_threads"),
        ("gemm", {"BLOCK_M": 256, "BLOCK_N": 256, "THREAD_M": 16, "THREAD_N": 16}, "sums_fit_registers"),
        ("gemm", {"BLOCK_M": 256, "BLOCK_N": 256, "BLOCK_K": 64, "THREAD_M": 8, "THREAD_N": 8}, "shared_memory"),
        ("gemm", {"TENSOR": True}, "tensor_cores_need_16_bits"),
        ("gemm", {"VECTOR": 8, "PAD": 8}, "load_of_16_bytes"),
        ("gemm", {"precision": "f16", "STAGES": 2}, "asynchronous_copy_of_4_bytes"),
        ("conv", {"BLOCK_O": 128, "BLOCK_P": 256}, "block_of_threads"),
        ("conv", {"BLOCK_O": 128, "BLOCK_C": 8, "STAGES": 3, "THREAD_O": 8}, "shared_memory_direct"),
        ("mlp", {"BLOCK_M": 128, "BLOCK_N": 256, "THREAD_M": 8, "THREAD_N": 8, "fused": True}, "shared_memory"),
        ("mlp", {"fused": True, "BLOCK_K": 64}, "units_of_whole_tiles"),
    ],
)
def test_what_cannot_work_is_refused_before_compiling(kernel: str, changes: dict[str, Value], constraint: str) -> None:
    known = space(kernel)
    point = known.active({k.name: k.default for k in known.knobs} | changes)
    broken = [c.name for c in known.constraints if c.expression.names <= set(point) and not c.expression.holds(point)]
    assert constraint in broken
    assert point not in known


@pytest.mark.parametrize(
    ("kernel", "options", "says"),
    [
        ("gemm", {"m": "0"}, "m=0 is not a whole number from 1"),
        ("gemm", {"m": "12x"}, "m=12x is not a whole number"),
        ("gemm", {"tile": "8"}, "there is no option tile"),
        ("conv", {"r": "31", "h": "3"}, "the filter 31×3 is larger than the image"),
        ("conv", {"n": "1024", "c": "4096", "h": "4096"}, "is larger than 2147483647"),
        (
            "conv",
            {"r": "31", "s": "31", "h": "64", "w": "64", "stride": "8"},
            "bytes of shared memory; it may have 101376",
        ),
        ("mlp", {"hidden": "40000"}, "hidden=40000 is not a whole number from 1 to 32768"),
    ],
)
def test_impossible_options_are_rejected(kernel: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(TrialError, match=says) as caught:
        placed(kernel, space(kernel).baseline(), options)
    assert caught.value.reason is Reason.REJECTED


@pytest.mark.parametrize("kernel", OPERATIONS)
def test_spaces_are_large_and_can_be_counted(kernel: str) -> None:
    assert (feasible(kernel).count or 0) > 100_000


def compiled_by_nvrtc(x: Placed, arch: str) -> tuple[int, str]:
    """Bytes of the machine code, and what the compiler said."""
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(
        arch=arch,
        std="c++17",
        include_path=str(kernels_dir()),
        define_macro=[word.removeprefix("-D").partition("=")[::2] for word in x.words],
    )
    said: list[str] = []
    log = type("Log", (), {"write": lambda self, text: said.append(text)})()
    code = Program(source(x.kernel).read_text(encoding="utf-8"), "c++", options).compile("cubin", logs=log).code
    return len(code), "".join(said)


@pytest.mark.extra
@needs_nvrtc
@pytest.mark.parametrize("kernel", OPERATIONS)
def test_nvrtc_takes_every_kernel(kernel: str) -> None:
    baseline, *good = corners(kernel)
    for x, architectures in ((baseline, NVRTC), *((g, ARCHITECTURES) for g in good)):
        for arch in architectures:
            size, said = compiled_by_nvrtc(x, arch)
            assert size > 5000
            assert "warning" not in said, said


@pytest.mark.extra
@needs_nvrtc
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: "-DSHARED_BYTES=16" if "SHARED_BYTES" in w else w, "disagree about shared memory"),
        (lambda w: "-DBLOCK_THREADS=32" if "BLOCK_THREADS" in w else w, "disagree about the threads of a block"),
    ],
)
@pytest.mark.parametrize("kernel", OPERATIONS)
def test_a_source_refuses_what_launch_py_miscounts(kernel: str, change: Callable[[str], str], says: str) -> None:
    from cuda.core._utils.cuda_utils import NVRTCError

    x = corners(kernel)[0]
    wrong = Placed(kernel, x.point, x.operation, tuple(map(change, x.words)))
    with pytest.raises(NVRTCError, match=says):
        compiled_by_nvrtc(wrong, "sm_80")


@pytest.mark.extra
@needs_nvcc
@pytest.mark.parametrize("kernel", OPERATIONS)
def test_nvcc_takes_every_kernel(kernel: str, tmp_path: Path) -> None:
    for number, x in enumerate(corners(kernel)[::2]):
        made = tmp_path / f"{number}.fatbin"
        generate = [f"-gencode=arch=compute_{a[3:]},code={a}" for a in ARCHITECTURES]
        subprocess.run(
            ["nvcc", "-std=c++17", "-Werror=all-warnings", *generate, *x.words, f"-I{kernels_dir()}", "-fatbin",
             str(source(kernel)), "-o", str(made)],
            check=True,
        )  # fmt: skip
        assert made.stat().st_size > 10_000


@pytest.mark.extra
@needs_nvrtc
def test_tensor_cores_of_bf16_are_refused_where_there_are_none() -> None:
    from cuda.core._utils.cuda_utils import NVRTCError

    x = corner("gemm", {"precision": "bf16", "TENSOR": True, "BLOCK_M": 32})
    assert compiled_by_nvrtc(x, "sm_80")[0] > 5000
    with pytest.raises(NVRTCError, match="tensor cores multiply bf16 from sm_80 on"):
        compiled_by_nvrtc(x, "sm_75")
