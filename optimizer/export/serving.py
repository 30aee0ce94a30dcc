"""Which option of a server of language models does a knob stand for? A table, checked against dated documentation.

tests/data/serving/options.json holds the options that Ollama, llama-server and vLLM document, with source and date; a
test holds this table to it. What a server has no option for is left out of its file and named in a comment.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optimizer.export.shipment import Shipment
from optimizer.space import Value

Spell = Callable[[Value], str | None]
"""How a server spells a value; None where it can't have it."""


def plain(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def on_off(value: Value) -> str:
    return {"true": "on", "false": "off", "1": "on", "0": "off"}.get(plain(value), plain(value))


def one_of(*known: str) -> Spell:
    def spell(value: Value) -> str | None:
        return plain(value) if plain(value) in known else None

    return spell


CACHES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
VLLM_CACHES = ("auto", "fp8", "fp8_e4m3", "fp8_e5m2")
BOTH_CACHES = ("kv_cache_type", "kv_type", "kv_cache_dtype")
"""One knob for keys and values, which llama-server sets apart."""


@dataclass(frozen=True)
class Served:
    """One option: its name as the server spells it, and its values."""

    name: str
    spell: Spell = plain


@dataclass(frozen=True)
class Option:
    """What a knob of one of these names is called by each server; None where it has no such option."""

    knobs: tuple[str, ...]
    modelfile: Served | None = None
    llama_server: Served | None = None
    vllm: Served | None = None


OPTIONS: tuple[Option, ...] = (
    Option(
        ("num_ctx", "n_ctx", "ctx_size", "context"),
        Served("num_ctx"),
        Served("--ctx-size"),
        Served("max-model-len"),
    ),
    Option(("num_batch", "n_batch", "batch_size"), Served("num_batch"), Served("--batch-size")),
    Option(("n_ubatch", "ubatch", "ubatch_size"), None, Served("--ubatch-size")),
    Option(("num_thread", "n_threads", "threads", "num_threads"), Served("num_thread"), Served("--threads")),
    Option(("n_threads_batch", "threads_batch"), None, Served("--threads-batch")),
    Option(("num_gpu", "n_gpu_layers", "gpu_layers", "ngl"), Served("num_gpu"), Served("--n-gpu-layers")),
    Option(("flash_attn", "flash_attention"), None, Served("--flash-attn", on_off)),
    Option(("type_k", "cache_type_k", *BOTH_CACHES), None, Served("--cache-type-k", one_of(*CACHES))),
    Option(("type_v", "cache_type_v", *BOTH_CACHES), None, Served("--cache-type-v", one_of(*CACHES))),
    Option(BOTH_CACHES, None, None, Served("kv-cache-dtype", one_of(*VLLM_CACHES))),
    Option(("num_parallel", "n_parallel", "parallel"), None, Served("--parallel"), Served("max-num-seqs")),
    Option(("max_num_seqs",), None, None, Served("max-num-seqs")),
    Option(("max_num_batched_tokens",), None, None, Served("max-num-batched-tokens")),
    Option(("block_size",), None, None, Served("block-size")),
    Option(("enforce_eager",), None, None, Served("enforce-eager")),
    Option(("enable_prefix_caching",), None, None, Served("enable-prefix-caching")),
    Option(("num_predict", "n_predict"), Served("num_predict"), Served("--n-predict")),
    Option(("temperature",), Served("temperature"), Served("--temp")),
    Option(("top_k",), Served("top_k"), Served("--top-k")),
    Option(("top_p",), Served("top_p"), Served("--top-p")),
    Option(("min_p",), Served("min_p"), Served("--min-p")),
    Option(("repeat_penalty",), Served("repeat_penalty"), Served("--repeat-penalty")),
    Option(("seed",), Served("seed"), Served("--seed")),
)
"""A knob goes by its effect's name (option: num_ctx), or its own."""
LANGUAGE = ("ollama", "llamacpp")
"""Kinds of targets that run a language model behind such options."""


@dataclass(frozen=True)
class Settings:
    """What a server is told, in the table's order; `left`: knobs that it has no option for."""

    told: Mapping[str, str]
    left: tuple[str, ...]


def settings(shipment: Shipment, server: str) -> Settings:
    """`server`: modelfile, llama_server or vllm."""
    point = shipment.trial.point
    active = {(k.effect.name or k.name): (k.name, point[k.name]) for k in shipment.space.knobs if k.name in point}
    told: dict[str, str] = {}
    for option in OPTIONS:
        served: Served | None = getattr(option, server)
        for key in option.knobs:
            if key in active and served is not None and (word := served.spell(active[key][1])) is not None:
                told.setdefault(served.name, word)
    used = {key for o in OPTIONS if (s := getattr(o, server)) and s.name in told for key in o.knobs}
    return Settings(told, tuple(name for key, (name, _) in active.items() if key not in used))


def unfit(shipment: Shipment, server: str) -> str:
    """Why there is no file for this server of a shipment."""
    if shipment.kind not in LANGUAGE:
        return "the study is not of a language model behind a server"
    return "" if settings(shipment, server).told else "none of the winner's knobs is an option of this server"


def weights(shipment: Shipment) -> str:
    """The model as the target names it: a name, or a file."""
    node = shipment.target
    named = node.get("model") or node.get("file") or (node.get("options") or {}).get("model")
    return str(named) if named else "MODEL"


def comment(shipment: Shipment, found: Settings) -> list[str]:
    left = f"Not an option here: {', '.join(found.left)}." if found.left else ""
    return [f"# {line}" for line in (shipment.origin, left) if line]
