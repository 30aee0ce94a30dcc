"""A target whose winner is built from exported files: the words in them stand in the place of the point's own."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from optimizer.protocols import Runner, Target
from optimizer.space import Json, Point
from optimizer.trial import Artifact


class Buildable(Target, Protocol):
    """A target that compiles with any words."""

    def built(self, point: Point, words: Sequence[str], *, fresh: bool = False) -> Artifact: ...


@dataclass(frozen=True)
class FromFiles:
    """`words` build `point`; every other point is built as `target` does."""

    target: Buildable
    point: Point
    words: tuple[str, ...]

    @property
    def shares_cpu(self) -> bool:
        return self.target.shares_cpu

    def fingerprint(self) -> Mapping[str, Json]:
        return self.target.fingerprint()

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        if point != self.point:
            return self.target.build(point, fresh=fresh)
        return self.target.built(point, self.words, fresh=fresh)

    def open(self, artifact: Artifact) -> AbstractContextManager[Runner]:
        return self.target.open(artifact)
