"""How fast does llama.cpp read a prompt and write what follows, and how well does it know a text?

A process of its own that speaks the harness's protocol (kernels/harness.h), so that a crash costs one trial. It is told
what to do by one argument, a JSON document: model, knobs, work, reference. Every answer has the same length: the
likeliest token is taken each time, and the end of text ends nothing.
"""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from optimizer.targets.texts import text_of

Array = np.ndarray[Any, np.dtype[Any]]


WARNING, ERROR = 3, 4  # of ggml's levels; it tells hundreds of lines of the others for each context


def _told(level: int, text: bytes, data: Any) -> None:
    if level in (WARNING, ERROR):
        sys.stderr.write(text.decode(errors="replace"))
        sys.stderr.flush()


_log = lib.llama_log_callback(_told)  # kept: llama.cpp calls it as long as it runs


class Model:
    """Loaded, with a context as the knobs want it."""

    def __init__(self, asked: dict[str, Any]) -> None:
        knobs, work = asked["knobs"], asked["work"]
        wanted = lib.llama_model_default_params()
        wanted.use_extra_bufts = knobs.get("repack", False)
        wanted.n_gpu_layers = knobs.get("n_gpu_layers", 0)
        lib.llama_log_set(_log, None)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(asked["model"].encode(), wanted)
        if not self.model:
            raise ValueError(f"llama.cpp can't load {asked['model']}")
        room = lib.llama_context_default_params()
        room.n_ctx = knobs.get("n_ctx", 512)
        room.n_batch = knobs.get("n_batch", 512)
        room.n_ubatch = knobs.get("n_ubatch", 512)
        room.n_outputs_max = room.n_outputs_max_per_seq = room.n_batch
        room.n_threads = knobs["n_threads"]
        room.n_threads_batch = knobs.get("n_threads_batch", knobs["n_threads"])
        room.type_k = getattr(lib, f"GGML_TYPE_{knobs.get('type_k', 'f16').upper()}")
        room.type_v = getattr(lib, f"GGML_TYPE_{knobs.get('type_v', 'f16').upper()}")
        room.flash_attn_type = int(knobs.get("flash_attn", False))
        self.context = lib.llama_init_from_model(self.model, room)
        if not self.context:
            raise ValueError("llama.cpp refuses this context: its log says why")
        if (got := lib.llama_n_ctx(self.context)) < work["prompt_tokens"] + work["generate_tokens"]:
            raise ValueError(f"n_ctx={got} does not hold the prompt and what follows")
        self.vocabulary = lib.llama_model_get_vocab(self.model)
        self.words = lib.llama_vocab_n_tokens(self.vocabulary)
        self.step = int(room.n_batch)
        self.batch = lib.llama_batch_init(self.step, 0, 1)

    def begun(self, tokens: Sequence[int]) -> list[int]:
        """With the token that the model was trained to find at a text's beginning in the place of the first, if it was:
        Gemma's are at a loss without it."""
        begins = lib.llama_vocab_get_add_bos(self.vocabulary)
        return [lib.llama_vocab_bos(self.vocabulary), *tokens[1:]] if begins else list(tokens)

    def tokens(self, text: str, count: int) -> list[int]:
        raw = text.encode()
        found = (lib.llama_token * (len(raw) + 8))()
        total = lib.llama_tokenize(self.vocabulary, raw, len(raw), found, len(found), False, False)
        if total < count:
            raise ValueError(f"the text has {total} tokens; {count} are needed")
        return list(found[:count])

    def forget(self) -> None:
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)

    def __call__(self, tokens: Sequence[int], start: int, *, every: bool) -> Array:
        """Logits (tokens, vocabulary) of every token, or (1, vocabulary) of the last."""
        rows: list[Array] = []
        for at in range(0, len(tokens), self.step):
            part = tokens[at : at + self.step]
            last = at + len(part) == len(tokens)
            self.batch.n_tokens = len(part)
            for n, token in enumerate(part):
                self.batch.token[n], self.batch.pos[n], self.batch.n_seq_id[n] = token, start + at + n, 1
                self.batch.seq_id[n][0] = 0
                self.batch.logits[n] = every or (last and n == len(part) - 1)
            if (status := lib.llama_decode(self.context, self.batch)) != 0:
                raise ValueError(f"llama_decode ended with {status}")
            if every or last:
                count = len(part) if every else 1
                flat = np.ctypeslib.as_array(lib.llama_get_logits(self.context), shape=(count * self.words,))
                rows.append(flat.reshape(count, self.words).copy())
        return np.concatenate(rows)


