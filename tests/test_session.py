"""A search's whole course: where the programs under test are placed."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from exports import setup_at
from simple import FakeClock

from optimizer import session
from optimizer.errors import ConfigError
from optimizer.listeners.console import ConsoleListener
from optimizer.measure import StillMeter


class ReachedError(Exception):
    pass


def test_processors_are_those_of_the_machine_that_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with few processors may ask a cluster's machines for their many."""

    def begun(*args: object, **more: object) -> None:
        raise ReachedError

    monkeypatch.setattr(session, "_journal", begun)
    here = setup_at(tmp_path, "target=synthetic", "measure.cpus=4000")
    elsewhere = replace(here, made=replace(here.made, meter=StillMeter()))
    screen = ConsoleListener(io.StringIO(), here.budget, None)
    with pytest.raises(ConfigError, match=r"measure\.cpus names processors 4000"):
        session.run(here, screen, FakeClock(), resume=False)
    with pytest.raises(ReachedError):
        session.run(elsewhere, screen, FakeClock(), resume=False)
