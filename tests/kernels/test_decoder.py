"""The decoder: equal to PyTorch, equal to its reference at every corner of its knobs, and caught when it is wrong."""

import json
import struct
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import script
from kernels.programs import COMPILERS, KERNELS, Program, build, passes
from torch.nn.functional import cross_entropy

SUPPORT = ("harness.cpp", "safetensors.cpp", "decoder/reference.cpp", "decoder/rounding.cpp")
MODEL = KERNELS / "decoder" / "model" / "model.safetensors"
TEXT = KERNELS / "decoder" / "model" / "heldout.txt"
SOURCE = (KERNELS / "decoder" / "decoder.cpp").read_text()
QUICK: dict[str, object] = {"eval-tokens": 64}  # where a test does not look at the perplexity
SINGLE = 2e-5  # float32 against float64 or PyTorch, relative to the largest logit; measured 1e-6 at most


architecture: Any = script(KERNELS.parent / "experiments" / "decoder" / "model.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decoder")


@pytest.fixture(scope="module")
def compiled(folder: Path) -> Callable[..., Path]:
    """compiled(flags, compiler, source, **macros): each program is built once."""

    @cache
    def made(flags: tuple[str, ...], compiler: str, source: str | Path, macros: tuple[tuple[str, int], ...]) -> Path:
        return build(source, folder, dict(macros), flags, SUPPORT, compiler)

    def get(
        flags: tuple[str, ...] = ("-O1",),
        compiler: str = COMPILERS[0],
        source: str | Path = "decoder/decoder.cpp",
        **macros: int,
    ) -> Path:
        # clang warns of every loop marked for vectors that it leaves alone; which loops it takes is its choice
        choice = ("-Wno-pass-failed",) if compiler == "clang++" else ()
        return made((*flags, *choice), compiler, source, tuple(macros.items()))

    return get


@pytest.fixture(scope="module")
def odd(folder: Path) -> Path:
    """An untrained model whose sizes divide by nothing that knobs like, with several key-value heads."""
    torch.manual_seed(0)
    config = architecture.Config(
        hidden_size=100, intermediate_size=204, num_hidden_layers=5, num_attention_heads=6, num_key_value_heads=3,
        head_dim=22, sliding_window=17, sliding_window_pattern=3, query_pre_attn_scalar=40.0,
    )  # fmt: skip
    model = architecture.Decoder(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() == 1 else parameter.shape[1] ** -0.5)
    path = folder / "odd.safetensors"
    architecture.save(model, path)
    return path


def opened(program: Path, options: Mapping[str, object] | None = None, model: Path = MODEL) -> Program:
    return Program(program, {"model": model, "text": TEXT, **(options or {})})


def check_of(program: Path, options: Mapping[str, object], model: Path = MODEL) -> dict[str, dict[str, float]]:
    with opened(program, {**QUICK, **options}, model) as process:
        assert "ready" in process.first, process.first
        return process.check()


def byte_tokens(begin: int, end: int) -> torch.Tensor:
    return torch.tensor(list(TEXT.read_bytes()[begin:end]))[None]


# ---- the same as PyTorch


@pytest.mark.parametrize("which", ["trained", "odd"])
def test_logits_equal_pytorch(which: str, odd: Path, folder: Path, compiled: Callable[..., Path]) -> None:
    model, length, dump = MODEL if which == "trained" else odd, 200, folder / f"{which}.logits"
    with opened(compiled(), {"dump-logits": dump, "check-tokens": length, "context": 256}, model) as process:
        assert "ready" in process.first
    found = np.fromfile(dump, np.float32).reshape(length, -1)
    with torch.no_grad():
        right = architecture.load(model)(byte_tokens(0, length))[0].numpy()
    assert np.abs(found - right).max() / np.abs(right).max() < SINGLE


