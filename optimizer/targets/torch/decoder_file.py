"""How do a language model's weights and text become the files that the programs of kernels/decoder read?

    model.safetensors    the tensors as they lie in the model's own files, with the architecture in the header
    text-VERSION.ids     32-bit numbers: the windows that language.py judges, then the text that it takes prompts from
    text-VERSION.json    how the program must be told to read them; VERSION is Python's, whose documentation is the text

They lie in the cache under a hash of the content of the model's files and are made once.
"""

import json
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from platform import python_version
from typing import IO, Any

from optimizer.errors import ConfigError
from optimizer.files import made_once, write_whole
from optimizer.space import digest
from optimizer.targets.builds import sha256_of
from optimizer.targets.torch.weights import RANDOM, files_of, source_of, weights_of

FORMAT = 2  # of these files: another one is another place in the cache
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
MAX_HEADER_BYTES = 100 << 20
CHUNK_BYTES = 16 << 20
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class DecoderFiles:
    """Where they lie, and a hash of what they are made of."""

    folder: Path
    key: str
    source: Path

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def text(self) -> Path:
        return self.folder / f"text-{python_version()}.ids"

    @property
    def record(self) -> Path:
        return self.text.with_suffix(".json")

    @property
    def whole(self) -> bool:
        return self.model.is_file() and self.text.is_file() and self.record.is_file()

    def options(self) -> Mapping[str, str]:
        """Of the program's run, so that it judges the windows that language.py judges."""
        found = json.loads(self.record.read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in found.items()}


def decoder_files(said: str, cache: Path) -> DecoderFiles:
    """Of weights as weights.py names them, converted or not. Raises ConfigError where there are none."""
    if said == RANDOM:
        raise ConfigError("target.model=random: a drawn model has no perplexity; name real weights.")
    source = source_of(said, cache)
    files = files_of(source) if source.is_dir() else [source]
    key = digest([FORMAT, [[file.name, sha256_of(file)] for file in files]])
    return DecoderFiles(cache / "decoder" / key, key, source)


def convert(files: DecoderFiles, cache: Path) -> None:
    """Makes those that are not there. Raises ConfigError where the program can't run the model or the disk is full."""
    weights = weights_of(str(files.source), "", cache)
    if weights.folder is None:
        raise ConfigError(f"{files.source} holds no weights.")
    folder, header = weights.folder, architecture(weights.config())
    made_once(files.model, lambda part: _copied(folder, header, part))
    if not files.whole:
        from optimizer.targets.torch.language import SIZES, ids_of

        judged, prompts = ids_of(weights, "test", SIZES), ids_of(weights, "calibration", SIZES)
        ids = [*judged, *prompts]
        write_whole(files.text, struct.pack(f"<{len(ids)}i", *ids))
        options = {"eval-windows": SIZES["windows"], "window-tokens": SIZES["window_tokens"]}
        write_whole(files.record, json.dumps(options).encode())


def architecture(config: Any) -> dict[str, str]:
    """The header that describes transformers' configuration of a Gemma3 text model; kernels/decoder/config.h reads it.

    Raises ConfigError for what the program does not compute.
    """
    if config.model_type != "gemma3_text":
        raise ConfigError(f"kernels/decoder runs models of Gemma3's architecture; this one is {config.model_type}.")
    ropes = {kind: dict(config.rope_parameters[kind]) for kind in (SLIDING, FULL)}
    refused = {
        "tie_word_embeddings": not config.tie_word_embeddings,
        "attention_bias": bool(config.attention_bias),
        "hidden_activation": config.hidden_activation != "gelu_pytorch_tanh",
        "attn_logit_softcapping": config.attn_logit_softcapping is not None,
        "final_logit_softcapping": config.final_logit_softcapping is not None,
        "use_bidirectional_attention": bool(config.use_bidirectional_attention),
        "rope_parameters": any(rope.get("rope_type", "default") != "default" for rope in ropes.values()),
    }
    if odd := [name for name, is_odd in refused.items() if is_odd]:
        said = ", ".join(f"{name}={getattr(config, name)}" for name in odd)
        raise ConfigError(f"kernels/decoder does not compute a model with {said}.")
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "head_dim")  # fmt: skip
    return {
        **{name: str(int(getattr(config, name))) for name in sizes},
        "sliding_window": str(int(config.sliding_window or 1)),
        "sliding_window_pattern": str(_pattern(config.layer_types)),
        "rope_local_base_freq": repr(float(ropes[SLIDING]["rope_theta"])),
        "rope_theta": repr(float(ropes[FULL]["rope_theta"])),
        "rms_norm_eps": repr(float(config.rms_norm_eps)),
        "query_pre_attn_scalar": repr(float(config.query_pre_attn_scalar)),
    }


