"""Right answers and wrong ones."""

from pathlib import Path

import pytest

from optimizer.targets.command.answers import Answer, compared
from optimizer.trial import Reason, TrialError


def check(found: str, expected: str, tolerance: float | None, folder: Path) -> float:
    (folder / "answer").write_text(found)
    answer = Answer(expected=expected.encode(), tolerance=tolerance)
    return compared(answer, folder / "answer").errors["max_rel_error"]


def test_numbers_may_differ_by_the_tolerance_of_the_largest(tmp_path: Path) -> None:
    assert check("sum: 100.5, x -3e0", "sum: 100, x -3", 1e-2, tmp_path) == pytest.approx(5e-3)
    assert check("same", "same", None, tmp_path) == 0.0


@pytest.mark.parametrize(
    ("found", "expected", "tolerance", "why"),
    [
        ("1 2 4", "1 2 3", 0.1, "max_rel_error is 0.333333; at most 0.1 is right"),
        ("1 2", "1 2 3", 0.1, "has 2 words; 3 are right"),
        ("sum nan", "sum 1", 0.1, "word 2 is 'nan'"),
        ("sun 1", "sum 1", 0.1, "word 1 is 'sun'; 'sum' is right"),
        ("1\n2\n", "1\n3\n", None, "line 2 is '2'; '3' is right"),
        ("1\n", "1\n\n", None, "has 2 bytes; 3 are right"),
        ("1", "nan", 0.1, "word 1 is '1'; 'nan' is right"),
    ],
)
def test_wrong_answers_are_told_where(
    found: str, expected: str, tolerance: float | None, why: str, tmp_path: Path
) -> None:
    with pytest.raises(TrialError) as error:
        check(found, expected, tolerance, tmp_path)
    assert error.value.reason is Reason.WRONG
    assert why in error.value.log


def test_an_answer_that_was_not_written_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="did not write its answer, none"):
        compared(Answer(expected=b"1"), tmp_path / "none")


def test_the_recipe_names_an_answer_by_its_hash() -> None:
    one, two = Answer(expected=b"1" * 10_000).document(), Answer(expected=b"2" * 10_000).document()
    assert one != two
    assert len(str(one)) < 200
