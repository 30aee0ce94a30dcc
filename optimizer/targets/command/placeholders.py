"""What stands in a command line for what a point, or a place on this machine, decides?

{flags} {macros} {options}   the words of the knobs of that kind; inside a longer word they are one text, quoted as a
                             shell would
{knob.NAME}, or {NAME}       one knob's value; a word that names a knob which is not active is left out
{source} {out} {scratch}     folders: the sources, what is built, and an empty one for each start of the program
{{ and }}                    braces

A point fills in knobs; folders stay in the words until the program is run, so that what is built in two places is
known to be run in the same way.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from optimizer.errors import ConfigError, nearest
from optimizer.space import EffectKind, Point, Space, spelt
from optimizer.targets.builds import words_of

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w.]*)\}")
SPLICED: Mapping[str, EffectKind] = {"flags": "flag", "macros": "macro", "options": "option"}
FOLDERS = ("source", "out", "scratch")


def names(words: Iterable[str]) -> Iterator[str]:
    """The placeholders of some words."""
    for word in words:
        for found in _PLACE.finditer(word):
            if found.group(1):
                yield found.group(1)


def check(where: str, words: Iterable[str], space: Space, folders: Sequence[str]) -> None:
    """Raises ConfigError for a placeholder that nothing fills in here."""
    known = [*SPLICED, *folders, *(f"knob.{k.name}" for k in space.knobs), *(k.name for k in space.knobs)]
    for name in names(words):
        if name in known:
            continue
        if name.startswith("env."):
            raise ConfigError(
                f"{where}: {{{name}}} is not filled in: no environment variable decides what is searched. Write its "
                "value, or set variables with target.environment."
            )
        if name in FOLDERS:
            raise ConfigError(
                f"{where}: there is no {{{name}}} here: it takes {', '.join(f'{{{f}}}' for f in folders)}."
                if name != "source"
                else f"{where}: {{source}} needs target.source, the folder of the sources."
            )
        raise ConfigError(f"{where}: nothing is called {{{name}}}.{nearest(name, known)} Write {{{{ for a brace.")


def filled(template: Sequence[str], space: Space, point: Point) -> tuple[str, ...]:
    """The words with the point's values; folders are still to be filled in."""
    words: list[str] = []
    for word in template:
        if word[1:-1] in SPLICED and word == f"{{{word[1:-1]}}}":
            words += map(braced, words_of(space, point, SPLICED[word[1:-1]]))
        elif (text := filled_text(word, space, point)) is not None:
            words.append(text)
    return tuple(words)


def filled_text(word: str, space: Space, point: Point) -> str | None:
    """One text with the point's values; None where it names a knob that is not active."""
    absent = False

    def value(name: str) -> str:
        nonlocal absent
        if name in SPLICED:
            return braced(shlex.join(words_of(space, point, SPLICED[name])))
        if name in FOLDERS:
            return f"{{{name}}}"
        knob = space.by_name[name.removeprefix("knob.")]
        if knob.name not in point:
            absent = True
            return ""
        effect, chosen = knob.effect, point[knob.name]
        return braced(spelt(chosen) if effect.kind == "flag" else effect.word(chosen))

    text = _replaced(word, value, keep_braces=True)
    return None if absent else text


def placed(words: Iterable[str], folders: Mapping[str, str]) -> tuple[str, ...]:
    """The words as they are run."""
    return tuple(_replaced(word, lambda name: folders[name], keep_braces=False) for word in words)


def _replaced(word: str, value: Callable[[str], str], *, keep_braces: bool) -> str:
    def one(found: re.Match[str]) -> str:
        if found.group(1) is None:
            return found.group(0) if keep_braces else found.group(0)[0]
        return value(found.group(1))

    return _PLACE.sub(one, word)


def braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
