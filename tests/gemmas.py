"""Gemma3 models of drawn weights, as transformers saves them and as kernels/decoder reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from optimizer.targets.torch.decoder_file import DecoderFiles, convert, decoder_files

SHAPE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 20,
    "layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 512,
}  # fmt: skip


BEGINNING = 256  # the token behind those of the bytes


def drawn(
    folder: Path, dtype: torch.dtype = torch.float32, shard: str = "1GB", *, begins: bool = True, **changes: Any
) -> Any:
    """A Gemma3 of drawn weights, norms included, saved in a folder with a tokenizer of bytes, which begins a text with
    a token of its own as the real one does."""
    import tokenizers
    import transformers

    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(**{**SHAPE, **changes})
    model: Any = transformers.Gemma3ForCausalLM(config)
    model.eval().requires_grad_(requires_grad=False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() == 1 else parameter.shape[1] ** -0.5)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    whole = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(sorted(alphabet))}, []))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast: Any = transformers.PreTrainedTokenizerFast
    if begins:
        whole.add_special_tokens(["<bos>"])
        form = {"single": "<bos> $A", "special_tokens": [("<bos>", BEGINNING)]}
        whole.post_processor = tokenizers.processors.TemplateProcessing(**form)
        fast(tokenizer_object=whole, bos_token="<bos>").save_pretrained(folder)
    else:
        fast(tokenizer_object=whole).save_pretrained(folder)
    return model.to(torch.float32)


def converted(source: Path, cache: Path) -> DecoderFiles:
    files = decoder_files(str(source), cache)
    if not files.whole:
        convert(files, cache)
    return files


def ids_of(files: DecoderFiles) -> torch.Tensor:
    return torch.from_numpy(np.fromfile(files.text, "<i4").astype(np.int64))
