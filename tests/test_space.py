"""Values, points, domains, effects, knobs: what a space is and what it refuses to be."""

import json
import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simple import CONTINUOUS, MIXED, SPACES, constraints, knob

from optimizer.errors import ConfigError
from optimizer.space import (
    Choice,
    Domain,
    Effect,
    Float,
    Int,
    Point,
    Space,
    Value,
    closest,
    contains,
    digest,
    place,
    space_from,
)


def test_points_are_equal_by_value_and_type_and_not_by_order() -> None:
    assert Point({"a": 1, "b": "x"}) == Point({"b": "x", "a": 1})
    assert len({Point({"a": 1}), Point({"a": 1.0}), Point({"a": True}), Point({"a": "1"})}) == 4
    assert Point({"a": 1}) != {"a": 1}


def test_a_key_never_changes() -> None:
    assert Point({"opt_level": "3", "TILE_M": 64, "fast": True, "share": 0.5}).key == "7dd743a07d115d39"
    assert digest({"b": [1, 2], "a": None}) == "ee743f2fa2570a1b"


DOMAINS: list[Domain] = [
    Choice((1, 2, 4), ordered=True),
    Choice(("a", "b", True, 1)),
    Int(3, 17, 2),
    Int(1, 300, log=True),
    Float(-1.0, 2.0),
    Float(1e-4, 10.0, log=True),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_samples_belong_to_their_domain_and_reach_both_ends(domain: Domain) -> None:
    rng = Random(0)
    drawn = [domain.sample(rng) for _ in range(3000)]
    assert all(contains(domain, v) for v in drawn)
    if not isinstance(domain, Float) and domain.size < 100:
        assert {repr(v) for v in drawn} == {repr(domain.at(i)) for i in range(domain.size)}
    places = [place(knob("k", domain), v) for v in drawn]
    assert 0 <= min(places) < 0.05
    assert 0.95 < max(places) <= 1


def test_a_logarithmic_range_draws_by_ratio() -> None:
    drawn = [Int(1, 1024, log=True).sample(Random(i)) for i in range(2000)]
    assert 0.4 < sum(v <= 32 for v in drawn) / len(drawn) < 0.6


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_index_is_the_inverse_of_at(domain: Domain) -> None:
    if isinstance(domain, Float):
        return
    assert [domain.index(domain.at(i)) for i in range(domain.size)] == list(range(domain.size))
    for stranger in (2.5, "nobody", -99, None):
        with pytest.raises(ValueError, match=r".*"):
            domain.index(stranger)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("domain", "value", "expected"),
    [
        (Choice((8, 16), ordered=True), 3, 8),
        (Choice((8, 16), ordered=True), 13, 16),
        (Choice(("a", "b")), "c", "a"),
        (Choice((1, 2, "fast")), 3, 2),
        (Int(4, 10, 3), 8, 7),
        (Float(0.0, 1.0), 7, 1.0),
        (Float(0.5, 1.0), "x", 0.5),
        (Choice((False, True)), True, True),
    ],
)
def test_closest(domain: Domain, value: Value, expected: Value) -> None:
    assert closest(domain, value) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: Choice(()),
        lambda: Choice((1, 2, 1)),
        lambda: Int(3, 2),
        lambda: Int(0, 5, log=True),
        lambda: Int(1, 5, step=0),
        lambda: Float(1.0, 1.0),
        lambda: Float(0.0, 1.0, log=True),
        lambda: Float(0.0, math.inf),
        lambda: Space(()),
        lambda: Space((knob("a", Int(1, 2)), knob("a", Int(1, 2)))),
        lambda: Space((knob("a", Int(1, 2), when="b > 1"), knob("b", Int(1, 2), when="a > 1"))),
        lambda: Space((knob("a", Int(1, 2)),), constraints(c="b > 1")),
        lambda: Space((knob("a", Int(1, 2), when="zzz > 1"),)),
    ],
)
def test_what_makes_no_sense_is_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


def test_an_effect_turns_a_value_into_words() -> None:
    level = Effect("flag", template=("-O{value}",))
    fast = Effect("flag", table=((True, ("-ffast-math",)), ("lots", ("-a", "-b"))))
    mode = Effect("macro", name="MODE", table=(("direct", ("0",)),))
    assert level.words(3) == ("-O3",)
    assert fast.words(True) == ("-ffast-math",)
    assert fast.words("lots") == ("-a", "-b")
    assert fast.words(False) == ()
    assert mode.word("direct") == "0"
    assert mode.word("other") == "other"
    assert Effect("macro", name="M", template=("{value}",)).word(True) == "1"


def test_a_knob_is_active_where_its_condition_holds() -> None:
    values: dict[str, Value] = {"unroll": 1, "batch": 1, "opt": "a", "fast": False, "bits": 32, "group": 64}
    assert "group" not in MIXED.active(values)
    assert MIXED.active(values | {"bits": 8})["group"] == 64
    assert MIXED.active(values) in MIXED
    assert Point(values) not in MIXED, "a value for a knob that is not active makes another point"
    assert MIXED.active(values | {"unroll": 16, "batch": 16}) not in MIXED
    assert MIXED.active(values | {"unroll": 99}) not in MIXED
    assert Point({"unroll": 1}) not in MIXED


def test_conditions_chain() -> None:
    space = Space((knob("c", Int(1, 2), when="b == 2"), knob("b", Int(1, 2), when="a == 2"), knob("a", Int(1, 2))))
    assert [k.name for k in space.knobs] == ["a", "b", "c"]
    assert set(space.active({"a": 1, "b": 2, "c": 1})) == {"a"}
    assert set(space.active({"a": 2, "b": 2, "c": 1})) == {"a", "b", "c"}


def test_a_constraint_asks_nothing_of_a_knob_that_is_not_active() -> None:
    space = Space(MIXED.knobs, constraints(small="group <= 32"))
    assert space.broken(space.baseline()) is None
    broken = space.broken(space.active(dict(space.baseline()) | {"bits": 8, "group": 64}))
    assert broken is not None
    assert broken.name == "small"


def test_the_baseline_moves_into_narrowed_domains() -> None:
    assert MIXED.baseline()["bits"] == 32
    narrowed = Space(
        tuple(k if k.name != "bits" else knob("bits", Choice((4, 8), ordered=True), 32) for k in MIXED.knobs)
    )
    assert narrowed.baseline()["bits"] == 8
    assert MIXED.baseline({"opt": "c"})["opt"] == "c"


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_space_comes_back_from_its_document(space: Space) -> None:
    document = json.loads(json.dumps(space.document()))
    assert space_from(document).document() == space.document()
    assert [k.name for k in space_from(document).knobs] == [k.name for k in space.knobs]


@given(st.floats(0, 1), st.integers(1, 64))
def test_places_of_continuous_knobs_are_within_bounds(x: float, n: int) -> None:
    point = {"x": x, "y": 1e-3 * 1000**x, "n": n}
    for k in CONTINUOUS.knobs:
        assert -1e-9 <= place(k, point[k.name]) <= 1 + 1e-9
    assert place(CONTINUOUS.knobs[0], None) == -1
