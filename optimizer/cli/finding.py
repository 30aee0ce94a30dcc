"""What is a finding of the doctor?"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`ok` None: optional and absent."""

    what: str
    ok: bool | None
    found: str
    advice: str = ""