def test_perplexity_equals_pytorch(compiled: Callable[..., Path]) -> None:
    """The program scores `eval-tokens` tokens of the middle of the text after a lead-in of 64."""
    scored, lead_in = 900, 64
    check = check_of(compiled(("-O2",)), {"eval-tokens": scored, "context": 1024})  # so that all of it is seen
    begin = (len(TEXT.read_bytes()) - (scored + lead_in + 1)) // 2
    tokens = byte_tokens(begin, begin + scored + lead_in + 1)
    with torch.no_grad():
        logits = architecture.load(MODEL)(tokens[:, :-1])[0, lead_in:]
    right = cross_entropy(logits, tokens[0, lead_in + 1 :]).exp().item()
    assert check["quality"]["perplexity"] == pytest.approx(right, rel=1e-5)


# ---- the same as the reference, whatever the knobs

FAST = ("-Ofast", "-march=native")
CORNERS: list[tuple[tuple[str, ...], dict[str, int], dict[str, object]]] = [
    (("-O3",), {}, {"batch": 8, "threads": 2}),
    (FAST, {"VECTOR_WIDTH": 32, "BATCH_TILE": 8}, {"batch": 8}),
    (("-O2", "-fno-openmp"), {"WEIGHT_BITS": 16, "KV_BITS": 16}, {"batch": 2, "context": 32}),
    (FAST, {"WEIGHT_BITS": 8, "GROUP_SIZE": 32, "UNROLL": 4}, {"batch": 4, "threads": 2}),
    (("-O2", "-flto"), {"WEIGHT_BITS": 8, "QUANTIZE_EMBEDDING": 1, "KV_BITS": 8}, {"context": 64}),
    (("-O1",), {"WEIGHT_BITS": 4, "GROUP_SIZE": 128, "VECTOR_WIDTH": 16}, {"batch": 8}),
    (FAST, {"WEIGHT_BITS": 4, "QUANTIZE_EMBEDDING": 1, "KV_BITS": 16}, {"context": 16}),
    (("-O1",), {"PRUNING": 1, "SPARSITY_PCT": 30, "PREFILL_ROWS": 8}, {"batch": 4}),
    (("-O1",), {"PRUNING": 2, "BATCH_TILE": 1}, {"batch": 2, "context": 64}),
    (FAST, {"PRUNING": 2, "WEIGHT_BITS": 4, "GROUP_SIZE": 32}, {"batch": 8}),
    (("-O1",), {"PRUNING": 3, "SPARSITY_PCT": 50, "VECTOR_WIDTH": 16}, {"batch": 8}),
    (FAST, {"PRUNING": 3, "SPARSITY_PCT": 20, "WEIGHT_BITS": 4, "PREFILL_ROWS": 64}, {"batch": 2}),
    (("-O1",), {"PRUNING": 3, "SPARSITY_PCT": 10, "WEIGHT_BITS": 8, "KV_BITS": 8}, {"batch": 8}),
]


# The first compiler takes every corner, another one every third: only its liberties differ.
PAIRS = [(c, i) for n, c in enumerate(COMPILERS) for i in range(0, len(CORNERS), 3 if n else 1)]


@pytest.mark.parametrize(("compiler", "corner"), PAIRS)
def test_corners_equal_the_reference(compiler: str, corner: int, odd: Path, compiled: Callable[..., Path]) -> None:
    flags, macros, options = CORNERS[corner]
    program = compiled(flags, compiler, **macros)
    for model in (MODEL, odd):
        check = check_of(program, options, model)
        assert passes(check), (model.name, check)


def test_ring_of_the_cache_wraps(compiled: Callable[..., Path]) -> None:
    """Tokens beyond the context overwrite the oldest ones, again and again."""
    check = check_of(compiled(), {"context": 24, "check-tokens": 150, "prompt": 20, "generate": 100})
    assert passes(check), check


# ---- wrong programs are found out

