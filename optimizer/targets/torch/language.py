"""How fast does a language model read a prompt and write what follows, and how well does it know a text?

Speed: `batch` prompts of `prompt_tokens` are read and `generate_tokens` written greedily. The cache of keys and values
is static, of `context_tokens` places, or dynamic: it grows with every token.
Quality: perplexity and top-1 agreement on windows of the standard library's pydoc_data.topics; calibration has other
topics of it. A topic belongs to the test where the hash of its name is even, so the two share no text. Every window
begins with the token that the model's tokenizer begins a text with.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from torch.nn import functional

from optimizer.errors import ConfigError, nearest
from optimizer.space import Json, digest
from optimizer.targets.builds import file_hash
from optimizer.targets.texts import text_of
from optimizer.targets.torch.decoder import Decoder, laid_out
from optimizer.targets.torch.parts import QUANTIZE, Answers, Calls, Carried, Entries, Inputs, Knobs, Reading
from optimizer.targets.torch.plain import max_rel_error
from optimizer.targets.torch.told import SHAPES, SOURCE
from optimizer.targets.torch.weights import Weights, weights_of
from optimizer.trial import Check

CACHE_TYPES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The key-value cache is stored as a cast model computes; else in float32."""
SIZES: Mapping[str, int] = {
    "batch": 1,
    "prompt_tokens": 64,
    "generate_tokens": 16,
    "windows": 6,  # of the test
    "window_tokens": 256,
    "calibration_windows": 4,
    "calibration_tokens": 256,  # as the windows of the test, so that a compiled entry takes them
}
CACHE, DYNAMIC, CONTEXT = "kv_cache", "dynamic", "context_tokens"
WINDOWS = "windows.safetensors"
PARTS: Mapping[str, tuple[str, str]] = {
    "test": ("windows", "window_tokens"), "calibration": ("calibration_windows", "calibration_tokens")
}  # fmt: skip
"""The sizes of the two texts: how many windows, of how many tokens."""
CUT = 2  # how windows are cut: raised where another cut follows from the same text
FORCED = 4  # tokens after a prompt whose logits are compared, so that the cache is verified too


