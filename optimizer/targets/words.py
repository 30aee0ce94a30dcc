"""How does a point's request lie in an artifact's arguments? name=value, the value as JSON."""

import json
from collections.abc import Mapping, Sequence

from optimizer.space import Json


def told(values: Mapping[str, Json]) -> tuple[str, ...]:
    return tuple(f"{name}={json.dumps(value)}" for name, value in values.items())


def heard(words: Sequence[str]) -> dict[str, Json]:
    """What `told` was told."""
    pairs = [word.partition("=") for word in words]
    return {name: json.loads(value) for name, _, value in pairs}
