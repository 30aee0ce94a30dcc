"""Hydra's sweep grammar as domains."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.config.domains import parse_domain
from optimizer.errors import ConfigError
from optimizer.space import Choice, Domain, Float, Int


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("choice(16, 32, 64)", Choice((16, 32, 64), ordered=True)),
        ("choice(64, 16, 32)", Choice((16, 32, 64), ordered=True)),
        ("choice(0.5, 0.25)", Choice((0.25, 0.5), ordered=True)),
        ("tag(categorical, choice(2, 1))", Choice((2, 1))),
        ("choice(a, b)", Choice(("a", "b"))),
        ("tag(ordered, choice(none, b, both))", Choice(("none", "b", "both"), ordered=True)),
        ("choice(1, 2, fast)", Choice((1, 2, "fast"))),
        ("choice('1', '2')", Choice(("1", "2"))),
        ("choice(false, true)", Choice((False, True))),
        ("8, 16", Choice((8, 16), ordered=True)),
        ("[8, 16]", Choice((8, 16), ordered=True)),
        ("range(1, 9)", Int(1, 8)),
        ("range(9)", Int(0, 8)),
        ("range(2, 9, 3)", Int(2, 8, 3)),
        ("range(10, 1, -3)", Int(4, 10, 3)),
        ("tag(log, range(1, 257))", Int(1, 256, log=True)),
        ("range(0, 1, 0.25)", Choice((0.0, 0.25, 0.5, 0.75), ordered=True)),
        ("interval(0.0, 0.5)", Float(0.0, 0.5)),
        ("interval(1, 64)", Float(1.0, 64.0)),
        ("int(interval(1, 64))", Int(1, 64)),
        ("tag(log, interval(1e-4, 1))", Float(1e-4, 1.0, log=True)),
        ("tag(log, int(interval(1, 64)))", Int(1, 64, log=True)),
        ("sort(choice(3, 1))", Choice((1, 3), ordered=True)),
        ("3", Choice((3,))),
        ("g++", Choice(("g++",))),
        ("true", Choice((True,))),
        (7, Choice((7,))),
        (False, Choice((False,))),
    ],
)
def test_the_grammar(text: object, domain: Domain) -> None:
    assert parse_domain(text, "knob") == domain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("choice()", "knob"),
        ("choice(1, 1)", "knob: A choice lists 1 twice"),
        ("choice(1, null)", "knob"),
        ("null", "can't be a value"),
        ("{a: 1}", "can't be a value"),
        ("range(5, 5)", "is empty; the stop itself is left out"),
        ("range(0, 1, 1e-9)", "values; 1 to 100000 can be searched"),
        ("interval(2, 1)", "no interval from 2.0 to 1.0"),
        ("tag(log, interval(0, 1))", "must start above 0"),
        ("tag(fast, choice(1, 2))", "the tag fast is not known"),
        ("shuffle(range(1, 4))", "shuffle has no meaning"),
        ("glob(*)", "can't be a value"),
        ("choice(", "is not a setting"),
        ("choice(1, 2) and more", "knob"),
    ],
)
def test_what_is_no_domain_is_told(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_domain(text, "knob")
    assert said in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="choicerangetvl(),.-0123456789 '\"=[]{}$:", max_size=30))
def test_any_text_is_a_domain_or_a_clear_error(text: str) -> None:
    try:
        domain = parse_domain(text, "knob")
    except ConfigError as error:
        assert str(error)
        return
    assert isinstance(domain, Choice | Int | Float)
