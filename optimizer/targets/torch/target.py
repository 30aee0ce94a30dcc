"""A torch model as a target: built by a worker that compiles cold, opened as a worker that loads what was left warm.

An artifact's folder holds all that its point needs: compile caches, packages, what transforms learnt, and its record.
It is built where it stays, since caches name their own paths.
"""

import contextlib
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from optimizer.errors import ConfigError
from optimizer.process import Conversation
from optimizer.space import Json, Point, digest
from optimizer.targets.builds import RECORD, recorded, write_record
from optimizer.targets.native import Limits, NativeRunner
from optimizer.targets.torch.backends.options import environment
from optimizer.targets.torch.parts import BACKEND
from optimizer.targets.torch.workers import WORKER, Zygote
from optimizer.trial import Artifact, Reason, TrialError

IMPORTED = ("torch", "torch._dynamo", "torch._inductor.compile_fx", WORKER)
"""What every worker finds imported. None of it touches a tensor or starts a thread."""
VERSIONED = ("torch", "torchao", "transformers", "onnxruntime", "openvino", "torch-pruning", "torch-tensorrt")
POINT = "point.json"


@dataclass(frozen=True)
class TorchTarget:
    """One model and its scenario. task and options: a line of tables.TASKS and what it is made of.

    folder: where artifacts go, one subfolder a point; cache: what is kept between studies; baseline: number 0.
    """

    task: str
    options: Mapping[str, Json]
    baseline: Point
    device: str
    folder: Path
    cache: Path
    limits: Limits
    gpu: str | None = None  # which one, by its UUID
    zygote: Zygote = field(default_factory=lambda: Zygote(IMPORTED), compare=False)
    _locks: dict[str, threading.Lock] = field(default_factory=dict, repr=False, compare=False)

    @property
    def shares_cpu(self) -> bool:
        """On a GPU too: compiling tries kernels on the device that is measured."""
        return True

    def fingerprint(self) -> Mapping[str, Json]:
        return {"task": self.task, "options": dict(self.options), **self._content}

    @cached_property
    def _content(self) -> Mapping[str, Json]:
        """Of weights and texts at the baseline, and what computes with them. Raises ConfigError where the model can't
        even be found."""
        try:
            with tempfile.TemporaryDirectory(prefix="optimizer-torch-") as scratch:
                content = self.ask({"act": "content", **self.document(self.baseline, Path(scratch))}, Path(scratch))
        except TrialError as error:
            raise ConfigError(f"The model can't be made: {error.log}") from None
        return {"content": content["content"], "packages": dict(versions())}

    def ask(self, document: Mapping[str, Json], folder: Path) -> Mapping[str, Any]:
        """The one answer of a worker that is started for it. Raises TrialError."""
        with self.worker(document, folder, folder) as worker:
            return worker.answer()

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        key = digest([self.task, dict(self.options), self._content, self.device, dict(point)])
        with self._lock(key):
            place = self.folder / key
            if (known := recorded(place / RECORD)) is not None and not fresh:
                return Artifact(**known)
            if fresh:
                place = self.folder / f"{key}-again"
            shutil.rmtree(place, ignore_errors=True)  # of a build that did not come to its end
            place.mkdir(parents=True)
            try:
                artifact = self._built(point, key, place)
                (place / POINT).write_text(json.dumps(dict(point)), encoding="utf-8")
                write_record(place, artifact)
            except TrialError:
                shutil.rmtree(place, ignore_errors=True)
                raise
            if fresh:
                shutil.rmtree(place)
            return artifact

    @contextlib.contextmanager
    def open(self, artifact: Artifact) -> Iterator[NativeRunner]:
        with self.opened(artifact, {}) as runner:
            yield runner

    @contextlib.contextmanager
    def opened(self, artifact: Artifact, more: Mapping[str, Json]) -> Iterator[NativeRunner]:
        """`more`: what the worker is told besides (worker.py)."""
        with self._working(artifact, {**more, "act": "run"}) as worker:
            yield NativeRunner(worker, worker.answer())

    def export(self, artifact: Artifact, out: Path) -> Mapping[str, Any]:
        """Writes the built point into a folder that another process can load it from; returns what model.json says.
        Raises TrialError."""
        asked = {"act": "export", "out": str(out), "baseline": dict(self.baseline)}
        with self._working(artifact, asked) as worker:
            exported: Mapping[str, Any] = worker.answer()["exported"]
            return exported

    @contextlib.contextmanager
    def _working(self, artifact: Artifact, asked: Mapping[str, Json]) -> Iterator[Conversation]:
        """A worker on a built point."""
        place = Path(artifact.path)
        point = json.loads((place / POINT).read_text(encoding="utf-8"))
        with (
            tempfile.TemporaryDirectory(prefix="optimizer-run-") as scratch,
            self.worker({**self.document(point, place), **asked}, place, Path(scratch)) as worker,
        ):
            yield worker

    def preview(self, point: Point) -> tuple[str, ...]:
        """What becomes of a point, for people."""
        changes = [f"{name}={value}" for name, value in point.items() if name != BACKEND]
        return (f"{self.task} {dict(self.options)}", f"{point.get(BACKEND, 'eager')} {' '.join(changes)}".strip())

    def _built(self, point: Point, key: str, place: Path) -> Artifact:
        answer = self.ask({"act": "build", **self.document(point, place)}, place)
        built = answer.get("built")
        if not isinstance(built, dict):
            raise TrialError(Reason.CRASH, f"the worker answered build with {json.dumps(answer)[:200]}")
        others = {name: value for name, value in point.items() if name not in built["coded"]}
        return Artifact(
            key=key,
            code_key=digest([built["code"], others]) if built["code"] else key,
            path=str(place),
            command=self.preview(point),
            log=json.dumps(built["notes"], indent=1, ensure_ascii=False),
            facts={str(name): float(value) for name, value in built["facts"].items() if value is not None},
        )

    def document(self, point: Mapping[str, Json], place: Path) -> Mapping[str, Json]:
        """What a worker is told of a point whose artifact lies in `place`."""
        return {
            "task": self.task,
            "options": dict(self.options),
            "knobs": dict(point),
            "device": self.device,
            "folder": str(place),
            "cache": str(self.cache),
        }

    @contextlib.contextmanager
    def worker(self, document: Mapping[str, Json], place: Path, scratch: Path) -> Iterator[Conversation]:
        """One that works in `scratch` and keeps its compile caches in `place`."""
        self.cache.mkdir(parents=True, exist_ok=True)
        variables = {**environment(place), "TMPDIR": str(scratch)}
        if self.gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.gpu
        limits = self.limits
        with self.zygote.worker(document, variables, str(scratch), limits.timeout_s, limits.memory_bytes) as worker:
            yield worker

    def _lock(self, key: str) -> threading.Lock:
        return self._locks.setdefault(key, threading.Lock())


def versions() -> Mapping[str, str]:
    """Of the packages that compute, where they are installed."""
    found = {}
    for name in VERSIONED:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
