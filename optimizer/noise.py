"""How far must two configurations lie apart on this machine to be told apart? A program is measured against itself."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from optimizer.confirm import Match
from optimizer.errors import MALFORMED, ConfigError
from optimizer.files import write_whole
from optimizer.recipe import Recipe
from optimizer.space import Json
from optimizer.stats import FEWEST, Estimate, estimate, floor_pct
from optimizer.study import Bench
from optimizer.trial import Candidate, Check, Measured, Trial, TrialError

FORMAT = 1
REFERENCES = ("gemm_cpu", "gemm_cuda")  # their baselines keep all cores busy, so they meet whatever disturbs
LATEST_S = 30 * 86400.0  # for which a machine is taken to be as it was


@dataclass(frozen=True, slots=True)
class Floor:
    """An A/A interval: the confirmation's rounds with the same program on both sides. `gains` are those of the rounds:
    without noise each would be 1; measured_at_s: seconds since 1970."""

    host: str
    device: str
    target: str
    metric: str
    gains: tuple[float, ...]
    load_pct: float
    measured_at_s: float

    @property
    def estimate(self) -> Estimate:
        return estimate(self.gains)

    @property
    def pct(self) -> float:
        """How far a ratio must lie from 1 to be told from it, percent."""
        return floor_pct(self.estimate)


def measured(recipe: Recipe, bench: Bench) -> Floor:
    """The baseline of a search against itself, with its plan. Raises ConfigError where it does not build or run."""
    match = Match(recipe, bench)
    home = match.entrant(Trial(Candidate(0, recipe.start[0]), Measured(Check(), {})))
    if home is None:
        raise ConfigError(f"The baseline of {recipe.target.name} does not build here, so no noise can be measured.")
    try:
        with bench.device.alone():
            found = match.played(home, home, recipe.confirm.rounds, recipe.confirm.max_seconds)
    except TrialError as error:
        raise ConfigError(f"The baseline of {recipe.target.name} does not run here: {error}") from None
    if len(found.gains) < FEWEST:
        raise ConfigError(f"{match.metric} could not be read often enough: give measure.confirm.max_seconds more.")
    device = bench.device.describe().device
    return Floor(platform.node(), device, recipe.target.name, match.metric, found.gains, found.load_pct, bench.wall())


def kept(path: Path, floor: Floor) -> None:
    """Writes it beside those of other devices and targets. Raises ConfigError where it can't be written."""
    document = {
        "format": FORMAT,
        "floors": {**_read(path), _key(floor.host, floor.device, floor.target): asdict(floor)},
    }
    write_whole(path, json.dumps(document, indent=1).encode(), "The figures above stand all the same.")


def known(path: Path, device: str, target: str, now_s: float) -> Mapping[str, Json]:
    """What a search's record says of the floor of its device, where it was measured here and not too long ago: with its
    own target, else with the one that is measured where none is named."""
    floors = _read(path)
    for name in (target, *REFERENCES):
        if found := _told(floors.get(_key(platform.node(), device, name)), now_s):
            return found
    return {}


def _told(found: Json, now_s: float) -> Mapping[str, Json]:
    try:
        floor = Floor(**{**found, "gains": tuple(float(g) for g in found["gains"])}) if found else None
        if floor is None or not 0 <= now_s - float(floor.measured_at_s) <= LATEST_S:
            return {}
        gain = floor.estimate
        return {
            "pct": floor.pct,
            "low": gain.low,
            "high": gain.high,
            "rounds": gain.n,
            "target": floor.target,
            "metric": floor.metric,
            "load_pct": floor.load_pct,
            "measured_at_s": floor.measured_at_s,
        }
    except MALFORMED:
        return {}  # another version's, or damaged: as good as none


def _read(path: Path) -> dict[str, Json]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return dict(document["floors"]) if document["format"] == FORMAT else {}
    except (OSError, *MALFORMED):
        return {}


def _key(host: str, device: str, target: str) -> str:
    return f"{host}: {device}: {target}"
