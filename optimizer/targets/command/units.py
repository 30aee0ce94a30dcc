"""What does a unit that a program prints mean in SI base units?"""

import re

_SI = {
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "μ": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_WORDS = {
    "sec": ("s", 1.0), "secs": ("s", 1.0), "second": ("s", 1.0), "seconds": ("s", 1.0), "min": ("s", 60.0),
    "h": ("s", 3600.0), "msec": ("s", 1e-3), "usec": ("s", 1e-6), "nsec": ("s", 1e-9), "byte": ("B", 1.0),
    "bytes": ("B", 1.0), "KB": ("B", 1e3), "Wh": ("J", 3600.0), "%": ("%", 1.0), "1": ("1", 1.0), "": ("1", 1.0),
    "°C": ("°C", 1.0), "C": ("°C", 1.0),
}  # fmt: skip
POSITIVE = ("s", "B", "W", "J", "Hz", "1/s", "B/s", "FLOP/s")
"""Units of which nothing is negative."""
EXAMPLES = "s, ms, µs, ns, B, kB, MB, GB, KiB, MiB, GiB, W, J, Hz, MHz, %, 1/s, GB/s, GFLOP/s"


def scale(unit: str) -> tuple[str, float] | None:
    """The base unit and the factor to it: ms → ("s", 1e-3). None for what is no unit that is known."""
    if unit in _WORDS:
        return _WORDS[unit]
    if found := re.fullmatch(r"(.*?)(?:/s(?:ec)?|ps|OPS)", unit):
        return _rate(unit, found.group(1))
    if found := re.fullmatch(r"(Ki|Mi|Gi|Ti|[kKMGT]?)B", unit):
        return "B", {**_SI, **_BINARY}[found.group(1)]
    if found := re.fullmatch(r"([nuµμmkMGT]?)(s|W|J|Hz)", unit):
        return found.group(2), _SI[found.group(1)]
    return None


def _rate(unit: str, what: str) -> tuple[str, float] | None:
    """Something a second; of bytes and floating-point operations with a prefix, of anything else without."""
    if unit.endswith("OPS"):
        found = re.fullmatch(r"([kKMGT]?)FL", what)
        return ("FLOP/s", _SI[found.group(1)]) if found else None
    if found := re.fullmatch(r"([kKMGT]?)(FLOP|flop)s?", what):
        return "FLOP/s", _SI[found.group(1)]
    if found := re.fullmatch(r"(Ki|Mi|Gi|Ti|[kKMGT]?)B", what):
        return "B/s", {**_SI, **_BINARY}[found.group(1)]
    if what in ("", "1") or re.fullmatch(r"[A-Za-z]+", what):  # tokens/s, img/s, fps
        return "1/s", 1.0
    return None
