"""Real language models in the CUDA decoder: a Gemma3 saved by transformers, converted, executed on the processor, has
transformers' logits; a term or a number of its header that is wrong shows."""

import math
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemmas import converted, drawn, ids_of
from kernels.programs import KERNELS

from optimizer.space import Value
from optimizer.targets.cuda.host import HostCheck, HostProgram
from optimizer.targets.cuda.operation import load_operation
from optimizer.targets.cuda.plan import Work
from optimizer.targets.torch.decoder_file import DecoderFiles
from optimizer.trial import TrialError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="needs the extra models")
pytestmark = pytest.mark.extra

FOLDER = KERNELS / "decoder"
SOURCE = (FOLDER / "decoder.cu").read_text(encoding="utf-8")
OPERATION: Any = load_operation(FOLDER / "launch.py")
SINGLE = 2e-5  # float32 against float32, relative to the largest logit
PROMPT, STEPS = 14, 4  # over twice the sliding window
CASES: Any = import_module(OPERATION.__module__.replace(".launch", ".cases"))
LENGTH = CASES.Length(PROMPT, STEPS, 32, 8)
SIZES: dict[str, Any] = {  # four layers, of which the third is global; queries share keys in pairs; little divides
    "hidden_size": 72, "intermediate_size": 100, "num_hidden_layers": 4, "num_key_value_heads": 2, "sliding_window": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                        "full_attention": {"rope_type": "default", "rope_theta": 700.0}},
}  # fmt: skip
FUSED: dict[str, Value] = {"fuse_norm": "product", "FUSE_GEGLU": True, "FUSE_ROPE": True, "GEMV_LANES": 8}
MACROS = {"product": 2, "pair": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gemma-cuda")


@pytest.fixture(scope="module")
def gemma(place: Path) -> tuple[Any, DecoderFiles]:
    model = drawn(place / "gemma", **SIZES)
    return model, converted(place / "gemma", place / "cache")


@pytest.fixture(scope="module")
def right(gemma: tuple[Any, DecoderFiles]) -> Any:
    """transformers' logits (1 + STEPS, 1, vocab) after the prompt and after each token more."""
    model, files = gemma
    found = model(ids_of(files)[None, : PROMPT + STEPS]).logits[0].numpy()
    return found[PROMPT - 1 :, None]


def made(files: DecoderFiles, knobs: Mapping[str, Value], **options: object) -> Any:
    said = {**files.options(), "context": 32, "prompt": 4, "generate": 2, "requests": 2, "check-tokens": 12, **options}
    return OPERATION({k: str(v) for k, v in said.items()}, {"model": files.model, "text": files.text}, knobs)


def words(knobs: Mapping[str, Value], operation: Any) -> tuple[str, ...]:
    named = {name.upper(): MACROS.get(str(value), value) for name, value in knobs.items() if name != "batch"}
    return tuple(f"-D{name}={int(value)}" for name, value in {**named, **operation.macros}.items())


def program_of(place: Path, operation: Any, knobs: Mapping[str, Value], source: Path) -> HostProgram:
    host = HostCheck.found(place / "programs", 120.0)
    return host.program(source, KERNELS, words(knobs, operation), tuple(operation.blocks))


def work_of(operation: Any, files: DecoderFiles) -> Work:
    """The launches that take the text's first tokens through the model, a few as a prompt and the others one by one."""
    ids = np.fromfile(files.text, "<i4")[None, : PROMPT + STEPS].astype(np.int32)
    work: Work = operation.runs.logits("transformers", ids, LENGTH, "max_rel_error", SINGLE).work
    return work


def error(place: Path, operation: Any, files: DecoderFiles, right: Any, **how: Any) -> float:
    """Of the program's logits against transformers', relative to the largest."""
    knobs = how.get("knobs", {})
    program = program_of(place, operation, knobs, how.get("source", FOLDER / "decoder.cu"))
    found = program.run(work_of(operation, files), 1)["logits"][:, : right.shape[2]].reshape(right.shape)
    return float(np.abs(found - right).max() / np.abs(right).max())


@pytest.mark.parametrize("knobs", [{}, FUSED], ids=["baseline", "fused"])
def test_logits_are_transformers(
    knobs: dict[str, Value], gemma: tuple[Any, DecoderFiles], right: Any, place: Path
) -> None:
    _, files = gemma
    assert error(place, made(files, knobs), files, right, knobs=knobs) < SINGLE


TERMS = {
    "gain of a norm": ("scale * (1.0f + pre[c])", "scale * pre[c]"),
    "gain of a sum's norm": ("scale * (1.0f + post[c])", "scale * post[c]"),
    "GELU": ("0.044715f * z * z * z", "0.0447f * z * z"),
    "head of keys": ("head / (h.heads / h.kv_heads)", "head % h.kv_heads"),
    "window": ("place.position - seen + 1 > 0 ? place.position - seen + 1",
               "place.position - seen + 2 > 0 ? place.position - seen + 2"),
    "scale of the embedding": ("weight * scale * factor", "weight * scale"),
}  # fmt: skip


@pytest.mark.parametrize("name", TERMS)
def test_a_wrong_term_shows(
    name: str, gemma: tuple[Any, DecoderFiles], right: Any, place: Path, tmp_path: Path
) -> None:
    said, wrong = TERMS[name]
    assert said in SOURCE, f"decoder.cu no longer says {said!r}: choose another place"
    mutant = tmp_path / "mutant.cu"
    mutant.write_text(SOURCE.replace(said, wrong, 1), encoding="utf-8")
    _, files = gemma
    assert error(place, made(files, {}), files, right, source=mutant) > 10 * SINGLE


NUMBERS: dict[str, dict[str, float]] = {
    "every layer local": {"pattern": 5},
    "other window": {"window": 7},
    "other local base": {"local_base": 60.0},
    "other global base": {"global_base": 800.0},
    "other scale of scores": {"query_scalar": 16.0},
    "other epsilon": {"eps": 1e-2},
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_wrong_number_of_the_header_shows(
    name: str, gemma: tuple[Any, DecoderFiles], right: Any, place: Path
) -> None:
    _, files = gemma
    operation = made(files, {})
    model = operation.runs.model
    wrong = replace(model, config=replace(model.config, **NUMBERS[name]))
    operation.__dict__["runs"] = replace(operation.runs, model=wrong)
    assert error(place, operation, files, right) > 10 * SINGLE


def test_the_windows_of_the_torch_targets_are_judged(gemma: tuple[Any, DecoderFiles], place: Path) -> None:
    """And a search's own check passes: shorter windows, so that fibres are done in seconds."""
    model, files = gemma
    windows, size = 2, 10
    operation = made(files, FUSED, **{"eval-windows": windows, "window-tokens": size})
    program = program_of(place, operation, FUSED, FOLDER / "decoder.cu")
    judged = {case.name: check for case, check in program.judged(operation.full(), 1)}
    assert set(judged) == {"logits", "ring", "scenario", "perplexity"}
    ids = ids_of(files)[: windows * size].view(windows, size)
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).item()
    assert judged["perplexity"].quality["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_requests_begin_after_the_windows(gemma: tuple[Any, DecoderFiles]) -> None:
    _, files = gemma
    operation = made(files, {}, **{"eval-windows": 2, "window-tokens": 10})
    prompts = operation.scenario().buffers["tokens"][:, :4]
    ids = np.fromfile(files.text, "<i4")
    assert (prompts[0] == ids[20:24]).all()


def test_a_text_without_room_for_requests_is_refused(gemma: tuple[Any, DecoderFiles]) -> None:
    _, files = gemma
    with pytest.raises(TrialError, match=r"the text has \d+ tokens; this scenario needs"):
        made(files, {}, **{"eval-windows": 1 << 20})