MUTATIONS: list[tuple[str, str, str, dict[str, int], dict[str, object]]] = [
    ("base of the rotation", "turns(c_.local_base, ", "turns(c_.local_base * 1.1, ", {}, {}),
    ("window off by one", "std::min(context_, c_.window)", "std::min(context_, c_.window + 1)", {}, {}),
    ("itself not seen", "t.position - first + 1;", "t.position - first;", {}, {}),
    ("constant of GELU", "0.797884561f", "0.79f", {}, {}),
    ("gain of the norm", "(1.0f + weight[i])", "weight[i]", {}, {}),
    ("scale of queries", "(c_.query_scalar)", "(c_.query_scalar + 1)", {}, {}),
    ("head of keys", "task % c_.heads / (c_.heads / c_.kv_heads)", "task % c_.kv_heads", {}, {}),
    ("length of the ring", "position % capacity_", "position % (capacity_ - PREFILL_ROWS)", {}, {}),
    ("sequences share keys", "+ sequence) * capacity_", "+ sequence / 2 * 2) * capacity_", {}, {"batch": 8}),
    ("one sequence is another", "+ sequence) * cap", "+ (sequence == 3 ? 2 : sequence)) * cap", {}, {"batch": 8}),
    ("scale of a group", "(panel * groups_ + g) * VECTOR_W", "panel * groups_ * VECTOR_W", {"WEIGHT_BITS": 8}, {}),
    ("half of a byte", "(from[lane] >> 4) - 8", "(from[lane] >> 4) - 7", {"WEIGHT_BITS": 4}, {}),
    ("which of four", "four[within[lane]]", "four[within[lane] ^ 1]", {"PRUNING": 2}, {}),
    ("input of a block", "? inputs_[slot] : dense", "? slot % cols_ : dense", {"PRUNING": 3, "SPARSITY_PCT": 30}, {}),
    ("scale of keys", "scales_[at] = scale;", "scales_[at] = scale * 1.0003f;", {"KV_BITS": 8}, {}),
    ("rounding of keys", "std::nearbyint(x[i] * inverse)", "std::floor(x[i] * inverse)", {"KV_BITS": 8}, {}),
    ("scale of scores", "sum *= scales_[at];", "sum *= scales_[at] * 1.0003f;", {"KV_BITS": 8}, {}),
    ("step of a value", "unit * static_cast<float>(v[i]);", "unit * static_cast<float>(v[i] + (i == 3));",
     {"KV_BITS": 8}, {"batch": 4}),
    ("halves of keys", "decoder::to_bf16(x[i]);", "decoder::to_bf16(x[i] * 1.0005f);", {"KV_BITS": 16}, {}),
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m[0].replace(" ", "-"))
def test_a_planted_bug_is_found(
    mutation: tuple[str, str, str, dict[str, int], dict[str, object]],
    folder: Path,
    odd: Path,
    compiled: Callable[..., Path],
) -> None:
    name, right, wrong, macros, options = mutation
    assert right in SOURCE, f"the decoder no longer says {right!r}: choose another place"
    mutant = folder / f"{name.replace(' ', '_')}.cpp"
    mutant.write_text(SOURCE.replace(right, wrong, 1))
    model = odd if name == "head of keys" else MODEL  # the trained model has one head of keys
    assert not passes(check_of(compiled(source=mutant, **macros), options, model))


@pytest.mark.parametrize("flags", [("-O2",), ("-Ofast",), FAST], ids=" ".join)
def test_not_a_number_never_passes(flags: tuple[str, ...], folder: Path, compiled: Callable[..., Path]) -> None:
    """Written as bits: under -ffast-math a compiler may take it that there are no NaNs, in the check too."""
    place = "static_cast<long>(picked.size()), threads_);"
    assert SOURCE.count(place) == 1
    spoil = " const int nan = 0x7fc00000; for (long i = 0; i < c_.vocab; ++i) __builtin_memcpy(&out[i], &nan, 4);"
    mutant = folder / "nan.cpp"
    mutant.write_text(SOURCE.replace(place, place + spoil))
    assert not passes(check_of(compiled(flags, source=mutant), {}))


