"""The language of conditions and constraints: what it says, what it refuses, one reading for one and for many."""

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.errors import ConfigError
from optimizer.expression import MAX_CHARACTERS, parse


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("TILE_M * TILE_N * 4 <= 32768", {"TILE_M": 64, "TILE_N": 128}, True),
        ("TILE_M * TILE_N * 4 <= 32768", {"TILE_M": 128, "TILE_N": 128}, False),
        ("1 < x <= 3", {"x": 3}, True),
        ("1 < x <= 3", {"x": 1}, False),
        ("mode in ('a', 'b')", {"mode": "b"}, True),
        ("mode not in ('a', 'b')", {"mode": "b"}, False),
        ("not fast or bits == 32", {"fast": True, "bits": 32}, True),
        ("fast and true", {"fast": False}, False),
        ("(x if fast else y) == 2", {"fast": False, "x": 1, "y": 2}, True),
        ("min(x, y, 4) == 2 and max(x, y) == 7", {"x": 2, "y": 7}, True),
        ("ceil(x / 4) == 3 and floor(x / 4) == 2", {"x": 9}, True),
        ("log2(x) == 5", {"x": 32}, True),
        ("x % y == 0", {"x": 1, "y": 0}, False),
        ("x / y > 0", {"x": 1, "y": 0}, False),
        ("-x < 0", {"x": 1}, True),
        ("x ** 2 == 9", {"x": 3}, True),
        ("abs(x) == 3", {"x": -3}, True),
    ],
)
def test_means_what_it_says(text: str, values: dict[str, Any], expected: bool) -> None:
    expression = parse(text)
    assert expression.names == values.keys()
    assert expression.holds(values) is expected
    columns = {name: np.array([value, value]) for name, value in values.items()}
    assert expression.holds_for(columns, 2).tolist() == [expected, expected]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "a.b", "a[0]", "lambda: 1", "[x for x in y]", "x := 1", "f(1)", "open('x')",
        "x is 1", "x in y", "x in ()", "{1: 2}", "(", "", "x; y", "min(1)", "abs(1, 2)", "min(x, key=y)", "1 if x",
        "10 ** 400 > x + 1e400", "x @ y", "~x", "+x", "x & y", "f'{x}'", "b'x' == x", "None", "...", "1j > 0",
        "99999999999999999999 > x", "await x", "not " * 60 + "x", "(" * 300 + "x" + ")" * 300,
        "x" * (MAX_CHARACTERS + 1), "x\0",
    ],
)  # fmt: skip
def test_refuses_everything_else(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


@pytest.mark.parametrize("text", ["x", "x and 1 < 2", "x + 1", "'a' < x", "x ** 99 > 1", "9007199254740990 * x > 0"])
def test_a_misfit_is_told_when_asked(text: str) -> None:
    expression = parse(text)
    with pytest.raises(ConfigError, match="can't be evaluated"):
        expression.holds({"x": 7})
    with pytest.raises(ConfigError, match="can't be evaluated"):
        expression.holds_for({"x": np.array([7])}, 1)


def test_the_message_names_the_offending_part() -> None:
    with pytest.raises(ConfigError, match=r"uses 'os\.remove\(x\)', which an expression may not"):
        parse("TILE > os.remove(x)")


NUMBERS = st.one_of(st.integers(-40, 40), st.sampled_from([0.5, -2.25, 1e3]))
_leaf = st.one_of(NUMBERS.map(repr), st.sampled_from(["x", "y", "z"]))


def _grown(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(children, children)
    return st.one_of(
        st.tuples(pair, st.sampled_from(["+", "-", "*", "/", "//", "%"])).map(
            lambda t: f"({t[0][0]} {t[1]} {t[0][1]})"
        ),
        st.tuples(pair, st.sampled_from(["min", "max"])).map(lambda t: f"{t[1]}({t[0][0]}, {t[0][1]})"),
        st.tuples(children, st.sampled_from(["abs", "ceil", "floor", "log2", "-"])).map(lambda t: f"{t[1]}({t[0]})"),
        st.tuples(pair, children, children).map(lambda t: f"({t[0][0]} if {t[1]} < {t[2]} else {t[0][1]})"),
    )


ARITHMETIC = st.recursive(_leaf, _grown, max_leaves=8)
COMPARISON = st.tuples(ARITHMETIC, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), ARITHMETIC).map(" ".join)
LOGIC = st.recursive(
    COMPARISON,
    lambda c: st.one_of(
        st.tuples(c, st.sampled_from([" and ", " or "]), c).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        c.map(lambda t: f"not ({t})"),
    ),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(LOGIC, st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=5))
def test_one_and_many_agree(text: str, rows: list[tuple[float, float, float]]) -> None:
    expression = parse(text)
    columns = {name: _column([row[i] for row in rows]) for i, name in enumerate("xyz")}
    one: list[object] = []
    for row in rows:
        try:
            one.append(expression.holds(dict(zip("xyz", row, strict=True))))
        except ConfigError:
            one.append("refused")
    try:
        many: list[object] = list(expression.holds_for(columns, len(rows)).tolist())
    except ConfigError:
        assert "refused" in one
        return
    assert [m for m, o in zip(many, one, strict=True) if o != "refused"] == [o for o in one if o != "refused"]


def _column(values: list[float]) -> Any:
    """Of one type where they are of one type, as a knob's column is."""
    if len({type(v) for v in values}) == 1:
        return np.array(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_a_clear_error(text: str) -> None:
    try:
        expression = parse(text)
    except ConfigError:
        return
    with suppress(ConfigError):
        expression.holds(dict.fromkeys(expression.names, 1))


def test_a_comparison_says_what_it_comes_to() -> None:
    values = {"STAGES": 2, "TILE": 256, "kind": "a"}
    assert parse("STAGES * TILE * TILE <= 101376").instance(values) == "131072 <= 101376"
    assert (
        parse("1 <= TILE // 2 < 100 and kind in ('a', 'b')").instance(values) == "1 <= 128 < 100 · kind in ('a', 'b')"
    )
    assert parse("not STAGES == 2 or TILE > 256").instance(values) == "not STAGES == 2 · 256 > 256"
