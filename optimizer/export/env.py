"""winner.env: which variables does the winner run with? A file that a shell sources, Docker and systemd read."""

import re
from collections.abc import Mapping
from typing import final

from optimizer.export.shipment import Shipment
from optimizer.space import Value, spelt
from optimizer.targets.ollama.work import SETTINGS

ENV = "winner.env"
NUMBERED = {"threads": "OMP_NUM_THREADS", "n_threads": "OMP_NUM_THREADS", "num_threads": "OMP_NUM_THREADS"}
"""Run-time knobs that OpenMP, and with it torch, takes from a variable."""
SAFE = re.compile(r"[\w.,:/+@%-]*", re.ASCII)


@final
class Env:
    text = f"{ENV}: variables to run with, for `set -a; . {ENV}`, docker --env-file, systemd's EnvironmentFile"
    reopens = ""

    def unfit(self, shipment: Shipment) -> str:
        return "" if variables(shipment) else "the winner sets no variable"

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        lines = [f"# {shipment.origin}", *(f"{name}={value}" for name, value in variables(shipment).items())]
        return {ENV: ("\n".join(lines) + "\n").encode()}


def variables(shipment: Shipment) -> Mapping[str, str]:
    """By name, sorted; a value is one word: sourcing, Docker and systemd quote in different ways."""
    found: dict[str, str] = {}
    for knob in shipment.space.knobs:
        if knob.name not in shipment.trial.point:
            continue
        value, effect = shipment.trial.point[knob.name], knob.effect
        key = effect.name or knob.name
        if effect.kind == "env" and (words := effect.words(value)):
            found[effect.name] = words[0]
        elif effect.kind in ("option", "setting") and key in NUMBERED and _counts(value):
            found[NUMBERED[key]] = spelt(value)
        elif shipment.kind == "ollama" and key in SETTINGS:
            found[SETTINGS[key]] = spelt(value)
    return {name: found[name] for name in sorted(found) if SAFE.fullmatch(found[name])}


def _counts(value: Value) -> bool:
    """0 stands for the library's own choice."""
    return not isinstance(value, int) or value > 0
