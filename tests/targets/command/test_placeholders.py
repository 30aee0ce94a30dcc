"""What a point puts into a command line, and what stays in it until it is run."""

import pytest

from optimizer.errors import ConfigError
from optimizer.expression import parse
from optimizer.space import Choice, Effect, Knob, Point, Space
from optimizer.targets.command.placeholders import check, filled, filled_text, placed

SPACE = Space(
    (
        Knob("opt", Choice((2, 3), ordered=True), Effect("flag", template=("-O{value}",)), 2),
        Knob("both", Choice((False, True)), Effect("flag", table=((True, ("-a", "-b c")),)), False),
        Knob("TILE", Choice((8, 16), ordered=True), Effect("macro", name="TILE_SIZE", template=("{value}",)), 8),
        Knob("threads", Choice((1, 2), ordered=True), Effect("option", name="threads", template=("{value}",)), 1),
        Knob(
            "mode", Choice(("a", "b{")), Effect("setting", name="mode", template=("{value}",)), "a", parse("TILE == 8")
        ),
    )
)
POINT = Point({"opt": 3, "both": True, "TILE": 8, "threads": 2, "mode": "b{"})


def test_a_word_that_is_a_placeholder_becomes_the_words_of_its_knobs() -> None:
    found = filled(["cc", "{flags}", "{macros}", "x.c", "{options}"], SPACE, POINT)
    assert found == ("cc", "-O3", "-a", "-b c", "-DTILE_SIZE=8", "x.c", "--threads=2")
    quiet = Point({**POINT, "both": False})
    assert filled(["{flags}"], SPACE, quiet) == ("-O3",)


def test_inside_a_longer_word_they_are_one_text_as_a_shell_would_read_it() -> None:
    assert filled(["CXXFLAGS={flags} {macros}"], SPACE, POINT) == ("CXXFLAGS=-O3 -a '-b c' -DTILE_SIZE=8",)
    assert filled_text("{flags}", SPACE, POINT) == "-O3 -a '-b c'"


def test_a_knob_is_named_with_and_without_knob() -> None:
    found = filled(["{knob.TILE}/{TILE}", "--mode={mode}"], SPACE, POINT)
    assert placed(found, {}) == ("8/8", "--mode=b{")


def test_a_word_of_a_knob_that_is_not_active_is_left_out() -> None:
    rest = Point({"opt": 2, "both": False, "TILE": 16, "threads": 1})
    assert filled(["run", "--mode={mode}", "{TILE}"], SPACE, rest) == ("run", "16")


def test_folders_stay_until_the_words_are_run_and_braces_are_kept() -> None:
    found = filled(["{out}/p", "{{print}}", "{scratch}"], SPACE, POINT)
    assert found == ("{out}/p", "{{print}}", "{scratch}")
    assert placed(found, {"out": "/o {x}", "scratch": "/s"}) == ("/o {x}/p", "{print}", "/s")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("{flag}", "Did you mean 'flags'?"),
        ("{knob.TIL}", "Did you mean 'knob.TILE'?"),
        ("{env.HOME}", "no environment variable decides"),
        ("{scratch}/x", "it takes {out}"),
        ("{source}", "needs target.source"),
    ],
)
def test_a_placeholder_that_nothing_fills_in_is_told(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        check("target.build", ["cc", word], SPACE, ["out"])
    assert said in str(error.value)
    assert "target.build" in str(error.value)


def test_braces_of_other_languages_are_no_placeholders() -> None:
    check("target.run", ["awk", "{ print $1 }", "{}", "{1,2}"], SPACE, ["out"])
