"""The cache command: what the build cache holds, and room made in it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from optimizer.config import files
from optimizer.config.builds import cache_of
from optimizer.errors import ConfigError, nearest
from optimizer.targets.cache import BuildCache
from optimizer.text import quantity

ACTS = ("show", "prune", "clear")


def command(act: str, words: Sequence[str], *, as_json: bool) -> None:
    """Raises ConfigError where the settings are wrong or the cache is switched off."""
    if act not in ACTS:
        raise ConfigError(f"cache {act} is not known; it is one of {', '.join(ACTS)}.{nearest(act, ACTS)}")
    wrong = next((w for w in words if not w.startswith("build_cache.")), None)
    if wrong is not None:
        raise ConfigError(f"'{wrong}' is not a setting of this command; build_cache.folder=… and max_bytes are.")
    node = files().composed(words).tree["build_cache"]
    try:
        cache = cache_of(node)
    except OSError as error:
        raise ConfigError(f"The build cache {node['folder']} can't be opened: {error.strerror}.") from None
    if cache is None:
        raise ConfigError("build_cache.folder is null: there is no build cache.")
    gone = None if act == "show" else cache.prune(0 if act == "clear" else cache.max_bytes)
    print(json.dumps(_document(cache, gone)) if as_json else _text(cache, gone))


def _document(cache: BuildCache, gone: int | None) -> dict[str, object]:
    found = cache.contents()
    told: dict[str, object] = {
        "folder": str(cache.folder),
        "entries": found.entries,
        "bytes": found.size_bytes,
        "max_bytes": cache.max_bytes,
        "least_recently_used_s": found.oldest_s,
        "most_recently_used_s": found.newest_s,
    }
    return told if gone is None else {**told, "removed": gone}


def _text(cache: BuildCache, gone: int | None) -> str:
    found = cache.contents()
    size, limit = (quantity("binary_bytes", float(n)) for n in (found.size_bytes, cache.max_bytes))
    lines = [f"{cache.folder}: {found.entries} builds, {size} of at most {limit}"]
    if gone is not None:
        lines.append(f"{gone} builds removed")
    if found.oldest_s is not None and found.newest_s is not None:
        oldest, newest = (datetime.fromtimestamp(s, UTC).date() for s in (found.oldest_s, found.newest_s))
        lines.append(f"last used between {oldest} and {newest}")
    return "\n".join(lines)
