"""The matrix product, the convolution and the MLP: right at the corners of their knobs, and caught when wrong."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from kernels.programs import COMPILERS, KERNELS, Program, build, passes

FAST = ("-Ofast", "-march=native")
CLEAN = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

Corner = tuple[str, tuple[str, ...], dict[str, int], dict[str, int]]
CORNERS: list[Corner] = [
    ("gemm", ("-O3",), {}, {"threads": 2}),
    ("gemm", FAST, {"PACK": 2, "MICRO_M": 8, "MICRO_N": 32, "UNROLL": 8}, {"threads": 2}),
    ("gemm", ("-O1",), {"LOOP_ORDER": 1, "PACK": 1, "MICRO_M": 1, "MICRO_N": 64, "TILE_K": 384}, {"n": 96, "k": 383}),
    ("gemm", ("-O2",), {"LOOP_ORDER": 2, "TILE_M": 192, "MICRO_M": 6, "TILE_N": 32}, {"m": 100, "threads": 3}),
    ("gemm", FAST, {"LOOP_ORDER": 3, "PACK": 2, "TILE_M": 96, "MICRO_M": 6, "MICRO_N": 4}, {"m": 1, "n": 1, "k": 1}),
    ("conv", ("-O3",), {}, {"threads": 2}),
    ("conv", FAST, {"LAYOUT": 1, "TILE": 8, "VECTOR_WIDTH": 16, "UNROLL": 4}, {"threads": 2}),
    ("conv", ("-O2",), {"ALGORITHM": 1, "TILE": 6, "TILE_P": 32}, {"n": 1, "stride": 2, "threads": 3}),
    ("conv", FAST, {"ALGORITHM": 1, "LAYOUT": 1, "TILE": 1, "VECTOR_WIDTH": 32, "TILE_P": 256}, {"o": 5}),
    ("conv", ("-O1",), {"TILE": 4, "VECTOR_WIDTH": 32}, {"r": 5, "s": 1, "pad": 2, "h": 9, "w": 31}),
    ("mlp", ("-O3",), {}, {"threads": 2}),
    ("mlp", FAST, {"FUSED": 1, "GELU": 1, "TILE_B": 8, "VECTOR_WIDTH": 32}, {"batch": 32, "threads": 2}),
    ("mlp", ("-O2",), {"FUSED": 1, "GELU": 2, "TILE_H": 256, "VECTOR_WIDTH": 64, "TILE_B": 1}, {"batch": 1}),
    ("mlp", FAST, {"GELU": 2, "TILE_B": 2, "VECTOR_WIDTH": 16, "UNROLL": 8}, {"batch": 2, "threads": 3}),
    ("mlp", FAST, {"GELU": 0}, {"batch": 8, "hidden": 33, "in": 1, "out": 1}),
]
SIZES = {"gemm": {"m": 200, "n": 190, "k": 210}, "conv": {"h": 20, "w": 23}, "mlp": {"hidden": 300, "out": 70}}
# The first compiler takes every corner, another one every third: only its liberties differ.
PAIRS = [(c, i) for n, c in enumerate(COMPILERS) for i in range(0, len(CORNERS), 3 if n else 1)]


def support(kernel: str) -> tuple[str, str]:
    return ("harness.cpp", f"{kernel}/reference.cpp")


def compiled(
    kernel: str,
    folder: Path,
    flags: tuple[str, ...] = ("-O1",),
    macros: Mapping[str, int] | None = None,
    compiler: str = COMPILERS[0],
    source: str | Path | None = None,
) -> Path:
    quiet = ("-Wno-pass-failed",) if compiler == "clang++" else ()  # of loops it chose not to vectorise
    return build(source or f"{kernel}/{kernel}.cpp", folder, macros, (*flags, *quiet), support(kernel), compiler)


@pytest.mark.parametrize(("compiler", "corner"), PAIRS)
def test_corners_equal_the_reference(compiler: str, corner: int, tmp_path: Path) -> None:
    kernel, flags, macros, options = CORNERS[corner]
    with Program(compiled(kernel, tmp_path, flags, macros, compiler), {**SIZES[kernel], **options}) as process:
        assert "ready" in process.first, process.first
        check = process.check()
        assert passes(check), check
        assert max(check["errors"].values()) < 5e-6  # far inside of the tolerance


# kernel, name, what is right, what is wrong, macros: each is a mistake that somebody makes
MUTATIONS: list[tuple[str, str, str, str, dict[str, int]]] = [
    ("gemm", "adds-to-what-was-there", "cols, k0 == 0);", "cols, false);", {}),
    ("gemm", "forgets-other-depths", "cols, k0 == 0);", "cols, true);", {}),
    ("gemm", "last-column-of-the-odd", "min(MICRO_N, n1 - j)", "min(MICRO_N, n1 - j - 1)", {}),
    ("gemm", "panel-of-another-depth", "(j / MICRO_N * x.k + k0)", "(j / MICRO_N * x.k)", {"PACK": 1}),
    ("gemm", "rows-of-a-panel", "packed_a ? MICRO_M : rows", "rows - 1", {"PACK": 2}),
    ("conv", "no-bias", "sums[i][j] + bias[CHANNELS_FIRST ? o + i : o + j]", "sums[i][j]", {}),
    ("conv", "no-relu", "sum > 0.0f ? sum : 0.0f", "sum", {}),
    ("conv", "border", "i + d.pad) * padded_w + d.pad", "i + d.pad) * padded_w + d.pad - 1", {}),
    ("conv", "stride", "pixel / d.q() * d.stride", "pixel / d.q()", {"ALGORITHM": 1}),
    ("conv", "filter-transposed", "(r * d.s + s) * d.c + c) * wide", "(s * d.r + r) * d.c + c) * wide", {"LAYOUT": 1}),
    ("mlp", "constant-of-gelu", "0.044715f", "0.04f", {}),
    ("mlp", "no-bias", "sums[i][v] + b2[j + v]", "sums[i][v]", {}),
    ("mlp", "last-strip", "min(TILE_H, hidden - t)", "min(TILE_H, hidden - t - 1)", {"FUSED": 1}),
    ("mlp", "batch-forgotten", "first < rows; first += batch", "first < rows - batch; first += batch", {}),
    ("mlp", "taylor-term", "0.166666667f", "0.15f", {"GELU": 2}),
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m[0]}-{m[1]}")
def test_a_planted_bug_is_found(mutation: tuple[str, str, str, str, dict[str, int]], tmp_path: Path) -> None:
    kernel, name, right, wrong, macros = mutation
    source = (KERNELS / kernel / f"{kernel}.cpp").read_text()
    assert right in source, f"{kernel} no longer says {right!r}: choose another place"
    mutant = tmp_path / f"{name}.cpp"
    mutant.write_text(source.replace(right, wrong))
    with Program(compiled(kernel, tmp_path, macros=macros, source=mutant), SIZES[kernel]) as process:
        assert not passes(process.check())


@pytest.mark.parametrize(
    ("kernel", "macros"),
    [
        ("gemm", {"PACK": 2, "LOOP_ORDER": 3}),
        ("gemm", {"MICRO_N": 16}),
        ("conv", {"LAYOUT": 1}),
        ("conv", {"ALGORITHM": 1}),
        ("conv", {}),
        ("mlp", {"FUSED": 1, "GELU": 2}),
        ("mlp", {}),
    ],
    ids=str,
)
def test_sanitizers_find_nothing(kernel: str, macros: dict[str, int], tmp_path: Path) -> None:
    words = {"threads": 2, **SIZES[kernel]}
    done = subprocess.run(
        [str(compiled(kernel, tmp_path, CLEAN, macros)), *(f"--{k}={v}" for k, v in words.items())],
        input="verify\nrun 1\nquit\n", capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("kernel", "options", "says"),
    [
        ("gemm", {"m": 0}, "--m=0 is not a whole number from 1"),
        ("gemm", {"m": "12x"}, "--m=12x is not a whole number"),
        ("gemm", {"thread": 2}, "unknown option --thread"),
        ("mlp", {"rows": 32, "batch": 5}, "--batch=5 does not divide --rows=32"),
        ("conv", {"r": 31, "h": 3}, "larger than the padded image"),
    ],
)
def test_impossible_options_are_rejected(kernel: str, options: dict[str, object], says: str, tmp_path: Path) -> None:
    with Program(compiled(kernel, tmp_path), options) as process:
        assert process.first["error"]["reason"] == "rejected"
        assert says in str(process.first["error"]["message"])


@pytest.mark.parametrize(("kernel", "inferences", "batches"), [("gemm", 1, 1), ("conv", 4, 1), ("mlp", 4, 8)])
def test_rates_agree_with_the_latency(kernel: str, inferences: int, batches: int, tmp_path: Path) -> None:
    with Program(compiled(kernel, tmp_path), SIZES[kernel]) as process:
        facts, samples = process.first["ready"]["facts"], process.samples(3)
    assert isinstance(facts, dict)
    assert {len(v) for k, v in samples.items() if k != "peak_memory_bytes"} == {3}
    for latency, rate, flops in zip(
        samples["latency_s"], samples["throughput_ips"], samples["achieved_flop_per_s"], strict=True
    ):
        assert rate * latency == pytest.approx(inferences)
        assert flops * latency * batches == pytest.approx(facts["flop"])
    assert samples["peak_memory_bytes"][0] > 1e5


def test_a_program_ends_when_its_parent_dies(tmp_path: Path) -> None:
    """A search that was killed with SIGKILL can't stop its programs: they stop themselves."""
    program = compiled("gemm", tmp_path)
    script = f"sleep 1000 | {program} & echo $!; sleep 1"  # stdin stays open: only the parent's death tells
    shell = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, text=True, check=True, timeout=30)
    pid = shell.stdout.split()[0]
    assert "ready" in shell.stdout
    subprocess.run(["timeout", "20", "bash", "-c", f"while kill -0 {pid} 2>/dev/null; do sleep 0.1; done"], check=True)
    subprocess.run(["pkill", "-f", "^sleep 1000$"], check=False)
