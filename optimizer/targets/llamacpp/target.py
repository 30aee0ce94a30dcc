"""A GGUF model in llama.cpp as a target: quantised once for each type, run by a worker for each point."""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock

from optimizer.errors import ConfigError
from optimizer.process import Conversation, conversation, run_tool
from optimizer.space import Json, Point, Space, digest
from optimizer.targets.builds import file_hash
from optimizer.targets.llamacpp.quantize import AS_IT_IS, facts
from optimizer.targets.native import Limits, NativeRunner
from optimizer.trial import Artifact, Reason, TrialError

TYPE = "type"
START_S = 600.0  # of a quantisation


@dataclass(frozen=True, slots=True)
class Work:
    prompt_tokens: int = 64
    generate_tokens: int = 32
    windows: int = 4
    window_tokens: int = 256


@dataclass(frozen=True)
class LlamaCppTarget:
    """cache: of quantised files, by their content; version: of llama-cpp-python."""

    source: Path
    space: Space
    work: Work
    version: str
    cache: Path
    limits: Limits
    shares_cpu: bool = True

    def fingerprint(self) -> Mapping[str, Json]:
        return {"model": self._hash, "llama_cpp_python": self.version, "work": asdict(self.work)}

    def prepare(self) -> None:
        """The baseline's answers, once for its file and its work. Raises ConfigError."""
        with FileLock(self._lock(self._reference)):
            if self._reference.is_file():
                return
            baseline = self.space.baseline()
            aside = self._reference.with_suffix(".new.npz")
            try:
                artifact = self.build(baseline)
                with self._worker(Path(artifact.path), self._knobs(baseline), None) as worker:
                    worker.answer()
                    worker.ask(f"answers {aside}")
            except TrialError as error:
                raise ConfigError(f"{self.source.name} does not work as the baseline: {error.log}") from None
            aside.replace(self._reference)

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        wanted = str(point.get(TYPE, AS_IT_IS))
        key = digest([self._hash, wanted, self.version])
        place, record = self.cache / "gguf" / f"{key}.gguf", self.cache / "gguf" / f"{key}.json"
        with FileLock(self._lock(record)):
            if fresh or not record.is_file() or not (wanted == AS_IT_IS or place.is_file()):
                self._quantised(wanted, place, record)
        told = json.loads(record.read_text(encoding="utf-8"))
        path = self.source if wanted == AS_IT_IS else place
        knobs = self._knobs(point)
        return Artifact(
            key=digest([key, knobs]),
            code_key=key,
            path=str(path),
            arguments=tuple(f"{name}={json.dumps(value)}" for name, value in knobs.items()),
            command=tuple(self.preview(point)),
            log=json.dumps(told),
            facts={"transform_s": told["wall_s"], **facts(told["types"], wanted)},
        )

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator[NativeRunner]:
        pairs = [word.partition("=") for word in artifact.arguments]
        knobs = {name: json.loads(value) for name, _, value in pairs}
        with self._worker(Path(artifact.path), knobs, self._reference) as worker:
            yield NativeRunner(worker, worker.answer())

    def preview(self, point: Point) -> Sequence[str]:
        knobs = " ".join(f"{name}={value}" for name, value in self._knobs(point).items())
        return (f"{self.source.name} as {point.get(TYPE, AS_IT_IS)}", knobs)

    def _quantised(self, wanted: str, place: Path, record: Path) -> None:
        with tempfile.TemporaryDirectory(dir=place.parent, prefix="quantising-") as scratch:
            aside = Path(scratch) / "model.gguf"
            words = [str(self.source), str(aside), wanted]
            command = [sys.executable, "-m", "optimizer.targets.llamacpp.quantize", *words]
            done = run_tool(command, max(START_S, self.limits.timeout_s), Path(scratch))
            if done.status != 0:
                why = Reason.TIMEOUT if done.status is None else Reason.COMPILE
                raise TrialError(why, f"{self.source.name} can't be had as {wanted}\n{done.output}")
            types = json.loads(done.output.strip().splitlines()[-1])["types"]
            if aside.is_file():
                shutil.move(aside, place)
            record.write_text(json.dumps({"wall_s": done.wall_s, "types": types}), encoding="utf-8")

    def _knobs(self, point: Point) -> dict[str, Json]:
        named = {k.effect.name: point[k.name] for k in self.space.knobs if k.name in point}
        return {name: value for name, value in named.items() if name != TYPE}

    @contextmanager
    def _worker(self, model: Path, knobs: Mapping[str, Json], reference: Path | None) -> Iterator[Conversation]:
        document = {
            "model": str(model),
            "knobs": dict(knobs),
            "work": asdict(self.work),
            "reference": str(reference) if reference else None,
        }
        command = [sys.executable, "-m", "optimizer.targets.llamacpp.worker", json.dumps(document)]
        limits = self.limits
        with (
            tempfile.TemporaryDirectory(prefix="optimizer-llamacpp-") as scratch,
            conversation(command, {}, Path(scratch), limits.timeout_s, limits.memory_bytes, reserves=True) as worker,
        ):
            yield worker

    def _lock(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_suffix(".lock")

    @cached_property
    def _hash(self) -> str:
        return file_hash(self.source)

    @cached_property
    def _reference(self) -> Path:
        key = digest([self._hash, self.version, dict(self.space.baseline()), asdict(self.work)])
        return self.cache / "llamacpp" / f"{key}.npz"