def scored(model: Model, work: dict[str, Any]) -> dict[str, Array]:
    """nll (windows, tokens - 1), the likeliest token at each place, and the logits at each window's end."""
    length, count = work["window_tokens"], work["windows"]
    tokens = model.tokens(text_of("test")[: 12 * length * count], length * count)
    losses, firsts, lasts = [], [], []
    for n in range(count):
        row = model.begun(tokens[n * length : (n + 1) * length])
        model.forget()
        logits = model(row, 0, every=True)
        high = logits.max(-1, keepdims=True)
        total = high[:, 0] + np.log(np.exp(logits - high).sum(-1))
        losses.append((total[:-1] - logits[np.arange(length - 1), row[1:]]).astype(np.float64))
        firsts.append(logits[:-1].argmax(-1))
        lasts.append(logits[-1])
    return {"nll": np.stack(losses), "first": np.stack(firsts), "last": np.stack(lasts)}


def judged(found: dict[str, Array], reference: dict[str, Array]) -> dict[str, Any]:
    mine, before = (math.exp(min(700.0, float(a["nll"].mean()))) for a in (found, reference))
    error = float(np.abs(found["last"] - reference["last"]).max() / np.abs(reference["last"]).max())
    quality = {
        "perplexity": mine,
        "quality_loss_pct": 100.0 * (mine / before - 1.0),
        "top1_agreement_pct": 100.0 * float((found["first"] == reference["first"]).mean()),
    }
    return {"errors": {"max_rel_error": error}, "tolerances": {"max_rel_error": 10.0}, "quality": quality}


def reading(model: Model, prompt: Sequence[int], count: int) -> dict[str, float]:
    model.forget()
    start = time.perf_counter()
    token = int(model(prompt, 0, every=False).argmax())
    first_s = time.perf_counter() - start
    for n in range(count - 1):
        token = int(model([token], len(prompt) + n, every=False).argmax())
    total_s = time.perf_counter() - start
    return {
        "latency_s": total_s,
        "throughput_ips": 1.0 / total_s,
        "ttft_s": first_s,
        "prefill_tokens_per_s": len(prompt) / first_s,
        "decode_s": total_s - first_s,
        "decode_tokens_per_s": (count - 1) / (total_s - first_s),
        "tokens_per_s": count / total_s,
    }


def served(model: Model, asked: dict[str, Any], line: str) -> dict[str, Any]:
    work, (word, _, rest) = asked["work"], line.partition(" ")
    if word == "answers":
        with Path(rest).open("wb") as file:  # given a name, NumPy would add to it
            np.savez(file, **scored(model, work))  # type: ignore[arg-type]
        return {"written": rest}
    if word == "verify":
        with np.load(asked["reference"], allow_pickle=False) as reference:
            return {"check": judged(scored(model, work), dict(reference))}
    prompt = model.begun(model.tokens(text_of("calibration")[: 12 * work["prompt_tokens"]], work["prompt_tokens"]))
    taken = [reading(model, prompt, work["generate_tokens"]) for _ in range(int(rest))]
    samples: dict[str, list[float]] = {name: [t[name] for t in taken] for name in taken[0]}
    samples["peak_memory_bytes"] = [1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
    return {"samples": samples}


def features(told: str) -> dict[str, float]:
    """What these libraries were built to use: "CPU : AVX2 = 1 | FMA = 1 |" → built_avx2, built_fma."""
    pairs = [part.rpartition(":")[2].split("=") for part in told.split("|")]
    return {f"built_{pair[0].strip().lower()}": float(pair[1]) for pair in pairs if len(pair) == 2}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    asked = json.loads(sys.argv[1])

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        start = time.perf_counter()
        model = Model(asked)
        size = float(Path(asked["model"]).stat().st_size)
        facts = {"model_bytes": size, **features(lib.llama_print_system_info().decode())}
        say({"ready": {"load_s": time.perf_counter() - start, "facts": facts}})
        for line in sys.stdin:
            say(served(model, asked, line.strip()))
    except ValueError as error:
        say({"error": {"reason": "rejected", "message": str(error)}})


if __name__ == "__main__":
    main()
