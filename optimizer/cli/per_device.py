"""The search of --per-device: a study for each kind of device, one after the other; their readings are never mixed."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

from optimizer.cli import WRONG
from optimizer.config import Composed
from optimizer.config.kinds import Kind, kinds_of
from optimizer.config.objects import study_of
from optimizer.errors import ConfigError
from optimizer.journal import JOURNAL


def per_device(
    words: Sequence[str], made: Composed, search: Callable[[Sequence[str], bool], None], *, resume: bool
) -> None:
    """`made`: of the words; `search` is called with the words of each study and whether to resume it. A kind on which
    the search can't be made is told and does not keep the others from theirs."""
    tree = made.tree
    studies_dir = Path(str(tree["studies_dir"]))
    if resume and not tree["study"]:
        raise ConfigError("--resume needs the name that the studies were started with: study=NAME.")
    base = study_of(tree, date.today())
    kinds = kinds_of(made, date.today())
    failed = False
    for kind, suffix in zip(kinds, suffixes(kinds), strict=True):
        study = f"{base}-{suffix}"
        there = (studies_dir / study / JOURNAL).exists()
        print(f"{study}: {kind.name}", file=sys.stderr)
        try:
            search([*words, *kind.words, f"study={study}"], resume and there)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
    if failed:
        raise SystemExit(WRONG)


def suffixes(kinds: Sequence[Kind]) -> list[str]:
    """What tells the studies apart in their names: of the device's name, numbered where only drivers differ."""
    names = [kind.name.partition(",")[0].lower() for kind in kinds]
    stems = [re.sub(r"[^a-z0-9]+", "-", name).strip("-")[:60] or "device" for name in names]
    counts, seen, found = Counter(stems), Counter[str](), []
    for stem in stems:
        seen[stem] += 1
        found.append(stem if counts[stem] == 1 else f"{stem}-{seen[stem]}")
    return found
