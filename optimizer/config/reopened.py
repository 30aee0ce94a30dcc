"""How do the baseline and the winner of an export become a target again, without the study's journal?

The target is made of its node of the configuration, which stands in provenance.json, for what this machine has. The
baseline is built from its point. The winner is made of the exported files themselves, in the way that the export names.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from optimizer.config.made import Builds, Made
from optimizer.config.targets import made_of
from optimizer.errors import ConfigError
from optimizer.export.exported import Exported
from optimizer.export.flags import FLAGS
from optimizer.export.header import HEADER
from optimizer.export.model import MODEL
from optimizer.export.provenance import FROM_FILES, FROM_POINT
from optimizer.export.words import flag_words, macro_words
from optimizer.protocols import Target
from optimizer.recipe import Recipe
from optimizer.space import Choice, Json, Knob, Point, Space
from optimizer.targets.native import NativeTarget
from optimizer.targets.shipped import Buildable, FromFiles


@dataclass(frozen=True)
class Reopened:
    """Both sides of the promise on this machine: `made.target` builds and opens them, each by its point."""

    recipe: Recipe
    made: Made
    point: Point
    baseline: Point


NARROWED = ("native", "cuda", "torch")
"""Kinds of targets whose making asks what this machine has: they need no more than the two points do."""
COMPILED = ("native", "cuda")
"""Kinds of targets that compile with any words."""
Reopen = Callable[[Exported, Made], Target]
"""Gives a target like made.target whose build(winner's point) is made of the exported files, and which opens both."""


def reopened(exported: Exported, folder: Path) -> Reopened:
    """`folder`: for builds. Raises ConfigError where this machine or this version can't: no compiler, no device, a
    target that is gone."""
    if exported.reopens not in REOPENS:
        raise ConfigError(
            f"{exported.folder} opens its winner by '{exported.reopens}', which this version can't; it can "
            f"{', '.join(REOPENS)}."
        )
    recipe = exported.recipe
    if exported.target.get("kind") == "replay":
        raise ConfigError(f"{exported.folder} comes from a recording: there is nothing that could be run again.")
    # An exported model is never built again, so nothing of its point need work here but what loads it.
    packed = exported.reopens == MODEL
    space = recipe.space
    if exported.target.get("kind") in NARROWED:
        space = _space_of(space, exported.baseline, *(() if packed else (exported.point,)))
    node = _model_node(exported) if packed else exported.target
    made = made_of(node, space, recipe.plan, Builds(folder.resolve()), recipe.device)
    point, baseline = (_here(p, made.space) for p in (exported.point, exported.baseline))
    made = replace(made, target=REOPENS[exported.reopens](replace(exported, point=point, baseline=baseline), made))
    made.prepare()
    return Reopened(replace(recipe, space=made.space), made, point, baseline)


def _space_of(space: Space, *points: Point) -> Space:
    """The space with the values of these points alone: nothing else must be there, or be tried, on this machine."""
    kept = {}
    for knob in space.knobs:
        values = list(dict.fromkeys(p[knob.name] for p in points if knob.name in p))
        if values and isinstance(knob.domain, Choice):
            kept[knob.name] = values
    return space.narrowed(kept)


def _here(point: Point, space: Space) -> Point:
    """The same point on another GPU is built for that GPU."""
    knob: Knob | None = space.by_name.get("arch")
    if knob is None or "arch" not in point or not isinstance(knob.domain, Choice):
        return point
    return point if point["arch"] in knob.domain.values else Point({**point, "arch": knob.domain.at(0)})


def _model_node(exported: Exported) -> Mapping[str, Json]:
    from optimizer.config.torch import exported_node

    return exported_node(exported.folder, exported.target)


def _from_model(exported: Exported, made: Made) -> Target:
    from optimizer.config.torch import exported_target

    return exported_target(exported, made)


def _from_point(exported: Exported, made: Made) -> Target:
    return made.target


def _built(exported: Exported, made: Made) -> Target:
    """A program compiled with the exported flags and macros; of a target with commands of its own, by its point."""
    target, flags, header = made.target, exported.path(FLAGS), exported.path(HEADER)
    if exported.target.get("kind") not in COMPILED:
        return target
    if isinstance(target, NativeTarget):  # g++ and clang++ read both files themselves
        words = [f"@{flags.resolve()}"] if flags else flag_words(made.space, exported.point, target.flags)
        words += ["-include", str(header.resolve())] if header else macro_words(made.space, exported.point)
        return FromFiles(target, exported.point, tuple(words))
    words = words_in(flags) if flags else flag_words(made.space, exported.point, exported.target.get("flags") or ())
    words += macros_in(header) if header else macro_words(made.space, exported.point)
    return FromFiles(cast(Buildable, target), exported.point, tuple(words))


def words_in(flags: Path) -> list[str]:
    """NVRTC reads no files."""
    return shlex.split(flags.read_text(encoding="utf-8"))


def macros_in(header: Path) -> list[str]:
    defined = re.findall(r"^#define (\w+) (.*)$", header.read_text(encoding="utf-8"), re.MULTILINE)
    return [f"-D{name}={value}" for name, value in defined]


REOPENS: Mapping[str, Reopen] = {
    FROM_POINT: _from_point,
    MODEL: _from_model,
    FROM_FILES: _built,
}
"""A new way is a line here; an exporter's `reopens` names it."""
