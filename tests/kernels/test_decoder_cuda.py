"""The decoder on a GPU: the CPU program's weights and perplexity, right at every corner when it is executed, and caught
when it is wrong."""

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.programs import KERNELS, Program, build, passes

from optimizer.config.spaces import space_of
from optimizer.feasible import Feasible
from optimizer.resources import conf_dir
from optimizer.space import Point, Value
from optimizer.targets.builds import knob_words
from optimizer.targets.cuda.host import HostCheck
from optimizer.targets.cuda.operation import load_operation
from optimizer.targets.cuda.plan import Array, Case, Operation
from optimizer.trial import Reason, TrialError

FOLDER = KERNELS / "decoder"
FILES = {"model": FOLDER / "model" / "model.safetensors", "text": FOLDER / "model" / "heldout.txt"}
SUPPORT = ("harness.cpp", "safetensors.cpp", "decoder/reference.cpp", "decoder/rounding.cpp")
SOURCE = (FOLDER / "decoder.cu").read_text(encoding="utf-8")
OPERATION: Any = load_operation(FOLDER / "launch.py")
LARGEST_GRID = (2**31 - 1, 65535, 65535)


def group(*names: str) -> dict[str, Any]:
    """Space files joined, as a search joins them."""
    files = [yaml.safe_load((conf_dir() / "space" / f"{name}.yaml").read_text(encoding="utf-8")) for name in names]
    constraints = {k: v for file in files for k, v in file.pop("constraints", {}).items()}
    return {k: v for file in files for k, v in file.items()} | {"constraints": constraints}


SPACE = space_of(group("decoder_cuda", "quantization", "pruning"), {})
FEASIBLE = Feasible(SPACE)
SEEDS = st.integers(0, 2**32 - 1)


def point(**changes: Value) -> Point:
    found = SPACE.active({k.name: k.default for k in SPACE.knobs} | changes)
    assert found in SPACE, f"{changes} is no point of the space"
    return found


def made(knobs: Mapping[str, Value], **options: object) -> Operation:
    found: Operation = OPERATION({name: str(value) for name, value in options.items()}, FILES, knobs)
    return found


def words(knobs: Point, operation: Operation) -> tuple[str, ...]:
    return (*knob_words(SPACE, knobs), *(f"-D{name}={value}" for name, value in operation.macros.items()))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostCheck:
    return HostCheck.found(tmp_path_factory.mktemp("decoder-cuda"), 120.0)


def executed(host: HostCheck, knobs: Point, source: Path = FOLDER / "decoder.cu") -> dict[str, float]:
    operation = made(knobs)
    return dict(host.verify(source, KERNELS, words(knobs, operation), operation).errors)


# ---- the CPU program's weights

CHANGES: list[dict[str, int]] = [
    {},
    {"WEIGHT_BITS": 16, "QUANTIZE_EMBEDDING": 1},
    {"WEIGHT_BITS": 8, "GROUP_SIZE": 64, "KV_BITS": 8},
    {"WEIGHT_BITS": 4, "GROUP_SIZE": 32, "QUANTIZE_EMBEDDING": 1, "KV_BITS": 16},
    {"PRUNING": 1, "SPARSITY_PCT": 30},
    {"PRUNING": 2, "WEIGHT_BITS": 4, "GROUP_SIZE": 128},
    {"PRUNING": 3, "SPARSITY_PCT": 20, "WEIGHT_BITS": 8, "GROUP_SIZE": 32},
]
PRUNINGS = ("none", "magnitude", "n_m", "block")


def as_knobs(macros: Mapping[str, int]) -> dict[str, Value]:
    """The knobs of a program of these macros."""
    return {
        name.lower(): PRUNINGS[value] if name == "PRUNING" else bool(value) if name == "QUANTIZE_EMBEDDING" else value
        for name, value in macros.items()
    }


@cache
def cpu_program(macros: tuple[tuple[str, int], ...], folder: Path) -> Path:
    return build("decoder/decoder.cpp", folder, dict(macros), ("-O1",), SUPPORT)


