"""An exported model as a target: what its folder holds, and beside it the unmodified model in eager float32."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from optimizer.space import Json, Point, digest
from optimizer.targets.native import Limits, NativeRunner
from optimizer.targets.torch.target import IMPORTED, TorchTarget
from optimizer.targets.torch.told import resolved
from optimizer.targets.torch.workers import Zygote
from optimizer.trial import Artifact


@dataclass(frozen=True)
class ExportedTarget:
    """place: the export; told: its model.json; folder: where the baseline is built, a temporary one.

    The point of model.json is the export, which is never built again; any other is built as in a search.
    """

    place: Path
    told: Mapping[str, Any]
    folder: Path
    limits: Limits
    gpu: str | None = None
    zygote: Zygote = field(default_factory=lambda: Zygote(IMPORTED), compare=False)

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
        return {"export": digest(dict(self.told))}

    @cached_property
    def unmodified(self) -> TorchTarget:
        """The model before all changes. Where an export carries no weights of it, drawn ones: they are as fast."""
        return TorchTarget(
            task=str(self.told["task"]),
            options=resolved(self.told["options"], self.place),
            baseline=self.baseline,
            device=str(self.told["device"]),
            folder=self.folder,
            cache=self.folder / "cache",
            limits=self.limits,
            gpu=self.gpu,
            zygote=self.zygote,
        )

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        if point != self.point:
            return self.unmodified.build(point, fresh=fresh)
        key = digest(dict(self.told))
        return Artifact(key, key, str(self.place), command=("load.py",))

    @contextlib.contextmanager
    def open(self, artifact: Artifact) -> Iterator[NativeRunner]:
        if Path(artifact.path) != self.place:
            with self.unmodified.open(artifact) as runner:
                yield runner
            return
        with tempfile.TemporaryDirectory(prefix="optimizer-run-") as scratch:
            here = Path(scratch)
            document = {**self.unmodified.document(self.point, here), "act": "run", "export": str(self.place)}
            with self.unmodified.worker(document, here, here) as worker:
                yield NativeRunner(worker, worker.answer())
