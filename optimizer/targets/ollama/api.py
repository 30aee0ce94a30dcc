"""What does an Ollama server answer, and what is wrong when it does not? (ollama/ollama, docs/api.md)"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3

from optimizer.space import Json
from optimizer.trial import Reason, TrialError

NANO = 1e-9
FOREVER = -1  # keep_alive: the model stays loaded


@dataclass(frozen=True, slots=True)
class Model:
    """One that the server has on its disk."""

    name: str
    digest: str
    size_bytes: float
    quantization: str  # as its file says


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory. context: tokens that it was given room for; None where the server's version tells none."""

    size_bytes: float
    gpu_bytes: float
    context: int | None


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer with the server's own timings. prompt_tokens is 0 where it took the prompt from its cache."""

    text: str
    total_s: float
    load_s: float
    prompt_tokens: int
    prompt_s: float
    tokens: int
    eval_s: float


@dataclass(frozen=True)
class Api:
    """`url` without a slash at its end; timeout_s: of one request."""

    url: str
    timeout_s: float

    def version(self) -> str:
        return str(self._asked("GET", "/api/version").get("version", ""))

    def model(self, name: str) -> Model:
        """Raises TrialError(REJECTED) where the server has none of this name, with those that it has."""
        found = {str(m.get("name")): m for m in _listed(self._asked("GET", "/api/tags"))}
        said = found.get(name) or found.get(f"{name}:latest")
        if said is None:
            have = f" It has {', '.join(sorted(found))}." if found else ""
            raise TrialError(Reason.REJECTED, f"{self.url} has no model {name}: run `ollama pull {name}`.{have}")
        details = said.get("details") or {}
        return Model(
            name=str(said["name"]),
            digest=str(said.get("digest", "")),
            size_bytes=float(said.get("size", 0.0)),
            quantization=str(details.get("quantization_level", "")),
        )

    def loaded(self, name: str) -> Loaded | None:
        for said in _listed(self._asked("GET", "/api/ps")):
            if said.get("name") == name:
                context = said.get("context_length")
                return Loaded(
                    size_bytes=float(said.get("size", 0.0)),
                    gpu_bytes=float(said.get("size_vram", 0.0)),
                    context=int(context) if context else None,
                )
        return None

    def unload(self, name: str) -> None:
        self._asked("POST", "/api/generate", {"model": name, "keep_alive": 0, "stream": False})

    def generate(self, name: str, prompt: str, options: Mapping[str, Json]) -> Generated:
        """Answers the prompt as it stands, without the model's template. Raises TrialError."""
        request = {
            "model": name,
            "prompt": prompt,
            "raw": True,
            "stream": False,
            "keep_alive": FOREVER,
            "options": dict(options),
        }
        said = self._asked("POST", "/api/generate", request)
        try:
            return Generated(
                text=str(said["response"]),
                total_s=NANO * float(said["total_duration"]),
                load_s=NANO * float(said.get("load_duration", 0)),
                prompt_tokens=int(said.get("prompt_eval_count", 0)),
                prompt_s=NANO * float(said.get("prompt_eval_duration", 0)),
                tokens=int(said.get("eval_count", 0)),
                eval_s=NANO * float(said.get("eval_duration", 0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TrialError(
                Reason.CRASH, f"{self.url} told no timings ({error!r}): {json.dumps(said)[:300]}"
            ) from None

    def _asked(self, method: str, path: str, body: Mapping[str, Json] | None = None) -> dict[str, Any]:
        try:
            answer = urllib3.request(method, f"{self.url}{path}", json=body, timeout=self.timeout_s, retries=False)
        except urllib3.exceptions.NewConnectionError:  # before the timeouts, of which urllib3 makes it one
            raise TrialError(Reason.CRASH, f"{self.url} can't be reached: does `ollama serve` run?") from None
        except (urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.ReadTimeoutError):
            raise TrialError(
                Reason.TIMEOUT, f"{self.url}{path} did not answer within {self.timeout_s:g} s (measure.timeout_s)"
            ) from None
        except urllib3.exceptions.HTTPError as error:
            raise TrialError(Reason.CRASH, f"{self.url}{path} broke off: {error}") from None
        try:
            said = json.loads(answer.data)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise TrialError(Reason.CRASH, f"{self.url}{path} is no server of Ollama's: {answer.data[:200]!r}")
        if answer.status >= 400 or "error" in said:
            raise _error(answer.status, str(said.get("error", said)), body)
        return said


def _listed(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [m for m in answer.get("models") or [] if isinstance(m, dict)]


def _error(status: int, text: str, body: Mapping[str, Json] | None) -> TrialError:
    """404: the model is gone; its words on memory are those of its scheduler and of llama.cpp."""
    if status == 404:
        return TrialError(Reason.REJECTED, f"{text}: run `ollama pull {(body or {}).get('model', 'MODEL')}`")
    if "memory" in text.lower():
        return TrialError(Reason.MEMORY, text)
    return TrialError(Reason.REJECTED if status == 400 else Reason.CRASH, f"status {status}: {text}")
