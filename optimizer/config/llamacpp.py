"""How does a GGUF model in llama.cpp become a target? All that is wrong with it is told before trial 0."""

from dataclasses import fields
from importlib.metadata import version
from importlib.util import find_spec

from optimizer.config.command_reads import known_keys
from optimizer.config.compose import Tree
from optimizer.config.made import Builds, Made, cache_of, needed
from optimizer.device import Host
from optimizer.errors import ConfigError, nearest
from optimizer.recipe import Plan
from optimizer.space import Choice, Space
from optimizer.targets.llamacpp.quantize import AS_IT_IS, TYPES
from optimizer.targets.llamacpp.target import TYPE, LlamaCppTarget, Work
from optimizer.targets.native import Limits
from optimizer.targets.torch.weights import source_of

WORK = tuple(field.name for field in fields(Work))
KEYS = ("name", "kind", "text", "devices", "objectives", "home", "model", "cache", *WORK)
KNOBS = (
    TYPE, "n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch", "type_k", "type_v", "flash_attn",
    "n_gpu_layers", "repack",
)  # fmt: skip


def llamacpp(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    space = needed(space, node)
    known_keys("target", node, KEYS)
    for package, name in (("llama_cpp", "llama-cpp-python"), ("gguf", "gguf")):
        if find_spec(package) is None:
            raise ConfigError(
                f'target=llamacpp needs the package {name}: pip install "inference-optimizer[llamacpp]" '
                "(llama.cpp is built from source, which takes minutes)."
            )
    _knobs(space)
    cache = cache_of(node)
    source = source_of(str(node["model"] or ""), cache)
    if source.suffix != ".gguf":
        raise ConfigError(f"target.model={node['model']} is no .gguf file, and llama.cpp reads no other.")
    limits = Limits(plan.timeout_s, plan.memory_bytes)
    target = LlamaCppTarget(source.resolve(), space, _work(node), version("llama-cpp-python"), cache, limits)
    host = Host({"llama-cpp-python": target.version})
    return Made(target, space, host, device, {}, {}, prepare=target.prepare, preview=target.preview)


def _knobs(space: Space) -> None:
    names = [knob.effect.name for knob in space.knobs]
    for knob in space.knobs:
        if knob.effect.kind != "setting" or knob.effect.name not in KNOBS:
            near = nearest(knob.effect.name, KNOBS)
            raise ConfigError(f"The knob {knob.name}: target=llamacpp has no {knob.effect.kind} of this name.{near}")
        if knob.effect.name == TYPE:
            values = knob.domain.values if isinstance(knob.domain, Choice) else ()
            for value in values:
                if value not in (AS_IT_IS, *TYPES):
                    raise ConfigError(
                        f"The knob {knob.name}: llama.cpp has no type {value}.{nearest(str(value), TYPES)}"
                    )
    if "n_threads" not in names:
        raise ConfigError("target=llamacpp needs a knob n_threads, of one value at least: its default is no record.")


def _work(node: Tree) -> Work:
    values: dict[str, int] = {}
    for name in WORK:
        least = 1 if name == "windows" else 2
        if not isinstance(node[name], int) or isinstance(node[name], bool) or node[name] < least:
            raise ConfigError(f"target.{name} is a whole number from {least} up, not '{node[name]}'.")
        values[name] = int(node[name])
    return Work(**values)