def _pattern(kinds: Sequence[str]) -> int:
    """The n of "every n-th layer is global". Raises ConfigError where the layers follow no such rule."""
    local = [kind == SLIDING for kind in kinds]
    pattern = local.index(False) + 1 if False in local else len(local) + 1
    if local != [(i + 1) % pattern != 0 for i in range(len(local))]:
        raise ConfigError("kernels/decoder has every n-th layer global; this model's layers follow no such rule.")
    return pattern


# --- safetensors, copied as bytes: neither the source nor the copy is ever whole in memory


@dataclass(frozen=True)
class _Tensor:
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # in the file
    size: int


def _copied(folder: Path, metadata: Mapping[str, str], path: Path) -> None:
    """Raises OSError where it can't be written, ConfigError where the folder's tensors are not such a model's."""
    tensors = dict(_wanted(_tensors(folder), int(metadata["num_hidden_layers"]), folder))
    if path.parent.is_dir() and (free := shutil.disk_usage(path.parent).free) < sum(t.size for t in tensors.values()):
        raise ConfigError(
            f"{path.parent} has {free >> 20} MiB free; the converted model needs "
            f"{sum(t.size for t in tensors.values()) >> 20} MiB. target.cache=… names another place."
        )
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, t in tensors.items():
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, at + t.size]}
        at += t.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            with tensor.file.open("rb") as source:
                source.seek(tensor.start)
                _copy(source, out, tensor)


def _copy(source: IO[bytes], out: IO[bytes], tensor: _Tensor) -> None:
    left = tensor.size
    while left:
        chunk = source.read(min(left, CHUNK_BYTES))
        if not chunk:
            raise ConfigError(f"{tensor.file} ends too early: it was not copied whole.")
        out.write(chunk)
        left -= len(chunk)


def _wanted(tensors: Mapping[str, _Tensor], layers: int, folder: Path) -> Iterator[tuple[str, _Tensor]]:
    """Those that the program reads; the head, which is the embedding, may stand for it."""
    parts = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
             "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "self_attn.q_norm",
             "self_attn.k_norm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
    names = [EMBEDDING, "model.norm.weight", *(f"model.layers.{i}.{p}.weight" for i in range(layers) for p in parts)]
    for name in names:
        found = tensors.get(name) or (tensors.get(HEAD) if name == EMBEDDING else None)
        if found is None or found.dtype not in DTYPE_BYTES:
            raise ConfigError(f"{folder} has no tensor {name} of the type {', '.join(DTYPE_BYTES)}.")
        yield name, found


def _tensors(folder: Path) -> dict[str, _Tensor]:
    found: dict[str, _Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            try:
                (length,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(length)) if length <= MAX_HEADER_BYTES else {}
                for name, entry in header.items():
                    if name != "__metadata__":
                        begin, end = entry["data_offsets"]
                        shape = tuple(int(n) for n in entry["shape"])
                        found[name] = _Tensor(file, str(entry["dtype"]), shape, 8 + length + begin, end - begin)
            except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConfigError(f"{file} is no safetensors file: {error}.") from None
    return found
