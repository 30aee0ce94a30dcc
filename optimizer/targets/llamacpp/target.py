"""A GGUF model in llama.cpp as a target: quantised once for each type, built once for each set of CMake flags, run by a
worker for each point."""

import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from optimizer.errors import ConfigError
from optimizer.files import made_once
from optimizer.process import Conversation, conversation, run_tool
from optimizer.space import Json, Point, Space, digest
from optimizer.targets.builds import file_hash, words_of
from optimizer.targets.llamacpp.quantize import AS_IT_IS, facts
from optimizer.targets.llamacpp.wheels import Wheel, Wheels
from optimizer.targets.native import Limits, NativeRunner
from optimizer.targets.words import heard, told
from optimizer.trial import Artifact, Reason, TrialError

TYPE = "type"
START_S = 600.0  # of a quantisation
MODEL, RECORD = "model.gguf", "record.json"
LIBRARIES = "LLAMA_CPP_LIB_PATH"
"""The variable by which llama-cpp-python is told of other libraries than those that lie in it."""


@dataclass(frozen=True, slots=True)
class Work:
    prompt_tokens: int = 64
    generate_tokens: int = 32
    windows: int = 4
    window_tokens: int = 256


@dataclass(frozen=True)
class LlamaCppTarget:
    """cache: of quantised files, by their content; version: of llama-cpp-python; wheels: builds it anew where the
    space has flags, and is None where it has none. A point without flags runs in what is installed."""

    source: Path
    space: Space
    work: Work
    version: str
    cache: Path
    limits: Limits
    wheels: Wheels | None = None
    shares_cpu: bool = True

    def fingerprint(self) -> Mapping[str, Json]:
        builder = {"compiler": self.wheels.compiler.version} if self.wheels else {}
        return {"model": self._hash, "llama_cpp_python": self.version, "work": asdict(self.work), **builder}

    def prepare(self) -> None:
        """The baseline's answers, once for its file and its work. Raises ConfigError."""
        if self._reference.is_file():
            return
        try:
            artifact = self.build(self.space.baseline())
            made_once(self._reference, lambda part: self._answered(artifact, part))
        except TrialError as error:
            raise ConfigError(f"{self.source.name} does not work as the baseline: {error.log}") from None

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        """A file of a type and a wheel of some flags are made once, whatever `fresh` says: they are no shorter then."""
        wanted, wheel = str(point.get(TYPE, AS_IT_IS)), self._wheel(point)
        place = self.cache / "gguf" / digest([self._hash, wanted, self.version])
        made_once(place, lambda part: self._quantised(wanted, part))
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        knobs, code = self._knobs(point), digest([place.name, wheel.key if wheel else ""])
        return Artifact(
            key=digest([code, knobs]),
            code_key=code,
            path=str(self.source if wanted == AS_IT_IS else place / MODEL),
            arguments=told(knobs),
            environment={LIBRARIES: str(wheel.libraries)} if wheel else {},
            command=tuple(self.preview(point)),
            log=json.dumps(record),
            facts={
                "transform_s": record["wall_s"],
                **facts(record["types"], wanted),
                **({"compile_time_s": wheel.wall_s} if wheel else {}),
            },
        )

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator[NativeRunner]:
        with self._worker(artifact, self._reference) as worker:
            yield NativeRunner(worker, worker.answer())

    def preview(self, point: Point) -> Sequence[str]:
        knobs = " ".join(f"{name}={value}" for name, value in self._knobs(point).items())
        built = (f"CMAKE_ARGS='{shlex.join(flags)}'",) if (flags := words_of(self.space, point, "flag")) else ()
        return (*built, f"{self.source.name} as {point.get(TYPE, AS_IT_IS)}", knobs)

    def _wheel(self, point: Point) -> Wheel | None:
        flags = words_of(self.space, point, "flag")
        return self.wheels.built(flags) if self.wheels and flags else None

    def _quantised(self, wanted: str, part: Path) -> None:
        """The model in this type and a record, in a folder."""
        part.mkdir()
        words = [str(self.source), str((part / MODEL).resolve()), wanted]
        command = [sys.executable, "-m", "optimizer.targets.llamacpp.quantize", *words]
        done = run_tool(command, max(START_S, self.limits.timeout_s), part)
        if done.status != 0:
            why = Reason.TIMEOUT if done.status is None else Reason.COMPILE
            raise TrialError(why, f"{self.source.name} can't be had as {wanted}\n{done.output}", again=done.killed)
        types = json.loads(done.output.strip().splitlines()[-1])["types"]
        (part / RECORD).write_text(json.dumps({"wall_s": done.wall_s, "types": types}), encoding="utf-8")

    def _answered(self, artifact: Artifact, part: Path) -> None:
        with self._worker(artifact, None) as worker:
            worker.answer()
            worker.ask(f"answers {part.resolve()}")

    def _knobs(self, point: Point) -> dict[str, Json]:
        settings = [k for k in self.space.knobs if k.name in point and k.effect.kind == "setting"]
        return {k.effect.name: point[k.name] for k in settings if k.effect.name != TYPE}

    @contextmanager
    def _worker(self, artifact: Artifact, reference: Path | None) -> Iterator[Conversation]:
        document = {
            "model": artifact.path,
            "knobs": heard(artifact.arguments),
            "work": asdict(self.work),
            "reference": str(reference) if reference else None,
        }
        command = [sys.executable, "-m", "optimizer.targets.llamacpp.worker", json.dumps(document)]
        limits = self.limits
        with (
            tempfile.TemporaryDirectory(prefix="optimizer-llamacpp-") as scratch,
            conversation(
                command, artifact.environment, Path(scratch), limits.timeout_s, limits.memory_bytes, reserves=True
            ) as worker,
        ):
            yield worker

    @cached_property
    def _hash(self) -> str:
        return file_hash(self.source)

    @cached_property
    def _reference(self) -> Path:
        key = digest([self._hash, self.version, dict(self.space.baseline()), asdict(self.work)])
        return self.cache / "llamacpp" / f"{key}.npz"
