"""Units that programs print."""

import pytest

from optimizer.metrics import unit_of
from optimizer.targets.command.units import scale


@pytest.mark.parametrize(
    ("unit", "base", "factor"),
    [
        ("s", "s", 1), ("ms", "s", 1e-3), ("µs", "s", 1e-6), ("us", "s", 1e-6), ("ns", "s", 1e-9), ("min", "s", 60),
        ("seconds", "s", 1), ("B", "B", 1), ("kB", "B", 1e3), ("KB", "B", 1e3), ("MB", "B", 1e6), ("KiB", "B", 1024),
        ("GiB", "B", 2**30), ("bytes", "B", 1), ("mW", "W", 1e-3), ("MHz", "Hz", 1e6), ("kJ", "J", 1e3), ("%", "%", 1),
        ("1/s", "1/s", 1), ("/s", "1/s", 1), ("tokens/s", "1/s", 1), ("fps", "1/s", 1), ("GB/s", "B/s", 1e9),
        ("MiB/s", "B/s", 2**20), ("GFLOP/s", "FLOP/s", 1e9), ("GFLOPS", "FLOP/s", 1e9), ("TFLOPs/s", "FLOP/s", 1e12),
    ],
)  # fmt: skip
def test_a_unit_is_a_factor_to_its_base(unit: str, base: str, factor: float) -> None:
    found = scale(unit)
    assert found is not None
    assert found[0] == base
    assert found[1] == pytest.approx(factor)


@pytest.mark.parametrize("unit", ["parsec", "mm", "QB", "s/", "m s"])
def test_what_is_no_unit_is_none(unit: str) -> None:
    assert scale(unit) is None


def test_a_name_in_the_style_of_the_house_promises_its_unit() -> None:
    assert [unit_of(n) for n in ("latency_s", "parse_s", "frames_per_s", "image_bytes", "hits_pct", "score")] == [
        "s", "s", "1/s", "B", "%", None,
    ]  # fmt: skip
