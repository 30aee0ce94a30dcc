"""How does a GGUF model in llama.cpp become a target? All that is wrong with it is told before trial 0."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from optimizer.config.compose import Tree
from optimizer.config.made import COMMON, Builds, Made, cache_of, known_keys, names_of, needed, work_of
from optimizer.config.native import COMPILERS, found_compilers
from optimizer.device import Host, cpu_model
from optimizer.errors import ConfigError, nearest
from optimizer.recipe import Plan
from optimizer.space import Choice, Knob, Space
from optimizer.targets.llamacpp.quantize import AS_IT_IS, TYPES
from optimizer.targets.llamacpp.target import TYPE, LlamaCppTarget, Work
from optimizer.targets.llamacpp.wheels import PACKAGE, Wheels
from optimizer.targets.native import Limits
from optimizer.targets.torch.weights import source_of

KEYS = (*COMMON, "model", "cache", *names_of(Work))
PACKAGES = {"llama_cpp": PACKAGE, "gguf": "gguf"}
"""What is imported, and what brings it."""
EXTRA = 'pip install "inference-optimizer[llamacpp]" (llama.cpp is built from source, which takes minutes)'
KNOBS = (
    TYPE, "n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch", "type_k", "type_v", "flash_attn",
    "n_gpu_layers", "repack",
)  # fmt: skip


def llamacpp(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    space = needed(space, node)
    known_keys("target", node, KEYS)
    if absent := absent_packages():
        raise ConfigError(f"target=llamacpp needs the package {absent[0]}: {EXTRA}.")
    _knobs(space)
    cache = cache_of(node)
    source = source_of(str(node["model"] or ""), cache)
    if source.suffix != ".gguf":
        raise ConfigError(f"target.model={node['model']} is no .gguf file, and llama.cpp reads no other.")
    installed = version(PACKAGE)
    wheels = _wheels(space, installed, cache)
    target = LlamaCppTarget(
        source=source.resolve(),
        space=space,
        work=work_of(node, Work, {"windows": 1}),
        version=installed,
        cache=cache,
        limits=Limits(plan.timeout_s, plan.memory_bytes),
        wheels=wheels,
    )
    compilers = {wheels.compiler.name: wheels.compiler.version} if wheels else {}
    host = Host({PACKAGE: installed, **compilers})
    return Made(target, space, host, device, {}, {}, prepare=target.prepare, preview=target.preview)


def absent_packages() -> list[str]:
    return [name for package, name in PACKAGES.items() if find_spec(package) is None]


def _wheels(space: Space, installed: str, cache: Path) -> Wheels | None:
    """Where the space has flags of llama.cpp's build: what builds it, of the version that is installed."""
    if not any(knob.effect.kind == "flag" for knob in space.knobs):
        return None
    compiler = next(iter(found_compilers().values()), None)
    if compiler is None or find_spec("pip") is None:
        lacks = "pip (python -m ensurepip)" if compiler else f"a compiler: {next(iter(COMPILERS.values()))}"
        raise ConfigError(f"Knobs of llama.cpp's own build (CMAKE_ARGS) need {lacks}.")
    return Wheels(f"{PACKAGE}=={installed}", compiler, cpu_model(), cache / "llama-wheels")


def _knobs(space: Space) -> None:
    names = [knob.effect.name for knob in space.knobs]
    for knob in space.knobs:
        if knob.effect.kind == "flag":
            _cmake(knob)
            continue
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


def _cmake(knob: Knob) -> None:
    """A flag is a word of CMAKE_ARGS."""
    words = [w for _, words in knob.effect.table or () for w in words] or [*knob.effect.template]
    for word in words:
        if not word.startswith("-D") or "=" not in word:
            raise ConfigError(f"The knob {knob.name}: '{word}' is no word of CMAKE_ARGS, as -DGGML_LTO=ON is one.")
