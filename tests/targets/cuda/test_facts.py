"""What a cubin tells: resources, occupancy, instructions, a hash of its code; against compilers and disassembler."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from targets.cuda.compilers import BOTH, GEMM, NVDISASM, NVRTC, built

from optimizer.resources import kernels_dir
from optimizer.targets.cuda.cubin import kernels_of
from optimizer.targets.cuda.facts import code_key, facts_of, spills
from optimizer.targets.cuda.occupancy import LIMITS, Limits, limits_of, occupancy_pct, resident_blocks
from optimizer.targets.cuda.plan import Block
from optimizer.targets.cuda.sass import KINDS, found_nvdisasm, instruction_facts, wheel_program
from optimizer.trial import Reason, TrialError

NEEDS_NVRTC = [pytest.mark.extra, NVRTC]
VARIED = """
__constant__ float weights[32];
__device__ float kept[64];
__device__ __noinline__ float pick(float x, int n) {
  float local[16];
  for (int i = 0; i < 16; ++i) local[i] = x * i;
  return local[n & 15];
}
extern "C" __global__ void local_array(float* a, int n) {
  float local[64];
  for (int i = 0; i < n; ++i) local[i & 63] = a[i];
  a[threadIdx.x] = local[n & 63] + pick(a[1], n) + weights[threadIdx.x & 31] + kept[n & 63];
}
extern "C" __global__ void shared_array(float* a) {
  __shared__ float s[256];
  s[threadIdx.x] = a[threadIdx.x];
  __syncthreads();
  atomicAdd(a, s[31 - threadIdx.x]);
}
extern "C" __global__ void dynamic_array(float* a) {
  extern __shared__ float s[];
  s[threadIdx.x] = a[threadIdx.x];
  __syncthreads();
  a[0] = s[31 - threadIdx.x];
}
extern "C" __global__ void multiply(float* d, const unsigned* a) {
  float sums[4] = {};
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]));
  for (int i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = sums[i];
}
"""


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_resources_are_those_that_the_compiler_tells(name: str, arch: str, tmp_path: Path) -> None:
    made = built(name, tmp_path, VARIED, arch=arch)
    kernels = kernels_of(made.cubin)
    assert set(kernels) == {"local_array", "shared_array", "dynamic_array", "multiply"}
    told = dict(re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", made.log, re.DOTALL))
    assert {k.name: k.registers for k in kernels.values()} == {name: int(number) for name, number in told.items()}
    assert {k.name: k.shared_bytes for k in kernels.values()} == {
        **dict.fromkeys(kernels, 0),
        "shared_array": 1024,
    }
    assert kernels["local_array"].stack_bytes >= 256
    assert kernels["multiply"].constant_bytes >= 32 * 4 + 16  # a bank for all kernels, and its own parameters


@pytest.mark.extra
@NVRTC
@NVDISASM
def test_facts_are_of_the_kernels_that_are_launched(tmp_path: Path) -> None:
    made = built("nvrtc", tmp_path, VARIED)
    facts = {
        name: facts_of(made.cubin, made.log, {name: Block(64, 4096 if name == "dynamic_array" else 0)}, "sm_80")
        for name in kernels_of(made.cubin)
    }
    assert facts["local_array"]["instructions_local"] > 0
    assert facts["shared_array"]["instructions_local"] == 0
    assert facts["shared_array"]["instructions_shared"] == 2
    assert facts["shared_array"]["instructions_memory"] == 2  # a load and the atomic addition
    assert facts["multiply"]["instructions_tensor"] == 1
    assert facts["dynamic_array"]["instructions_tensor"] == 0
    assert facts["multiply"]["instructions_memory"] == 6 + 4
    assert facts["shared_array"]["shared_bytes"] == 1024
    assert facts["dynamic_array"]["shared_bytes"] == 4096
    assert facts["multiply"]["binary_bytes"] == len(made.cubin)
    both = facts_of(made.cubin, made.log, {"shared_array": Block(64), "multiply": Block(64)}, "sm_80")
    for metric in ("instructions_total", "instructions_memory", "instructions_predicated"):
        assert both[metric] == facts["shared_array"][metric] + facts["multiply"][metric]
    assert both["registers"] == max(facts["shared_array"]["registers"], facts["multiply"]["registers"])
    everything = facts_of(made.cubin, made.log, {}, "sm_80")
    assert everything["instructions_total"] == sum(f["instructions_total"] for f in facts.values())
    assert "occupancy_pct" not in everything


@pytest.mark.parametrize("name", BOTH)
def test_too_few_registers_spill(name: str, tmp_path: Path) -> None:
    free = built(name, tmp_path, GEMM)
    tight = built(name, tmp_path, GEMM, "--maxrregcount=24", "--ptxas-options=--override-directive-values")
    loose, spilt = (facts_of(b.cubin, b.log, {"gemm": Block(256)}, "sm_80") for b in (free, tight))
    assert (loose["spill_bytes"], spilt["registers"]) == (0, 24)
    assert spilt["spill_bytes"] == spilt["spill_store_bytes"] + spilt["spill_load_bytes"] > 0
    assert spilt["occupancy_pct"] > loose["occupancy_pct"]
    if found_nvdisasm():
        assert (loose["instructions_local"], spilt["instructions_local"] > 0) == (0, True)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_the_code_key_is_of_the_code_alone(name: str, arch: str, tmp_path: Path) -> None:
    one = code_key(built(name, tmp_path, GEMM, arch=arch).cubin)
    assert code_key(built(name, tmp_path, GEMM, "--generate-line-info", arch=arch).cubin) == one
    assert code_key(built(name, tmp_path, f"\n\n// moved\n{GEMM}", arch=arch).cubin) == one
    assert code_key(built(name, tmp_path, GEMM, "--prec-div=false", arch=arch).cubin) != one
    assert code_key(built(name, tmp_path, GEMM, "--fmad=false", arch=arch).cubin) != one
    varied = code_key(built(name, tmp_path, VARIED, arch=arch).cubin)
    assert code_key(built(name, tmp_path, VARIED, "--generate-line-info", arch=arch).cubin) == varied
    for old, new in (("weights[32]", "weights[64]"), ("s[256]", "s[260]"), ("kept[64]", "kept[64] = {1}")):
        assert old in VARIED
        assert code_key(built(name, tmp_path, VARIED.replace(old, new), arch=arch).cubin) != varied, new


@pytest.mark.extra
@NVRTC
def test_what_a_build_can_not_be_used_for_is_told(tmp_path: Path) -> None:
    made = built("nvrtc", tmp_path, VARIED)
    with pytest.raises(TrialError, match=r"no kernel gemm; it has dynamic_array, ") as caught:
        facts_of(made.cubin, made.log, {"gemm": Block(64)}, "sm_80")
    assert caught.value.reason is Reason.COMPILE
    for block, told in ((Block(2048), "2048 threads"), (Block(64, 170_000), "170000 bytes")):
        with pytest.raises(TrialError, match=told) as caught:
            facts_of(made.cubin, made.log, {"dynamic_array": block}, "sm_80")
        assert caught.value.reason is Reason.REJECTED
    for nonsense in (b"", b"no cubin", made.cubin[:40]):
        for ask in (code_key, kernels_of):
            with pytest.raises(TrialError) as caught:
                ask(nonsense)
            assert caught.value.reason is Reason.COMPILE


@pytest.mark.extra
@NVRTC
def test_what_nobody_told_is_absent(tmp_path: Path) -> None:
    made = built("nvrtc", tmp_path, VARIED)
    facts = facts_of(made.cubin, "", {"multiply": Block(32)}, "sm_999")
    assert not {"spill_bytes", "occupancy_pct"} & set(facts)
    code = [k.code for k in kernels_of(made.cubin).values()]
    without = instruction_facts(code, "sm_80 unheard of", None)
    assert set(without) == {"instructions_total", "instructions_predicated"}
    assert without["instructions_total"] == facts_of(made.cubin, "", {}, "sm_80")["instructions_total"]


def test_spills_of_both_compilers_and_of_functions() -> None:
    of, tail = "ptxas info    : Function properties for", "bytes spill loads\n"
    nvcc = (
        f"{of} gemm\n    8 bytes stack frame, 16 bytes spill stores, 24 {tail}"
        f"{of} _Z1ffi\n    0 bytes stack frame, 4 bytes spill stores, 0 {tail}"
    )
    nvrtc = f"{of} gemm\nptxas         .     8 bytes stack frame, 1 bytes spill stores, 2 {tail}"
    assert spills(nvcc) == {"gemm": (16, 24), "_Z1ffi": (4, 0)}
    assert spills(nvrtc) == {"gemm": (1, 2)}


@pytest.mark.extra
@NVRTC
@NVDISASM
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_instructions_are_those_of_a_whole_disassembly(arch: str, tmp_path: Path) -> None:
    tool = found_nvdisasm()
    assert tool is not None
    texts = [GEMM, VARIED if arch != "sm_75" else VARIED[: VARIED.index('extern "C" __global__ void multiply')]]
    texts += [(kernels_dir() / "gemm" / "gemm.cu").read_text(encoding="utf-8")]
    words = ("-DTENSOR=1", "-DPRECISION=1", "-DSTAGES=2", "-DVECTOR=8", f"-I{kernels_dir()}")
    for text in texts:
        cubin = built("nvrtc", tmp_path, text, *(words if "device.cuh" in text else ()), arch=arch).cubin
        (tmp_path / "whole.cubin").write_bytes(cubin)
        command = [tool, "--print-code", "--no-dataflow", "whole.cubin"]
        listing = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        lines = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+)?\s*([A-Z][A-Z0-9_]*)", listing)
        names = Counter(name for _, name in lines)
        facts = instruction_facts([k.code for k in kernels_of(cubin).values()], arch, tool)
        expected = {f"instructions_{kind}": sum(names[n] for n in known) for kind, known in KINDS.items()}
        expected["instructions_total"] = len(lines) - names["NOP"]
        expected["instructions_predicated"] = sum(1 for guard, _ in lines if guard)
        assert facts == expected


# Hand-computed, by the rules of NVIDIA's occupancy calculator: 65,536 registers, given to warps in units of 256;
# shared memory in units of 128 bytes with 1 KiB a block for the system.
HAND = [
    # sm_80 (64 warps, 32 blocks, 164 KiB) and sm_90 (64, 32, 228 KiB)
    ("sm_80", 256, 32, 0, 100.0),  # 8 warps of 1,024 registers: 64 warps
    ("sm_80", 256, 64, 0, 50.0),  # 2,048 registers a warp: 32 warps, 4 blocks
    ("sm_80", 256, 37, 0, 75.0),  # 1,184 rounded up to 1,280: 12 warps a quarter, 48 warps, 6 blocks
    ("sm_80", 32, 16, 0, 50.0),  # 32 blocks of a warp
    ("sm_80", 128, 32, 48 * 1024, 18.75),  # 49 KiB a block: 3 blocks of 4 warps
    ("sm_80", 1024, 33, 0, 50.0),  # 48 warps by registers: one block of 32
    ("sm_80", 768, 24, 0, 75.0),  # 24 warps: 2 blocks
    ("sm_90", 128, 32, 48 * 1024, 25.0),  # 228 / 49: 4 blocks
    ("sm_90", 384, 168, 200 * 1024, 18.75),  # one block of 12 warps, as a producer and two consumers have
    ("sm_90", 256, 255, 0, 12.5),  # 8,160 rounded up to 8,192: 8 warps
    ("sm_86", 256, 32, 0, 100.0),  # 48 warps of 48
    ("sm_86", 1024, 32, 0, 32 / 48 * 100),  # one block
    ("sm_75", 64, 64, 16 * 1024, 25.0),  # 64 KiB: 4 blocks of 2 warps of 32
    ("sm_120", 64, 32, 0, 100.0),  # 24 blocks of 2 warps
    ("sm_90a", 1024, 65, 0, 0.0),  # 2,304 registers a warp: a block would need 73,728
]


@pytest.mark.parametrize(("arch", "threads", "registers", "shared", "expected"), HAND)
def test_occupancy_as_computed_by_hand(arch: str, threads: int, registers: int, shared: int, expected: float) -> None:
    limits = limits_of(arch)
    assert limits is not None
    assert occupancy_pct(limits, threads, registers, shared) == pytest.approx(expected)


def test_an_architecture_that_is_not_listed_has_no_limits() -> None:
    assert limits_of("sm_61") is None
    assert limits_of("compute_80") is None
    assert limits_of("sm_100f") == limits_of("sm_100")


ORACLE = """
#include <cstdio>
#include "cuda_occupancy.h"
int main() {
  int major, minor, warps, shared, optin, reserved, threads, registers, fixed, dynamic;
  while (std::scanf("%d %d %d %d %d %d %d %d %d %d", &major, &minor, &warps, &shared, &optin, &reserved, &threads,
                    &registers, &fixed, &dynamic) == 10) {
    cudaOccDeviceProp p;
    p.computeMajor = major;
    p.computeMinor = minor;
    p.maxThreadsPerBlock = 1024;
    p.maxThreadsPerMultiprocessor = 32 * warps;
    p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.warpSize = 32;
    p.sharedMemPerBlock = 49152;
    p.sharedMemPerMultiprocessor = shared;
    p.sharedMemPerBlockOptin = optin;
    p.reservedSharedMemPerBlock = reserved;
    p.numSms = 1;
    cudaOccFuncAttributes a;
    a.maxThreadsPerBlock = 1024;
    a.numRegs = registers;
    a.sharedSizeBytes = fixed;
    a.partitionedGCConfig = PARTITIONED_GC_OFF;
    a.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    a.maxDynamicSharedSizeBytes = dynamic;
    a.numBlockBarriers = 1;
    cudaOccDeviceState s;
    cudaOccResult r;
    const cudaOccError e = cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &a, &s, threads, dynamic);
    std::printf("%d\\n", e == CUDA_OCC_SUCCESS ? r.activeBlocksPerMultiprocessor : -1);
    std::fflush(stdout);
  }
}
"""


def occupancy_header() -> Path | None:
    """The folder of cuda_occupancy.h: of the wheel nvidia-cuda-runtime, or of a toolkit."""
    tools = [wheel_program("nvcc"), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    places = [Path(tool).resolve().parents[1] / "include" for tool in tools if tool]
    return next((p for p in places if (p / "cuda_occupancy.h").exists()), None)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, include = tmp_path_factory.mktemp("occupancy"), occupancy_header()
    (folder / "oracle.cpp").write_text(ORACLE, encoding="utf-8")
    command = ["g++", "-w", f"-I{include}", str(folder / "oracle.cpp"), "-o", str(folder / "oracle")]
    subprocess.run(command, check=True)
    return folder / "oracle"


@pytest.mark.extra
@pytest.mark.skipif(occupancy_header() is None, reason="needs cuda_occupancy.h (extra: cuda)")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(LIMITS)),
            st.integers(1, 1024),
            st.integers(1, 255),
            st.sampled_from([0, 1, 1000, 4096, 40_000]),
            st.integers(0, 230_000),
        ),
        min_size=200,
        max_size=400,
    )
)
def test_occupancy_is_that_of_nvidias_own_calculator(oracle: Path, cases: list[tuple[str, int, int, int, int]]) -> None:
    def line(number: str, limits: Limits, *launch: int) -> str:
        capability = (number[:-1], number[-1])
        sizes = (limits.shared_bytes, limits.shared_bytes_a_block, limits.shared_reserved_bytes)
        return " ".join(map(str, (*capability, limits.warps, *sizes, *launch)))

    asked = "\n".join(line(arch, LIMITS[arch], *launch) for arch, *launch in cases)
    said = subprocess.run([oracle], input=asked, capture_output=True, text=True, check=True).stdout.split()
    ours = [
        resident_blocks(LIMITS[arch], threads, registers, fixed + dynamic)
        for arch, threads, registers, fixed, dynamic in cases
    ]
    differing = [(case, his, mine) for case, his, mine in zip(cases, said, ours, strict=True) if int(his) != mine]
    assert not differing
