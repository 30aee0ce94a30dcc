"""A model behind Ollama as a target: its options are a request's, its settings those of a server of its own."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from optimizer.errors import ConfigError
from optimizer.files import write_whole
from optimizer.space import Json, Knob, Point, Space, digest, spelt
from optimizer.targets.ollama.api import Model
from optimizer.targets.ollama.runner import OllamaRunner
from optimizer.targets.ollama.server import Live, running_at, started
from optimizer.targets.ollama.work import SETTINGS, Work
from optimizer.targets.words import heard, told
from optimizer.trial import Artifact, Reason, TrialError


@dataclass(frozen=True)
class OllamaTarget:
    """program: `ollama`, started anew for each point; or None and the url of a server that runs. variables: of a
    server that is started, besides the point's. folder: where the baseline's answers are kept."""

    model: str
    space: Space
    work: Work
    program: str | None
    url: str
    variables: Mapping[str, str]
    folder: Path
    timeout_s: float
    shares_cpu: bool = True

    def fingerprint(self) -> Mapping[str, Json]:
        version, model = self.known
        return {
            "model": self.model,
            "digest": model.digest,
            "quantization": model.quantization,
            "ollama": version,
            "server": "started" if self.program else "running",
            "work": asdict(self.work),
        }

    def prepare(self) -> None:
        """The baseline's answers, once a study. Raises ConfigError where the model can't give them."""
        if self._reference_file.is_file():
            return
        baseline = self.space.baseline()
        try:
            with self._opened(self._options(baseline), self._settings(baseline), None) as runner:
                answers = runner.answers()
        except TrialError as error:
            raise ConfigError(f"{self.model} does not work as the baseline: {error.log}") from None
        if not any(text.strip() for text in answers):
            raise ConfigError(f"{self.model} answers nothing to any of {len(answers)} prompts.")
        write_whole(self._reference_file, json.dumps(answers, ensure_ascii=False).encode())

    def build(self, point: Point, *, fresh: bool = False) -> Artifact:
        """Nothing is built: what tells points apart is what the server is told."""
        _, model = self.known
        return Artifact(
            key=digest([model.digest, dict(point)]),
            code_key=model.digest,
            arguments=told(self._options(point)),
            environment=self._settings(point),
            command=tuple(self.preview(point)),
            facts={"model_bytes": model.size_bytes},
        )

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator[OllamaRunner]:
        if not self._reference_file.is_file():
            raise TrialError(Reason.CRASH, "the baseline's answers are gone: resume the search, which asks for them")
        reference: list[str] = json.loads(self._reference_file.read_text(encoding="utf-8"))
        with self._opened(heard(artifact.arguments), artifact.environment, reference) as runner:
            yield runner

    def preview(self, point: Point) -> Sequence[str]:
        """What becomes of a point, for people."""
        settings = " ".join(f"{name}={value}" for name, value in self._settings(point).items())
        serve = f"{settings} {self.program} serve".strip() if self.program else self.url
        return (serve, f"POST /api/generate {json.dumps({'model': self.model, 'options': self._options(point)})}")

    def asked(self) -> tuple[str, Model]:
        """The server's version, and the model. Raises TrialError."""
        with self._server(self._settings(self.space.baseline())) as live:
            return live.api.version(), live.api.model(self.model)

    @contextmanager
    def _opened(
        self, options: Mapping[str, Json], settings: Mapping[str, str], reference: Sequence[str] | None
    ) -> Iterator[OllamaRunner]:
        """Loads the model anew, so that its load is one, and holds the server to the context that was asked for."""
        _, model = self.known
        with self._server(settings) as live:
            live.api.unload(model.name)
            first = live.api.generate(model.name, "1", {**self.work.timing(options), "num_predict": 1})
            loaded = live.api.loaded(model.name)
            facts = {"load_s": first.load_s}
            if loaded is not None:
                facts |= {"loaded_bytes": loaded.size_bytes, "loaded_gpu_bytes": loaded.gpu_bytes}
                asked = options.get("num_ctx")
                if isinstance(asked, int) and loaded.context is not None and loaded.context < asked:
                    raise TrialError(
                        Reason.REJECTED, f"the server gave {loaded.context} tokens of context where {asked} were asked"
                    )
            try:
                yield OllamaRunner(live, model.name, options, self.work, reference, facts)
            finally:
                if self.program is None:
                    _left(live, model.name)

    @contextmanager
    def _server(self, settings: Mapping[str, str]) -> Iterator[Live]:
        if self.program is None:
            yield running_at(self.url, self.timeout_s)
            return
        with started(self.program, {**self.variables, **settings}, self.timeout_s) as live:
            yield live

    def _options(self, point: Point) -> dict[str, Json]:
        return {k.effect.name: point[k.name] for k in self._knobs(point) if k.effect.name not in SETTINGS}

    def _settings(self, point: Point) -> dict[str, str]:
        active = [k for k in self._knobs(point) if k.effect.name in SETTINGS]
        return {SETTINGS[k.effect.name]: spelt(point[k.name]) for k in active}

    def _knobs(self, point: Point) -> list[Knob]:
        return [k for k in self.space.knobs if k.name in point]

    @cached_property
    def known(self) -> tuple[str, Model]:
        try:
            return self.asked()
        except TrialError as error:
            raise ConfigError(f"target=ollama can't work here: {error.log}.") from None

    @cached_property
    def _reference_file(self) -> Path:
        _, model = self.known
        key = digest([model.digest, dict(self.space.baseline()), asdict(self.work)])
        return self.folder / "answers" / f"{key}.json"


def _left(live: Live, model: str) -> None:
    """A server of somebody else's gets its memory back; one that is gone has no use for it."""
    try:
        live.api.unload(model)
    except TrialError:
        return
