"""What is an export made of, and what makes a file of it?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from optimizer.journal import Study
from optimizer.space import Json, Space
from optimizer.trial import Trial

TOLERANCE_PCT = 5.0  # that a proved ratio may lose when it is measured again


@dataclass(frozen=True)
class Shipment:
    """A study, the trial of it that is shipped, and what exporters may read besides.

    target: the target's node of the composed configuration, enough to make the target again; settings: what the study's
    words say besides naming files, as a tree; built: what the build (or a package that was made of it) left, by path,
    read only when asked for; tolerance_pct: how much of the proved ratio may be missing when it is measured again.
    """

    study: Study
    trial: Trial
    target: Mapping[str, Json] = field(default_factory=dict)
    settings: Mapping[str, Json] = field(default_factory=dict)
    built: Mapping[str, bytes] = field(default_factory=dict)
    tolerance_pct: float = TOLERANCE_PCT

    @property
    def space(self) -> Space:
        return self.study.recipe.space

    @property
    def kind(self) -> str:
        """Of the target, as optimizer/config/targets.py names it: native, cuda, torch, …"""
        return str(self.target.get("kind", ""))

    @property
    def origin(self) -> str:
        """A line for the head of a file."""
        text = f"Trial {self.trial.number} of the study {self.study.name}, recipe {self.study.recipe.key}."
        runs = self.study.environment.runs
        return text if runs else f"{text} Compile side only: nothing ran, no speed was measured."


class Exporter(Protocol):
    """One kind of file to ship. Pure: the same shipment gives the same bytes, and no time of writing stands in them.

    A new kind is a file with a final class and a line in table.py. Where `verify` must open the winner through it,
    `reopens` names a line of optimizer/config/reopened.py.
    """

    @property
    def text(self) -> str:
        """What it writes, a line for people."""
        ...

    @property
    def reopens(self) -> str:
        """How the winner is opened again from these files; "" where another exporter or the point itself says it."""
        ...

    def unfit(self, shipment: Shipment) -> str:
        """Why there is no such file of this shipment, to end "… does not fit: "; "" where there is."""
        ...

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        """The files by their path in the export's folder; only of a shipment that fits."""
        ...
