"""docs/production.md names every kind of export and command, and its workflow is YAML that starts real commands."""

import re
from pathlib import Path

import pytest
import yaml

from optimizer.export.table import EXPORTERS
from optimizer.resources import HELP

PAGE = (Path(__file__).parents[1] / "docs/production.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_kind_has_a_row(name: str) -> None:
    assert f"| `{name}` |" in PAGE


def test_the_workflow_is_a_workflow_of_commands_that_there_are() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    workflow = yaml.safe_load(text)
    assert workflow[True]["schedule"][0]["cron"], "YAML 1.1 reads `on` as true"
    runs = [step["run"] for step in workflow["jobs"]["monitor"]["steps"] if "run" in step]
    commands = [run.split()[1] for run in runs if run.startswith("optimizer ")]
    assert commands == ["verify", "monitor"]
    told = HELP.read_text(encoding="utf-8")
    for run in runs:
        for option in re.findall(r"--[\w-]+", run):
            assert option in told


@pytest.mark.parametrize("command", ["export", "verify", "monitor"])
def test_every_option_of_the_commands_is_told(command: str) -> None:
    section = HELP.read_text(encoding="utf-8").partition(f"optimizer {command} [OPTIONS]")[2].partition("Usage:")[0]
    for option in set(re.findall(r"--[a-z][\w-]+", section)) - {"--help", "--config-dir"}:
        assert option in PAGE, option
