"""Which texts are language models judged by? Topics of the standard library's pydoc_data, which every Python brings."""

from functools import cache
from hashlib import sha256


@cache
def text_of(part: str) -> str:
    """test or calibration: the topics of pydoc_data whose name's hash is even or odd, in the order of those hashes.

    Topics repeat each other's paragraphs: the calibration has none that the test has.
    """
    from pydoc_data.topics import topics

    hashed = sorted((sha256(name.encode()).digest(), text) for name, text in topics.items())
    sides = [[p for key, text in hashed if key[-1] % 2 == side for p in _paragraphs(text)] for side in (0, 1)]
    judged = set(sides[0])
    return "\n\n".join(sides[0] if part == "test" else [p for p in sides[1] if p not in judged])


def _paragraphs(text: str) -> list[str]:
    return [stripped for paragraph in text.split("\n\n") if (stripped := paragraph.strip("\n"))]
