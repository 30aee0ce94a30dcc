"""Which files may a compiler read for a source? The text itself says so: what it includes, and what that includes."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import ConfigError

_READS = re.compile(
    rb'^[ \t]*#[ \t]*(?:include(?:_next)?|embed)\b[ \t]*(?:"([^"\n]+)"|<([^>\n]+)>|([^\s"<][^\n]*))', re.MULTILINE
)
_INCBIN = re.compile(rb"\.incbin\b")


@dataclass(frozen=True, slots=True)
class Closure:
    """files: the sources and every header of ours that they may include, under any condition; computed: the first file
    that names what it reads by a macro or from assembly, so that its text does not say all."""

    files: frozenset[Path]
    computed: Path | None = None


def closure(sources: Iterable[Path], folders: Sequence[Path]) -> Closure:
    """What sources may read, looked up beside each file and in the folders of -I. A header that is in none of them is
    the system's: the compiler's version stands for it. Raises ConfigError where a file can't be read."""
    found: set[Path] = set()
    computed: Path | None = None
    waiting = [Path(os.path.normpath(source)) for source in sources]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} can't be read: {error.strerror}.") from None
        if _INCBIN.search(text):
            computed = computed or path
        for quoted, angled, other in _READS.findall(text):
            if other:
                computed = computed or path
                continue
            name = os.fsdecode(quoted or angled)
            places = [path.parent, *folders] if quoted else folders
            waiting += [Path(os.path.normpath(p)) for p in (place / name for place in places) if p.is_file()]
    return Closure(frozenset(found), computed)


def include_folders(words: Sequence[str]) -> list[Path]:
    """The folders that words of a command add: -Ifolder, -I folder, -isystem folder and the like."""
    found: list[Path] = []
    for number, word in enumerate(words):
        if word in ("-I", "-isystem", "-iquote", "-idirafter"):
            found += map(Path, words[number + 1 : number + 2])
        elif word.startswith("-I"):
            found.append(Path(word[2:]))
    return found


def canonical(words: Sequence[str]) -> tuple[str, ...]:
    """Words of a compiler in a form that equal commands share: macros by name, of two the last, after all other words,
    whose order may matter. Where a -U stands among them, or a word that hands the next one on, all stays as it is."""
    if any(word.startswith(("-U", "-X")) or word == "-D" for word in words):
        return tuple(words)
    macros = {word[2:].partition("=")[0]: word for word in words if word.startswith("-D")}
    return (*(word for word in words if not word.startswith("-D")), *(macros[name] for name in sorted(macros)))
