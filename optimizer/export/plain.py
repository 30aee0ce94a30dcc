"""winner.json: what does a script of one's own need to know of the winner?"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import final

from optimizer.export.shipment import Shipment
from optimizer.export.words import flags_of, macros_of
from optimizer.trial import metrics_of

PLAIN = "winner.json"


@final
class Plain:
    text = f"{PLAIN}: knobs, flags, macros, options, variables, metrics and verdict as one JSON object"
    reopens = ""

    def unfit(self, shipment: Shipment) -> str:
        return ""

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        trial, study = shipment.trial, shipment.study
        active = [k for k in shipment.space.knobs if k.name in trial.point]
        words = {
            kind: {k.effect.name: k.effect.word(trial.point[k.name]) for k in active if k.effect.kind == kind}
            for kind in ("option", "env")
        }
        verdict = study.ending.verdict if study.ending else None
        document = {
            "origin": shipment.origin,
            "target": study.recipe.target.name,
            "point": dict(trial.point),
            "flags": flags_of(shipment),
            "macros": dict(macros_of(shipment)),
            "options": words["option"],
            "environment": words["env"],
            "metrics": metrics_of(trial),
            "verdict": asdict(verdict) if verdict and verdict.number == trial.number else None,
        }
        return {PLAIN: (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()}
