"""Which values of a space's knobs work on this machine? A probing worker tries each once; what works is remembered."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from optimizer.space import Choice, Json, Space, digest
from optimizer.targets.torch.backends.options import seed_of
from optimizer.targets.torch.parts import BACKEND
from optimizer.targets.torch.tables import BACKENDS, TRANSFORMS
from optimizer.targets.torch.target import TorchTarget, versions
from optimizer.trial import TrialError

SEEDING = "compile"  # tried first: its cache is what the others' begin with


@dataclass(frozen=True)
class Working:
    """The space without what does not work here, and why that is missing, by KNOB=VALUE."""

    space: Space
    missing: Mapping[str, str]


def working(space: Space, target: TorchTarget) -> Working:
    """`target` lends its workers, its limits and its device. A knob none of whose values works keeps its default alone,
    and the reasons say so; the search then fails with them at its baseline."""
    known = _Known(target.cache / f"works-{_key(target)}.json")
    asked = [(knob, value) for knob, value in _asked(space) if not known.has(knob, value)]
    first = [pair for pair in asked if pair == (BACKEND, SEEDING)]
    missing: dict[str, str] = {}
    with ThreadPoolExecutor(2) as pool:
        for batch in (first, [pair for pair in asked if pair not in first]):
            for (knob, value), why in zip(batch, pool.map(lambda pair: _missing(target, *pair), batch), strict=True):
                if why is None:
                    known.add(knob, value)
                else:
                    missing[f"{knob}={value}"] = why
    return Working(_without(space, missing), missing)


def _asked(space: Space) -> Iterator[tuple[str, str]]:
    for name in (BACKEND, *TRANSFORMS):
        knob = space.by_name.get(name)
        if knob is not None and isinstance(knob.domain, Choice):
            yield from ((name, str(value)) for value in knob.domain.values if str(value) != "none")


def _missing(target: TorchTarget, knob: str, value: str) -> str | None:
    if knob == BACKEND:
        if value not in BACKENDS:
            return f"there is no backend {value}"
        if (why := BACKENDS[value].missing(target.device)) is not None:
            return why
    with tempfile.TemporaryDirectory(prefix="optimizer-probe-") as folder:
        document: dict[str, Json] = {
            "act": "probe",
            "knob": knob,
            "value": value,
            "knobs": {},
            "device": target.device,
            "folder": folder,
            "cache": str(target.cache),
        }
        try:
            answer = target.ask(document, Path(folder)).get("missing")
        except TrialError as error:
            return f"it fails here ({error.reason}): {' '.join(error.log.split())[:300]}"
    return None if answer is None else str(answer)


def _without(space: Space, missing: Mapping[str, str]) -> Space:
    kept = {
        knob.name: tuple(v for v in knob.domain.values if f"{knob.name}={v}" not in missing) or (knob.default,)
        for knob in space.knobs
        if isinstance(knob.domain, Choice)
    }
    return space.narrowed(kept)


def _key(target: TorchTarget) -> str:
    """What may make a value work or not: packages, processor, compiler (in the seed's name), device."""
    return digest([dict(versions()), seed_of(target.cache).name, target.device, target.gpu or ""])


class _Known:
    """What worked before, in a file. What did not is tried again: it may have been installed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._works = set(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            self._works = set()

    def has(self, knob: str, value: str) -> bool:
        return f"{knob}={value}" in self._works

    def add(self, knob: str, value: str) -> None:
        self._works.add(f"{knob}={value}")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(sorted(self._works)), encoding="utf-8")