@dataclass(frozen=True)
class LanguageTask:
    weights: Weights
    sizes: Mapping[str, int]
    attention: str
    cache_type: torch.dtype  # of keys and values; float32 for the reference
    context: int  # places of a static cache; 0: it is dynamic
    device: str
    texts: Path  # where the tokens of the windows are kept
    windows_file: Path | None = None  # where they were cut before, by another version of the texts perhaps

    def content(self) -> str:
        sources = [file_hash(Path(__file__)), file_hash(Path(__file__).with_name("decoder.py"))]
        asked = {name: size for name, size in self.sizes.items() if name != "calibration_windows"}
        return digest([self.weights.key, asked, _text_hash(), sources])

    def load(self) -> nn.Module:
        module = Decoder(self.weights.model(self.attention), grows=not self.context)
        return module.eval().requires_grad_(requires_grad=False)

    def entries(self) -> Entries:
        prompt = self.sizes["prompt_tokens"]
        token = laid_out(self._prompt[:, :1])
        return {
            "score": self._scored(self._windows["test"][:1]),
            "prefill": (self._prompt, self._positions(0, prompt), *self._empty(self.context)),
            "decode": (token, self._positions(prompt, 1), *self._empty(self.context or prompt)),
        }

    def calibration(self) -> Sequence[Inputs]:
        length = self.sizes["calibration_tokens"]
        return [(row[None, :length].contiguous(), torch.arange(length)) for row in self._windows["calibration"]]

    def scenario(self, calls: Calls) -> Reading:
        batch, prompt, count = (self.sizes[n] for n in ("batch", "prompt_tokens", "generate_tokens"))
        start = time.perf_counter()
        logits, *cache = calls["prefill"](self._prompt, self._positions(0, prompt), *self._empty(self.context))
        token = logits.argmax(-1, keepdim=True)
        self._wait()
        first_s = time.perf_counter() - start
        for step in range(count - 1):
            logits, *cache = calls["decode"](token, self._positions(prompt + step, 1), *cache)
            token = logits.argmax(-1, keepdim=True)
        self._wait()
        total_s = time.perf_counter() - start
        metrics = {
            "ttft_s": first_s,
            "prefill_tokens_per_s": batch * prompt / first_s,
            "tokens_per_s": batch * count / total_s,
        }
        if count > 1:
            metrics["decode_s"] = total_s - first_s
        return Reading(inferences=float(batch), metrics=metrics)

    def answers(self, calls: Calls) -> Answers:
        losses, firsts, lasts = [], [], []
        for row in self._windows["test"].unsqueeze(1):
            tokens, positions = self._scored(row)
            out = calls["score"](tokens, positions)
            logits = (out if isinstance(out, Tensor) else out[0])[0].float()
            losses.append(functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none").cpu())
            firsts.append(logits[:-1].argmax(-1).cpu())
            lasts.append(logits[-1].cpu())
        return {
            "nll": torch.stack(losses),  # (windows, window_tokens - 1)
            "first": torch.stack(firsts),
            "logits": torch.stack([*lasts, *self._continued(calls)]),  # of each window's end, then after the prompt
        }

    def carried(self) -> Carried:
        files = {**self.weights.shapes(), WINDOWS: save(dict(self._windows))}
        options: dict[str, Json] = {"windows_file": f"{SOURCE}/{WINDOWS}", "attention": self.attention}
        if self.weights.folder is not None:
            options["weights"] = f"{SHAPES}{SOURCE}"
        return Carried(options, files)

    def judge(self, answers: Answers, reference: Answers) -> Check:
        """Of a drawn model nothing is told but agreement: it knows no text, so it can lose no quality."""
        agreement = 100.0 * float((answers["first"] == reference["first"]).double().mean())
        quality = {"top1_agreement_pct": agreement}
        if self.weights.trained:
            mine, before = (math.exp(min(700.0, float(a["nll"].double().mean()))) for a in (answers, reference))
            quality |= {"perplexity": mine, "quality_loss_pct": 100.0 * (mine / before - 1.0)}
        error = max_rel_error(answers["logits"], reference["logits"])
        return Check({"max_rel_error": error}, quality)

    def _continued(self, calls: Calls) -> list[Tensor]:
        """Logits after a prompt and after a few given tokens, of the first of the batch."""
        prompt, row = self.sizes["prompt_tokens"], self._windows["test"][0]
        batch = self.sizes["batch"]
        logits, *cache = calls["prefill"](self._prompt, self._positions(0, prompt), *self._empty(self.context))
        found = [logits[0].float().cpu()]
        for step in range(min(FORCED, self.sizes["generate_tokens"] - 1)):
            token = laid_out(row[step].to(self.device).expand(batch, 1))
            logits, *cache = calls["decode"](token, self._positions(prompt + step, 1), *cache)
            found.append(logits[0].float().cpu())
        return found

    @cached_property
    def _windows(self) -> Mapping[str, Tensor]:
        """Tokens of the texts, test (windows, window_tokens) and calibration; tokenised once."""
        if self.windows_file is not None:
            return load_file(self.windows_file)
        path = self.texts / f"{digest([CUT, self.weights.key, dict(self.sizes), _text_hash()])}.safetensors"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            found = {
                part: torch.tensor(ids_of(self.weights, part, self.sizes)).view(self.sizes[windows], -1)
                for part, (windows, _) in PARTS.items()
            }
            aside = path.with_suffix(f".{time.time_ns()}")
            save_file(found, aside)
            aside.replace(path)
        return load_file(path)

    @cached_property
    def _prompt(self) -> Tensor:
        """(batch, prompt_tokens), of the calibration's text: what is timed is not what is judged."""
        flat, count = self._windows["calibration"].flatten(), self.sizes["batch"] * self.sizes["prompt_tokens"]
        return flat.repeat(-(-count // len(flat)))[:count].view(self.sizes["batch"], -1).contiguous().to(self.device)

    def _scored(self, row: Tensor) -> tuple[Tensor, Tensor]:
        return row.to(self.device), self._positions(0, self.sizes["window_tokens"])

    def _positions(self, start: int, count: int) -> Tensor:
        return torch.arange(start, start + count, device=self.device)

    def _empty(self, places: int) -> tuple[Tensor, ...]:
        config = self._config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (self.sizes["batch"], config.num_key_value_heads, places, width)
        return tuple(
            torch.zeros(shape, dtype=self.cache_type, device=self.device) for _ in range(2 * config.num_hidden_layers)
        )

    @cached_property
    def _config(self) -> Any:
        return self.weights.config()

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


def language_task(options: Mapping[str, Json], knobs: Knobs, device: str, cache: Path) -> LanguageTask:
    """options: `weights` (weights.py), `size` for drawn ones, SIZES, `windows_file` for tokens cut before; those that
    are knobs of conf/space/torch_language.yaml too are overridden by the point. Raises ConfigError."""
    known = {"weights", "size", "attention", "windows_file", CONTEXT, CACHE, *SIZES}
    for name in options:
        if name not in known:
            raise ConfigError(f"A language model has no option '{name}'.{nearest(name, known)}")
    sizes = {name: int(knobs.get(name, options.get(name, size))) for name, size in SIZES.items()}
    if small := [name for name, size in sizes.items() if size < (2 if name.endswith("_tokens") else 1)]:
        raise ConfigError(f"{', '.join(small)}: at least 2 tokens and 1 of all else.")
    attention = str(knobs.get("attention", options.get("attention", "sdpa")))
    if attention not in ("sdpa", "eager"):
        raise ConfigError(f"attention={attention} is not known; it is sdpa or eager.")
    return LanguageTask(
        weights=weights_of(str(options.get("weights", "")), str(options.get("size", "")), cache),
        sizes=sizes,
        attention=attention,
        cache_type=CACHE_TYPES.get(str(knobs.get(QUANTIZE, "none")), torch.float32),
        context=_context({**options, **knobs}, sizes["prompt_tokens"] + sizes["generate_tokens"]),
        device=device,
        texts=cache / "texts",
        windows_file=Path(str(options["windows_file"])) if options.get("windows_file") else None,
    )


def _context(asked: Mapping[str, Json], least: int) -> int:
    """Places of the static cache, 0 for a dynamic one. Raises ConfigError."""
    if (kind := str(asked.get(CACHE, "static"))) not in ("static", DYNAMIC):
        raise ConfigError(f"{CACHE}={kind} is not known; it is static or {DYNAMIC}.")
    if kind == DYNAMIC:
        return 0
    if 0 < (places := int(asked.get(CONTEXT, 0))) < least:
        raise ConfigError(f"{CONTEXT}={places} does not hold prompt and answer: at least {least}, or 0 for just that.")
    return places or least


def _text_hash() -> str:
    return digest([text_of("test"), text_of("calibration")])


def ids_of(weights: Weights, part: str, sizes: Mapping[str, int]) -> list[int]:
    """The tokens of a part's windows, which follow each other from the beginning of the text; each begins as a text
    does. Raises ConfigError."""
    count, length = (sizes[name] for name in PARTS[part])
    ids = weights.tokens(text_of(part)[: 12 * count * length])  # no tokenizer makes tokens of 12 characters on average
    beginning = weights.beginning()
    own = length - len(beginning)
    if len(ids) < count * own:
        raise ConfigError(f"{count} windows of {length} tokens are more than the {part} text has.")
    return [token for i in range(count) for token in (*beginning, *ids[i * own : (i + 1) * own])]
