"""The convert command: a language model's weights in, the file that kernels/decoder reads out."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from optimizer.config.made import default_cache
from optimizer.errors import ConfigError
from optimizer.targets.torch.decoder_file import convert, decoder_files


def command(weights: str, words: Sequence[str], *, as_json: bool) -> None:
    cache = _cache(words)
    files = decoder_files(weights, cache)
    if not files.whole:
        print(f"Converting {files.source.name} once; it takes up to a minute …", file=sys.stderr, flush=True)
        convert(files, cache)
    found = {"model": str(files.model), "text": str(files.text), "options": dict(files.options()), "key": files.key}
    print(json.dumps(found) if as_json else "\n".join(f"{name}: {found[name]}" for name in ("model", "text")))


def _cache(words: Sequence[str]) -> Path:
    cache = default_cache()
    for word in words:
        name, _, value = word.partition("=")
        if name != "target.cache" or not value:
            raise ConfigError(f"convert knows target.cache=FOLDER, not '{word}'.")
        cache = Path(value).expanduser().resolve()
    return cache
