"""An exported model as a target: what its folder holds, and beside it the unmodified model in eager float32."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimizer.space import Json, Point, digest
from optimizer.targets.native import NativeRunner
from optimizer.targets.torch.target import TorchTarget, versions
from optimizer.targets.torch.told import SHAPES
from optimizer.trial import Artifact


@dataclass(frozen=True)
class ExportedTarget:
    """place: the export; told: its model.json; unmodified: the model before all changes, of which an export carries no
    weights where drawn ones are as fast.

    The point of model.json is the export, which is never built again; any other is built as in a search.
    """

    place: Path
    told: Mapping[str, Any]
    unmodified: TorchTarget
    code_key: str = ""  # of what was built, where it is known
    proved: Mapping[str, Json] = field(default_factory=dict)  # the fingerprint of the target that was searched

    @property
    def shares_cpu(self) -> bool:
        return True

    @property
    def point(self) -> Point:
        return Point(self.told["knobs"])

    @property
    def baseline(self) -> Point:
        return Point(self.told["baseline"])

    def fingerprint(self) -> Mapping[str, Json]:
        """The model is what was searched; what computes it may be another version."""
        return {**self.proved, "packages": dict(versions())}

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        if point != self.point:
            return self.unmodified.build(point, fresh=fresh)
        key = digest(dict(self.told))
        return Artifact(key, self.code_key or key, str(self.place), command=("load.py",))

    @contextlib.contextmanager
    def open(self, artifact: Artifact) -> Iterator[NativeRunner]:
        if Path(artifact.path) != self.place:
            # One with drawn weights stands for the true one, whose answers are known.
            drawn = str(self.unmodified.options.get("weights", "")).startswith(SHAPES)
            with self.unmodified.opened(artifact, {"judged_by": str(self.place)} if drawn else {}) as runner:
                yield runner
            return
        with tempfile.TemporaryDirectory(prefix="optimizer-run-") as scratch:
            here = Path(scratch)
            document = {**self.unmodified.document(self.point, here), "act": "run", "export": str(self.place)}
            with self.unmodified.worker(document, here, here) as worker:
                yield NativeRunner(worker, worker.answer())
