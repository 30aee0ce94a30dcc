"""Everything that is read from outside, with inputs that nobody thought of: experiments/fuzz runs 10^6 of them."""

import pytest
from fuzz_run import part


@pytest.mark.parametrize("seed", [1001, 1002])
def test_what_is_read_from_outside_ends_in_an_answer_or_a_clear_error(seed: int) -> None:
    for name, found in part(1500, seed).items():
        assert found.inputs > 0
        assert not found.crashes, f"{name}: {found.crashes}"