@pytest.mark.parametrize("flags", [("-O2",), FAST], ids=" ".join)
def test_large_activations_stay_finite(flags: tuple[str, ...], folder: Path, compiled: Callable[..., Path]) -> None:
    """GELU far below zero is zero, not infinity divided by an approximate reciprocal of it."""
    torch.manual_seed(0)
    model = architecture.Decoder(architecture.Config(num_hidden_layers=2))
    for layer in model.layers:
        torch.nn.init.normal_(layer.mlp.gate_proj.weight, std=10.0)
    path = folder / "large.safetensors"
    architecture.save(model, path)
    check = check_of(compiled(flags), {}, path)
    assert passes(check), check


# ---- files that are no model


def _header_and_data() -> tuple[dict[str, Any], bytes]:
    whole = MODEL.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def _packed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + _header_and_data()[1]


def _edited(tensor: str, field: str, value: object) -> bytes:
    header = _header_and_data()[0]
    header[tensor][field] = value
    return _packed(json.dumps(header).encode())


QUERY, EMBEDDING = "model.layers.{}.self_attn.q_proj.weight", "model.embed_tokens.weight"


def _broken() -> dict[str, bytes]:
    whole, (header, _) = MODEL.read_bytes(), _header_and_data()
    text = json.dumps(header).encode()
    return {
        "empty": b"",
        "seven bytes": whole[:7],
        "ends in the header": whole[:100],
        "ends in the data": whole[:-2],
        "header of 2^63 bytes": struct.pack("<Q", 1 << 63) + whole[8:],
        "header of all bytes": struct.pack("<Q", len(whole) - 8) + whole[8:],
        "garbage": _packed(b"\x00\xff{{{"),
        "nested without end": _packed(b'{"a":' * 50_000),
        "an array": _packed(b"[]"),
        "an unknown escape": _packed(b'{"\\q": 1}'),
        "text after it": _packed(text + b"x"),
        "a name twice": _packed(text[:-1] + b', "a": {}, "a": {}}'),
        "integers": _edited(EMBEDDING, "dtype", "I64"),
        "another type": _edited(EMBEDDING, "dtype", "F32"),
        "offsets beyond the end": _edited(EMBEDDING, "data_offsets", [10**12, 10**12 + 65536]),
        "offsets that overlap": _edited(QUERY.format(1), "data_offsets", header[QUERY.format(0)]["data_offsets"]),
        "offsets backwards": _edited(EMBEDDING, "data_offsets", header[EMBEDDING]["data_offsets"][::-1]),
        "negative offsets": _edited(EMBEDDING, "data_offsets", [-65536, 0]),
        "one offset": _edited(EMBEDDING, "data_offsets", [0]),
        "an endless shape": _edited(EMBEDDING, "shape", [2**62, 2**62]),
        "half a row": _edited(EMBEDDING, "shape", [256.5, 128]),
        "rows for columns": _edited(EMBEDDING, "shape", [128, 256]),
        "no metadata": _packed(json.dumps({k: v for k, v in header.items() if k != "__metadata__"}).encode()),
        "no queries": _packed(json.dumps({k: v for k, v in header.items() if k != QUERY.format(0)}).encode()),
        "no size": _edited("__metadata__", "hidden_size", "many"),
        "too many layers": _edited("__metadata__", "num_hidden_layers", "5"),
        "heads that don't divide": _edited("__metadata__", "num_key_value_heads", "3"),
        "an infinite epsilon": _edited("__metadata__", "rms_norm_eps", "inf"),
    }


@pytest.mark.parametrize("name", _broken())
def test_a_broken_model_is_rejected(name: str, tmp_path: Path, compiled: Callable[..., Path]) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(_broken()[name])
    with opened(compiled(), model=path) as process:
        assert process.first["error"]["reason"] == "rejected"


@pytest.mark.parametrize(
    "options",
    [
        {"model": "/none"},
        {"text": "/none"},
        {"batch": 3},
        {"batch": 0},
        {"context": 0},
        {"eval-tokens": 10**7},
        {"bacth": 2},
    ],
    ids=str,
)
def test_impossible_options_are_rejected(options: dict[str, object], compiled: Callable[..., Path]) -> None:
    with Program(compiled(), {"model": MODEL, "text": TEXT, **options}) as process:
        assert process.first["error"]["reason"] == "rejected"


