"""How is an input made that nobody thought of? From a good one, by changes of bytes, of words and of JSON's values."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

NASTY_VALUES: Sequence[Any] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**64, -(2**63), 10**400, 1e308, 5e-324, -0.0, float("inf"),
    float("-inf"), float("nan"), "", " ", "\0", "\ud800", "\u202e", "a" * 5000, "../../etc/passwd", "/", "nan", "1e999",
    [], {}, [[]], [None], {"": None}, {"x": {}}, [1, "a", None], "9" * 5000, "0x10", "1_000", "٣", "<script>", "=1+1",
)  # fmt: skip
NASTY_WORDS: Sequence[bytes] = (
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"\\ud800", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n\n",
    b"[" * 2000, b'{"a":' * 500, b"(" * 500, b"-" * 300, b"not " * 200, b"**", b"10**10**10", b"9**9**9**9", b"1//0",
    b"1%0", b"log2(0)", b"in ()", b"lambda: 0", b"__import__('os')", b"x.y", b"x[0]", b"f'{x}'", b"'", b'"', b"\\",
    b",", b";", b"|", b"=", b"${oc.env:HOME}", b"${", b"choice()", b"range(0,1e9,1e-9)", b"interval(nan,inf)",
    b"tag(log,", b"int(", b"\xe2\x80\xae", b"\x1f\x8b", b"true", b"null", b"0.1e-400", b"1j", b"...", b"@", b"#",
    b"a if b else c",
    b"99999999999999999999", b"min(", b"and or", b"is", b"%s%n", b"\t",
)  # fmt: skip


def mutated(seeds: Sequence[bytes], random: Random) -> bytes:
    """A seed with one to six changes."""
    data = random.choice(seeds)
    if random.random() < 0.5 and (changed := _changed_json(data, random)) is not None:
        data = changed
        if random.random() < 0.7:
            return data
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        data = _changed(data, seeds, random)
    return data[: 1 << 16]


def _changed(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    start = random.randint(0, len(data))
    end = min(len(data), start + random.choice((0, 1, 1, 2, 4, 16, 200)))
    match random.randrange(8):
        case 0:
            return data[:start] + data[end:]
        case 1:
            return data[:start] + random.choice(NASTY_WORDS) + data[start:]
        case 2:
            return data[:start] + random.choice(NASTY_WORDS) + data[end:]
        case 3:
            return data[:start] + data[start:end] * random.choice((2, 3, 50)) + data[end:]
        case 4:
            return data[:start] + random.randbytes(end - start) + data[end:]
        case 5:
            other = random.choice(seeds)
            cut = random.randint(0, len(other))
            return data[:start] + other[cut : cut + random.choice((4, 40, 400))] + data[start:]
        case 6:
            return data[:start]
        case _:
            return data[:start] + bytes([random.randrange(32, 127)]) + data[end:]


def _changed_json(data: bytes, random: Random) -> bytes | None:
    """The same document with values replaced, left out or renamed; None where it is none."""
    lines = data.splitlines() if b"\n{" in data else [data]
    chosen = random.randrange(len(lines)) if lines else 0
    try:
        document = json.loads(lines[chosen])
    except (ValueError, RecursionError, IndexError):
        return None
    if not isinstance(document, dict | list) or not document:
        return None
    for _ in range(random.choice((1, 1, 2, 4))):
        _change_one(document, random)
    try:
        text = json.dumps(document, ensure_ascii=random.random() < 0.5, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None
    return b"\n".join([*lines[:chosen], text.encode(errors="surrogatepass"), *lines[chosen + 1 :]]) + b"\n"


def _change_one(document: Any, random: Random) -> None:
    """Walks down from the root at random and changes what it comes to."""
    place = document
    while True:
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = random.choice(keys)
        below = place[key]
        if isinstance(below, dict | list) and below and random.random() < 0.8:
            place = below
            continue
        match random.randrange(5):
            case 0:
                del place[key]
            case 1 if isinstance(place, dict):
                place[str(random.choice(NASTY_VALUES))[:100]] = place.pop(key)
            case 2 if isinstance(place, list):
                place += [below] * random.choice((1, 20))
            case _:
                place[key] = random.choice(NASTY_VALUES)
        return
