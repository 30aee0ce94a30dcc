"""strategy.prior: studies and recordings by name, and every wrong word told with its remedy."""

import json
from datetime import date
from pathlib import Path

import pytest
from commands import command

from optimizer.config import Setup, load
from optimizer.config.prior import translated
from optimizer.errors import ConfigError
from optimizer.space import Choice, Point, Space
from optimizer.strategies.prior import Known

TODAY = date(2026, 11, 24)


def recorded(path: Path, name: str, factor: float, knob: str = "b") -> Path:
    cache = {
        f"{a},{b}": {"a": a, knob: b, "time": factor * (1.0 + (a - 5) ** 2 + b), "times": [1.0], "compile_time": 10.0}
        for a in range(1, 11)
        for b in range(4)
    }
    file = path / name
    file.write_text(json.dumps({"tune_params": {"a": list(range(1, 11)), knob: list(range(4))}, "cache": cache}))
    return file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    recorded(tmp_path, "kernel-A.json", 1.0)
    recorded(tmp_path, "kernel-B.json", 2.0)
    return tmp_path


def setup(place: Path, *words: str) -> Setup:
    base = ["target=replay", f"target.file={place}/kernel-A.json", f"studies_dir={place}/studies", "strategy=auto"]
    return load([*base, *words], [], TODAY)


def test_a_recording_is_known_point_by_point_and_part_of_the_recipe(place: Path) -> None:
    made = setup(place, f"strategy.prior=[{place}/kernel-B.json]")
    (known,) = made.prior
    assert len(known.losses) == 40
    assert known.losses[Point({"a": 5, "b": 0})] == pytest.approx(2e-3)
    assert made.recipe.strategy.options["prior"] == [known.document()]
    assert made.recipe.key != setup(place).recipe.key
    made.strategy()


def test_a_search_starts_from_an_earlier_study(place: Path) -> None:
    words = ["search", "target=replay", "budget.trials=15", "tracking=none", "strategy=auto", "--json"]
    command(*words, "target.file=kernel-B.json", "study=first", cwd=place)
    said = command(
        *words, "target.file=kernel-A.json", "study=second", "strategy.prior=[first]", "budget.trials=5", cwd=place
    )
    told = json.loads(said.stdout)
    assert told["best"]["point"] == {"a": 5, "b": 0}, "what was best there, at once"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("nothing", ["'nothing'", "neither a file nor a study"]),
        ("other.json", ["too few to start from", "Knobs only there: z", "only here: a, b"]),
    ],
)
def test_a_wrong_prior_is_told(word: str, says: list[str], place: Path) -> None:
    cache = {str(z): {"z": z, "time": 1.0 + z, "times": [1.0]} for z in range(4)}
    (place / "other.json").write_text(json.dumps({"tune_params": {"z": list(range(4))}, "cache": cache}))
    given = f"{place}/{word}" if word.endswith("json") else word
    with pytest.raises(ConfigError) as caught:
        setup(place, f"strategy.prior=[{given}]")
    assert all(part in str(caught.value) for part in says), str(caught.value)


def test_other_strategies_have_no_prior(place: Path) -> None:
    with pytest.raises(ConfigError, match="prior"):
        setup(place, "strategy=tpe", f"strategy.prior=[{place}/kernel-B.json]")


def test_points_of_another_space_are_translated_where_they_can_be() -> None:
    from simple import knob

    space = Space((knob("tile", Choice((16, 32), ordered=True)), knob("new", Choice((0, 1)), 1)))
    assert translated(Point({"tile": 32, "gone": 5}), space) == Point({"tile": 32, "new": 1})
    assert translated(Point({"tile": 64}), space) is None
    assert Known("x", {}).document()["name"] == "x"
