"""How a request that can't be carried out is told to the person who made it."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What taking apart a document that somebody else wrote raises where it is not what it should be: no such key, a list
where an object was due, a number that no float can hold, nested beyond all measure."""


def lacking(error: Exception) -> str:
    """What a document lacks that raised one of MALFORMED, for people."""
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from or beside, and so on inwards."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


class ConfigError(Exception):
    """A configuration that can't be searched. The message names the cause and the remedy."""


def nearest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?", or the whole list where nothing is near, ready to end an error message."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known: {', '.join(names)}." if names else ""