def cpu_perplexity(macros: Mapping[str, int], folder: Path, **options: object) -> float:
    named = {name.replace("_", "-"): value for name, value in options.items()}
    with Program(cpu_program(tuple(macros.items()), folder), {**FILES, **named}) as process:
        check = process.check()
    assert passes(check), check
    return check["quality"]["perplexity"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decoder-cpu")


def case_of(operation: Operation, name: str) -> Case:
    return next(case for case in operation.full() if case.name == name)


@pytest.mark.parametrize("macros", CHANGES, ids=str)
def test_the_reference_has_the_cpu_programs_perplexity(macros: dict[str, int], folder: Path) -> None:
    """Over 300 tokens: rounded or pruned in another way anywhere, the text would be less or more likely by more."""
    scored, context = 300, 48
    launch: Any = made(as_knobs(macros), **{"eval-tokens": scored, "context": context})
    reference, text = runs_of(launch)
    total = scored + 65
    start = (len(text) - total) // 2
    losses = reference.losses(text[start : start + total], context)[64:]
    right = cpu_perplexity(macros, folder, eval_tokens=scored, context=context, prompt=8, generate=2, check_tokens=8)
    assert math.exp(losses.mean()) == pytest.approx(right, rel=2e-6 if "KV_BITS" not in macros else 1e-4)


def runs_of(launch: Any) -> tuple[Any, Any]:
    """The reference that an operation's cases are judged by, and its text."""
    return launch.runs.reference, launch.text


@pytest.mark.parametrize(
    ("macros", "others"),
    [
        (CHANGES[3], {"fuse_norm": "product", "FUSE_GEGLU": True, "FUSE_ROPE": True, "GEMV_LANES": 8, "batch": 2}),
        (CHANGES[6], {"fuse_norm": "pair", "PREFILL_ROWS": 16, "GEMV_ROWS": 4}),
    ],
    ids=["fused", "pruned"],
)
def test_the_model_itself_is_executed(
    macros: dict[str, int], others: dict[str, Value], folder: Path, host: HostCheck
) -> None:
    """The GPU's own cases, shortened: logits, the ring, the tokens chosen, and the CPU program's perplexity."""
    short: dict[str, object] = {"eval-tokens": 16, "prompt": 6, "generate": 3, "requests": 2, "check-tokens": 42}
    knobs = point(**as_knobs(macros), context=32, **others)
    operation = made(knobs, **short)
    program = host.program(FOLDER / "decoder.cu", KERNELS, words(knobs, operation), tuple(operation.blocks))
    judged = {case.name: check for case, check in program.judged(operation.full(), 1)}
    assert set(judged) == {"logits", "ring", "scenario", "perplexity"}
    right = cpu_perplexity(macros, folder, context=32, **{k.replace("-", "_"): v for k, v in short.items()})
    assert judged["perplexity"].quality["perplexity"] == pytest.approx(right, rel=1e-3 if "KV_BITS" in macros else 1e-5)


# ---- executed at corners and anywhere

CORNERS: dict[str, dict[str, Value]] = {
    "baseline": {},
    "all fused": {"fuse_norm": "product", "FUSE_GEGLU": True, "FUSE_ROPE": True, "SHARED_PAD": 4, "batch": 8},
    "nothing fused or staged": {"STAGE": False, "fuse_qkv": False, "BATCH_TILE": 8, "batch": 8, "kv_bits": 16},
    "large tiles of 4 bits": {
        "weight_bits": 4, "group_size": 32, "GEMV_ROWS": 8, "UNROLL": 4, "GEMV_LANES": 4, "quantize_embedding": True,
    },
    "two of four": {
        "pruning": "n_m", "weight_bits": 4, "group_size": 32, "GEMV_LANES": 8, "kv_bits": 8, "FUSE_ROPE": True,
    },
    "blocks": {"pruning": "block", "sparsity_pct": 50, "weight_bits": 8, "group_size": 32, "GEMV_ROWS": 2},
    "small loads": {"LOAD_BYTES": 4, "weight_bits": 16, "KV_LOAD_BYTES": 4, "KEY_LANES": 1, "pruning": "magnitude"},
    "threads of a warp": {"ATTENTION_THREADS": 32, "ROW_THREADS": 32, "GEMV_WARPS": 1, "FUSE_ROPE": True, "kv_bits": 8},
}  # fmt: skip


@pytest.mark.parametrize("name", CORNERS)
def test_corners_are_right(name: str, host: HostCheck) -> None:
    errors = executed(host, point(**CORNERS[name]))
    assert set(errors) == {"max_rel_error", "max_rel_error_choice", "max_rel_error_loss"}


@settings(max_examples=5, derandomize=True, deadline=None)
@given(seed=SEEDS)
def test_any_point_is_right(seed: int, host: HostCheck) -> None:
    errors = executed(host, FEASIBLE.sample(Random(seed)))
    assert errors["max_rel_error"] < 4e-3


# ---- wrong kernels are found out

MUTATIONS: list[tuple[str, str, str, dict[str, Value]]] = [
    ("window off by one", "place.position - seen + 1 > 0 ? place.position - seen + 1",
     "place.position - seen > 0 ? place.position - seen", {}),
    ("constant of GELU", "0.797884561f", "0.79f", {}),
    ("gain of the norm", "scale * (1.0f + pre[c])", "scale * pre[c]", {}),
    ("head of keys", "head / (h.heads / h.kv_heads)", "head % h.kv_heads", {}),
    ("rest of a tile", "rows_of<BITS, HOW, 1, GLU>(m, x, out, token + t,",
     "rows_of<BITS, HOW, 1, GLU>(m, x, out, token,", {}),
    ("sequences share keys", "place.sequence) * capacity", "place.sequence / 2 * 2) * capacity", {"batch": 2}),
    ("half of a byte", "& 15u) - 8", "& 15u) - 7", {"weight_bits": 4}),
    ("scale of a group", "group = (chunk + run) / GROUP_SIZE", "group = 0", {"weight_bits": 8, "group_size": 32}),
    ("which of four", "* 2 & 3)", "* 2 & 2)", {"pruning": "n_m"}),
    ("input of a block", "const int column = list[chunk + i];",
     "const int column = chunk + i;", {"pruning": "block", "sparsity_pct": 50}),
    ("no barrier after staging", "  __syncthreads();\n}\n\nstruct Output", "}\n\nstruct Output", {}),
    ("sum left out", "kept[s.row(token + t) + c] = value",
     "kept[s.row(token + t) + c] = x[c]", {"fuse_norm": "product"}),
    ("own key unkept", "keep(k, h.size, lane, write,", "keep(k, h.size, lane, false,", {"FUSE_ROPE": True}),
    ("token beside", "= places[0];", "= places[0] ? places[0] - 1 : 1;", {}),
    ("loss of another token", "row[tokens[at + 1]]", "row[tokens[at]]", {}),
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m[0].replace(" ", "-"))
def test_a_planted_bug_is_found(
    mutation: tuple[str, str, str, dict[str, Value]], host: HostCheck, tmp_path: Path
) -> None:
    _, right, wrong, changes = mutation
    assert right in SOURCE, f"decoder.cu no longer says {right!r}: choose another place"
    mutant = tmp_path / "mutant.cu"
    mutant.write_text(SOURCE.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(TrialError) as caught:
        executed(host, point(**changes), mutant)
    assert caught.value.reason in (Reason.WRONG, Reason.CRASH), caught.value.log


# ---- launched as declared


@settings(max_examples=20, derandomize=True, deadline=None)
@given(seed=SEEDS)
def test_every_point_is_launched_as_it_is_declared(seed: int) -> None:
    knobs = FEASIBLE.sample(Random(seed))
    operation = made(knobs, requests=8, prompt=12, generate=3)
    blocks, work = operation.blocks, operation.scenario()
    assert set(work.phases) == {"prefill", "decode"}
    assert {launch.kernel for launch in work.launches} <= set(blocks)
    for launch in work.launches:
        block = blocks[launch.kernel]
        assert math.prod(launch.block) == block.threads
        assert launch.shared_bytes <= block.shared_bytes
        assert all(1 <= size <= most for size, most in zip(launch.grid, LARGEST_GRID, strict=True))
        assert all(a in work.buffers for a in launch.arguments if isinstance(a, str))
    chosen = [launch for launch in work.phases["decode"] if launch.kernel == "choose"]
    assert len(chosen) == 2 * 8 // int(knobs["batch"])  # the first token belongs to the prompt


def test_the_launches_of_a_step_shrink_as_more_is_fused() -> None:
    def count(**changes: Value) -> int:
        return len(made(point(**changes), requests=1, prompt=1, generate=2).scenario().phases["decode"])

    layers = 4
    fused: dict[str, Value] = {"fuse_norm": "product", "FUSE_GEGLU": True, "FUSE_ROPE": True}
    assert count(**fused) == 1 + 5 * layers + 2  # embedding; five products and attentions a layer; logits and choice
    assert count(fuse_norm="pair") < count() < count(fuse_qkv=False)


def test_readings_agree() -> None:
    batch, requests, prompt, generate = 2, 4, 40, 10
    operation = made(point(batch=batch), requests=requests, prompt=prompt, generate=generate)
    found = operation.readings({"prefill": 0.2, "decode": 0.8})
    assert found["latency_s"] == pytest.approx(0.5)
    assert found["ttft_s"] == pytest.approx(0.1)
    assert found["tokens_per_s"] == pytest.approx(requests * generate / 1.0)
    assert found["throughput_ips"] * found["latency_s"] == pytest.approx(batch)
    assert found["prefill_tokens_per_s"] * found["ttft_s"] == pytest.approx(batch * prompt)


def test_facts_are_the_cpu_programs(folder: Path) -> None:
    macros = {"PRUNING": 2, "WEIGHT_BITS": 4, "GROUP_SIZE": 128}
    with Program(cpu_program(tuple(macros.items()), folder), {**FILES, "eval-tokens": 64}) as process:
        right = process.first["ready"]["facts"]
    assert isinstance(right, dict)
    facts = made(as_knobs(macros)).facts
    for name in ("flop", "parameters", "sparsity_pct"):
        assert facts[name] == pytest.approx(right[name]), name
    dense, small = made(point()).facts, made(point(weight_bits=4, group_size=128)).facts
    assert facts["model_bytes"] < small["model_bytes"] < 0.3 * dense["model_bytes"]
    assert dense["model_bytes"] == 4 * dense["parameters"]
    assert small["bytes_moved"] < 0.5 * dense["bytes_moved"]


def outputs_of(case: Case) -> dict[str, Array]:
    return {name: case.work.buffers[name].copy() for name in case.work.outputs}


def test_a_judge_takes_no_unwritten_output() -> None:
    for case in (*made(point()).small(), *made(point(), **{"eval-tokens": 16, "prompt": 4, "generate": 2}).full()):
        errors = case.judge(outputs_of(case)).errors
        assert set(errors) == set(case.tolerances)
        assert not any(error <= case.tolerances[name] for name, error in errors.items()), case.name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": 3}, "a batch of 3 does not divide 8 requests"),
        ({"batch": 0}, "batch=0 is not a whole number from 1"),
        ({"eval-tokens": 10**6}, "the text has 29960 tokens; this scenario needs"),
        ({"bacth": 2}, "there is no option bacth"),
    ],
    ids=str,
)  # fmt: skip
def test_impossible_options_are_rejected(options: dict[str, object], says: str) -> None:
    with pytest.raises(TrialError, match=says) as caught:
        made({}, **options)
    assert caught.value.reason is Reason.REJECTED


