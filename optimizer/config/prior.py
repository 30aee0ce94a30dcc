"""How do the words of strategy.prior become what is known of a space from elsewhere?"""

from pathlib import Path
from typing import Any

from optimizer.errors import ConfigError, nearest
from optimizer.journal import JOURNAL
from optimizer.objective import Goal
from optimizer.readers.recording import recording
from optimizer.space import Point, Space, Value
from optimizer.strategies.prior import LEAST, Known
from optimizer.trial import Trial, samples_of


def known_of(words: Any, studies_dir: Path, goal: Goal, space: Space) -> tuple[Known, ...]:
    """Of each word, a study's name or a recorded file, what it tells of this space's points.

    Raises ConfigError where one is not there, did not measure the objective, or shares too few points with the space.
    """
    if not words:
        return ()
    listed = words if isinstance(words, list | tuple) else [words]
    return tuple(_known(str(word), _path(str(word), studies_dir), goal, space) for word in listed)


def _path(word: str, studies_dir: Path) -> Path:
    if Path(word).is_file():
        return Path(word)
    journal = studies_dir / word / JOURNAL
    if journal.is_file():
        return journal
    studies = sorted(p.parent.name for p in studies_dir.glob("*/journal.jsonl"))
    raise ConfigError(
        f"strategy.prior: '{word}' is neither a file nor a study in {studies_dir}.{nearest(word, studies)}"
    )


def _known(word: str, path: Path, goal: Goal, space: Space) -> Known:
    found = recording(path)
    baseline = next(t for t in found.trials if t.point == found.baseline)
    losses: dict[Point, float | None] = {}
    for trial in found.trials:
        if (point := translated(trial.point, space)) is not None:
            losses[point] = _loss(goal, trial, baseline)
    if sum(loss is not None for loss in losses.values()) >= LEAST:
        return Known(word, losses)
    theirs, ours = {k.name for k in found.space.knobs}, set(space.by_name)
    there, here = ", ".join(sorted(theirs - ours)) or "none", ", ".join(sorted(ours - theirs)) or "none"
    raise ConfigError(
        f"strategy.prior: fewer than {LEAST} of the {len(found.trials)} trials of {word} are points of this space with "
        f"{goal.first.metric} measured, too few to start from. Knobs only there: {there}; only here: {here}."
    )


def translated(point: Point, space: Space) -> Point | None:
    """A point of another search as one of this space: knobs that it lacks take their defaults, knobs that the space
    lacks are left out. None where the space has no such point."""
    values: dict[str, Value] = {k.name: k.default for k in space.knobs} | dict(space.baseline())
    values |= {n: v for n, v in point.items() if n in space.by_name}
    moved = space.active(values)
    return moved if moved in space else None


def _loss(goal: Goal, trial: Trial, baseline: Trial) -> float | None:
    """None where it failed, or broke a limit that can be judged there."""
    if (losses := Goal(goal.objectives).losses(trial)) is None:
        return None
    judged = tuple(x for x in goal.limits if _measured(trial, x.metric) and _measured(baseline, x.metric))
    return None if Goal(goal.objectives, judged).violations(trial, baseline) else losses[0]


def _measured(trial: Trial, metric: str) -> bool:
    return bool(samples_of(trial).get(metric))
