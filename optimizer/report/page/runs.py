"""Where in MLflow's UI are the runs of a study?"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Runs:
    """The experiment's address, the parent's id and the trials' ids."""

    experiment: str
    parent: str
    trials: Mapping[int, str] = field(default_factory=dict)
