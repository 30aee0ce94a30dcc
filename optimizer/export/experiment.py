"""experiment/winner.yaml: how is the winner searched, or measured against the baseline, again by this program?"""

import json
from collections.abc import Mapping, Sequence
from typing import final

from optimizer.export.shipment import Shipment
from optimizer.space import Json
from optimizer.text import value_text

EXPERIMENT = "experiment/winner.yaml"


@final
class Experiment:
    text = f"{EXPERIMENT}: a Hydra experiment that measures the winner against the baseline"
    reopens = ""

    def unfit(self, shipment: Shipment) -> str:
        chosen = "target" in shipment.study.settings.choices
        return "" if chosen else "the study was not searched from a configuration"

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        """A search of two trials, the baseline and the winner, whose verdict repeats the proof."""
        head = [
            shipment.origin,
            "Measure it against the baseline again: python -m optimizer search --config-dir FOLDER experiment=winner",
            "Or pin single knobs in any search:",
            *(f"  space.{name}={value_text(value)}" for name, value in shipment.trial.point.items()),
        ]
        tree = {
            **shipment.settings,
            "budget": {"trials": 2, "seconds": None},
            "known_good": [dict(shipment.trial.point)],
        }
        settings = shipment.study.settings
        return {EXPERIMENT: experiment_file(head, settings.choices, settings.spaces, tree)}


def experiment_file(
    head: Sequence[str], choices: Mapping[str, str], spaces: Sequence[str], tree: Mapping[str, Json]
) -> bytes:
    """An experiment of the same target, space, objective and measure; `tree`: what it says besides."""
    groups = {g: c for g, c in choices.items() if g in ("target", "objective", "measure")}
    lines = [
        "# @package _global_",
        *(f"# {line}" for line in head),
        "defaults:",
        *(f"  - override /{group}: {choice}" for group, choice in groups.items()),
        f"  - override /space: [{', '.join(spaces)}]",
        *(f"{name}: {json.dumps(value)}" for name, value in tree.items()),
    ]
    return ("\n".join(lines) + "\n").encode()