# ---- no undefined behaviour

CLEAN = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.parametrize(
    "macros",
    [
        {"WEIGHT_BITS": 4, "PRUNING": 2, "KV_BITS": 16},
        {"WEIGHT_BITS": 4, "PRUNING": 3, "SPARSITY_PCT": 30, "KV_BITS": 8},
    ],
    ids=str,
)
def test_sanitizers_find_nothing(macros: dict[str, int], odd: Path, compiled: Callable[..., Path]) -> None:
    program = compiled(CLEAN, **macros)
    for model in (MODEL, odd):
        words = {"model": model, "text": TEXT, "batch": 4, "context": 40, "generate": 60, "threads": 2, **QUICK}
        done = subprocess.run(
            [str(program), *(f"--{k}={v}" for k, v in words.items())],
            input="verify\nrun 1\nquit\n", capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


# ---- what it says about itself


def test_facts_and_metrics_agree(compiled: Callable[..., Path]) -> None:
    batch, requests, prompt, generate = 2, 4, 40, 10
    options = {"batch": batch, "requests": requests, "prompt": prompt, "generate": generate}
    with opened(compiled(), {**QUICK, **options}) as process:
        facts, samples = process.first["ready"]["facts"], process.samples(3)
    assert isinstance(facts, dict)
    assert {"flop", "model_bytes", "parameters", "sparsity_pct"} <= set(facts)
    header, _ = _header_and_data()
    matrices = [entry["shape"] for name, entry in header.items() if name != "__metadata__" and len(entry["shape"]) == 2]
    assert facts["parameters"] == sum(rows * columns for rows, columns in matrices)
    assert facts["model_bytes"] >= 4 * facts["parameters"]
    assert facts["sparsity_pct"] == 0
    for i in range(3):
        seconds = samples["latency_s"][i] * requests / batch
        assert samples["tokens_per_s"][i] * seconds == pytest.approx(requests * generate, rel=0.1)
        assert samples["throughput_ips"][i] * samples["latency_s"][i] == pytest.approx(batch, rel=1e-6)
        assert samples["prefill_tokens_per_s"][i] * samples["ttft_s"][i] == pytest.approx(batch * prompt, rel=1e-6)
        assert samples["ttft_s"][i] < samples["latency_s"][i]


def test_fewer_bits_and_weights_are_fewer_bytes(compiled: Callable[..., Path]) -> None:
    def facts(**macros: int) -> dict[str, float]:
        with opened(compiled(**macros), QUICK) as process:
            found = process.first["ready"]["facts"]
        assert isinstance(found, dict)
        return found

    full, small = facts(), facts(WEIGHT_BITS=4, GROUP_SIZE=128, VECTOR_WIDTH=16)
    halved, blocks = facts(PRUNING=2, BATCH_TILE=1), facts(PRUNING=3, SPARSITY_PCT=50, VECTOR_WIDTH=16)
    assert small["model_bytes"] < 0.3 * full["model_bytes"]  # the embedding stays in float32
    assert halved["sparsity_pct"] == blocks["sparsity_pct"] == 50
    assert halved["flop"] == blocks["flop"] < full["flop"]
    assert blocks["model_bytes"] < 0.7 * full["model_bytes"]


def test_perplexity_orders_the_roundings(compiled: Callable[..., Path]) -> None:
    def perplexity(**macros: int) -> float:
        return check_of(compiled(FAST, **macros), {"eval-tokens": 4096})["quality"]["perplexity"]

    full = perplexity(VECTOR_WIDTH=32, BATCH_TILE=8)
    assert perplexity(WEIGHT_BITS=8, GROUP_SIZE=32, UNROLL=4) < 1.005 * full
    assert perplexity(WEIGHT_BITS=4, QUANTIZE_EMBEDDING=1, KV_BITS=16) < 1.2 * full
