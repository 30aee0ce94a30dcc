"""What does a program of kernels/decoder read where its model is a real language model? Its converted files.

    target.model: gemma3_270m                          a name, package:NAME, a .gguf file, or a folder with config.json
                  decoder/model/model.safetensors      the program's own format: read as it is

What is not converted yet is converted by `optimizer convert` in a process of its own, which may import torch.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from optimizer.config.compose import Tree
from optimizer.config.made import cache_of, data_files, words_of
from optimizer.errors import ConfigError
from optimizer.targets.torch.decoder_file import DecoderFiles, decoder_files
from optimizer.targets.torch.weights import NAMES, PACKAGE

SCENARIO: Mapping[str, str] = {"prompt": "16", "generate": "4", "requests": "8", "check-tokens": "16"}
"""Of a language model, where target.options does not say otherwise: a reading takes seconds, not minutes."""
BYTES_TEXT = "decoder/model/heldout.txt"  # the small model's text, which another vocabulary can't read


@dataclass(frozen=True)
class Inputs:
    """The files of a target by the option that names each, its options, and what is known of the files' content."""

    files: Mapping[str, Path]
    options: Mapping[str, str]
    hashes: Mapping[str, str] = field(default_factory=dict)


def inputs_of(node: Tree) -> Inputs:
    """Raises ConfigError for files and models that are not there."""
    model = str(node.get("model") or "")
    if not is_language_model(model):
        return Inputs(data_files(node), words_of(node, "options"))
    cache = cache_of(node)
    found = decoder_files(model, cache)
    if not found.whole:
        _convert(model, cache)
    text, judged = _text(str(node.get("eval_text") or BYTES_TEXT), found)
    rest = data_files({**node, "files": {k: v for k, v in node["files"].items() if k not in ("model", "text")}})
    return Inputs(
        files={**rest, "model": found.model, "text": text},
        options={**SCENARIO, **judged, **words_of(node, "options")},
        hashes={"model": found.key},
    )


def is_language_model(said: str) -> bool:
    """Whether a model is named that the programs can't read as it is."""
    if not said:  # Path("") is the folder that one stands in
        return False
    return said in NAMES or said.startswith(PACKAGE) or said.endswith(".gguf") or Path(said).expanduser().is_dir()


def _text(said: str, found: DecoderFiles) -> tuple[Path, Mapping[str, str]]:
    """The text, and the options that tell its windows."""
    if said == BYTES_TEXT:
        return found.text, found.options()
    path = Path(said).expanduser()
    if path.suffix != ".ids" or not path.is_file():
        raise ConfigError(
            f"target.eval_text={said}: a language model reads a file of token ids (.ids: 32-bit little endian); leave "
            "it away for the windows that the torch targets are judged by."
        )
    return path.resolve(), {}


def _convert(model: str, cache: Path) -> None:
    command = [sys.executable, "-m", "optimizer", "convert", model, f"target.cache={cache}"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # it says on stderr what it does
    if done.returncode != 0:
        raise ConfigError(f"target.model={model} could not be converted; the reason stands above.")
