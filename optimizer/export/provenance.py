"""provenance.json: where does an export come from, what does it promise, and how is that measured again?"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from optimizer.export.shipment import Shipment
from optimizer.space import Json
from optimizer.stats import Judgement
from optimizer.trial import Measured, metrics_of

PROVENANCE = "provenance.json"
VERSION = 2
"""Of the document: 1 had neither promise nor files."""
FROM_FILES = "built"
"""How the winner is opened where exported flags and macros say it: the target compiles with them."""
FROM_POINT = "point"
"""How the winner is opened where no exported file says it: the target builds its point."""


def provenance(shipment: Shipment, files: Mapping[str, bytes], formats: Sequence[str], reopens: str) -> bytes:
    """Recipe, environment, metrics, verdict, promise, and the hashes of the files beside it. `reopens`: a line of
    optimizer/config/reopened.py."""
    study, trial = shipment.study, shipment.trial
    verdict = study.ending.verdict if study.ending else None
    document = {
        "version": VERSION,
        "study": study.name,
        "recipe_key": study.recipe.key,
        "recipe": study.recipe.document(),
        "settings": asdict(study.settings),
        "target": dict(shipment.target),
        "environment": study.environment.document(),
        "number": trial.number,
        "point": dict(trial.point),
        "baseline_point": dict(study.trials[0].point),
        "metrics": metrics_of(trial),
        "baseline_metrics": metrics_of(study.trials[0]),
        "verdict": asdict(verdict) if verdict else None,
        "confirmed": _confirmed(shipment),
        "compile_side_only": not study.environment.runs,
        "command": list(trial.artifact.command) if trial.artifact else [],
        "arguments": list(trial.artifact.arguments) if trial.artifact else [],
        "code_key": trial.artifact.code_key if trial.artifact else "",
        "promise": promise(shipment),
        "reopens": reopens,
        "formats": list(formats),
        "files": {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())},
    }
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def promise(shipment: Shipment) -> Json:
    """What `verify` holds the export to: the ratio against the baseline with its interval (null where none was proved),
    the one that the search's own readings told before, and how far below both a new one may lie; the answers' errors
    and quality; and the limits."""
    study, outcome = shipment.study, shipment.trial.outcome
    verdict = study.ending.verdict if study.ending and _confirmed(shipment) else None
    first = study.recipe.goal.first
    check = outcome.check if isinstance(outcome, Measured) else None
    return {
        "metric": first.metric,
        "direction": first.direction,
        "statistic": first.statistic,
        "ratio": asdict(verdict) if verdict else None,
        "seen": first.gain_of(shipment.trial, study.trials[0]) if verdict else None,
        "tolerance_pct": shipment.tolerance_pct,
        "errors": dict(check.errors) if check else {},
        "quality": dict(check.quality) if check else {},
        "limits": [asdict(limit) for limit in study.recipe.goal.limits],
    }


def _confirmed(shipment: Shipment) -> bool:
    """Whether this very trial was proved better than the baseline."""
    ending = shipment.study.ending
    verdict = ending.verdict if ending else None
    if verdict is None or shipment.trial.number == 0:
        return False
    return verdict.number == shipment.trial.number and verdict.judgement is Judgement.BETTER