@pytest.mark.parametrize(
    "content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00[]      ", b"\xff" * 64], ids=["none", "array", "rubbish"]
)
def test_a_broken_model_is_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(TrialError) as caught:
        OPERATION({}, {**FILES, "model": path}, {})
    assert caught.value.reason is Reason.REJECTED


def test_a_model_that_ends_too_early_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(FILES["model"].read_bytes()[:-2])
    with pytest.raises(TrialError, match="does not fit its shape or the file"):
        _ = OPERATION({}, {**FILES, "model": path}, {}).facts


def test_large_shared_memory_is_refused_with_its_numbers() -> None:
    with pytest.raises(TrialError, match="bytes of shared memory; a block may have 101376"):
        OPERATION({"eval-tokens": "8", "prompt": "9000", "context": "1000000", "generate": "20900", "requests": "1"},
                  FILES, {"ATTENTION_THREADS": 256})  # fmt: skip


def test_ids_are_read_like_bytes(tmp_path: Path) -> None:
    ids = tmp_path / "text.ids"
    np.frombuffer(FILES["text"].read_bytes(), np.uint8).astype("<i4").tofile(ids)
    as_bytes, as_ids = made(point()).scenario(), OPERATION({}, {**FILES, "text": ids}, point()).scenario()
    assert (as_bytes.buffers["tokens"] == as_ids.buffers["tokens"]).all()
