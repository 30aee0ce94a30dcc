"""Studies of configured targets and what is exported of them, as tests want them: without a search."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from optimizer.config import load
from optimizer.config.objects import Setup
from optimizer.export.shipment import Shipment
from optimizer.export.table import chosen, exported
from optimizer.files import write_whole
from optimizer.journal import Study
from optimizer.objective import Direction
from optimizer.protocols import Ending
from optimizer.space import Point, Value
from optimizer.stats import Judgement, Verdict
from optimizer.trial import Candidate, Check, Measured, Trial

DAY = date(2026, 11, 28)


def setup_at(folder: Path, *words: str) -> Setup:
    return load([*words, "tracking=none", f"studies_dir={folder}", "study=s"], (), DAY)


def study_of(setup: Setup, changed: Mapping[str, Value], ratio: float = 2.0) -> Study:
    """A study whose trial 1 is the baseline with these knobs changed, proved `ratio` times as good."""
    space, metric = setup.recipe.space, setup.recipe.goal.first.metric
    baseline = setup.recipe.start[0]
    winner = space.active({**{k.name: k.default for k in space.knobs}, **baseline, **changed})
    first = setup.recipe.goal.first
    slow = ratio if first.direction is Direction.MINIMIZE else 1 / ratio
    verdict = Verdict(metric, ratio, ratio * 0.97, ratio * 1.03, Judgement.BETTER, 1, 10)
    return Study(
        "s",
        setup.recipe,
        replace(setup.made.device.describe(), host={}),
        (_trial(0, baseline, metric, slow), _trial(1, winner, metric, 1.0)),
        ending=Ending(verdict),
        settings=setup.settings,
    )


def _trial(number: int, point: Point, metric: str, value: float) -> Trial:
    return Trial(Candidate(number, point), Measured(Check({"max_rel_error": 0.0}), {metric: (value,)}))


def ship(study: Study, folder: Path, to: Sequence[str] = (), **more: object) -> dict[str, bytes]:
    """Writes the export of trial 1; its files."""
    shipment = Shipment(study, study.trials[1], study.settings.target, **more)  # type: ignore[arg-type]
    files = exported(chosen(to, shipment), shipment)
    for path, content in files.items():
        write_whole(folder / path, content)
    return files


def shipped_at(folder: Path, factor: float, *words: str) -> Path:
    """The synthetic target's export, whose promised ratio is `factor` times the true one."""
    setup = setup_at(folder / "studies", "target=synthetic", "target.failing=0", "target.noise=0.001", *words)
    target, base = setup.made.target, setup.recipe.start[0]
    points = [setup.feasible.space.active({**base, "batch": value}) for value in (2, 4, 8, 16)]
    best = min(points, key=lambda p: latency_s(target, p))
    ratio = latency_s(target, base) / latency_s(target, best)
    ship(study_of(setup, dict(best), ratio * factor), folder / "export")
    return folder / "export"


def latency_s(target: object, point: object) -> float:
    return float(target.latency_s(point))  # type: ignore[attr-defined]
