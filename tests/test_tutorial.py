"""docs/tutorial.md: each command is one that there is, with options and settings that are known, and its target too."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from exports import DAY

from optimizer.config import load
from optimizer.resources import HELP

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
WORKFLOW = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
STEPS = [str(step["run"]) for step in WORKFLOW["jobs"]["monitor"]["steps"] if "run" in step]
LINES = [line for block in BLOCKS for line in block.splitlines()]
OURS = [shlex.split(line)[3:] for line in LINES if line.startswith("python -m optimizer ")]
OURS += [shlex.split(step)[1:] for step in STEPS if step.startswith("optimizer ")]


def test_it_goes_from_the_installation_to_the_watch() -> None:
    assert [words[0] for words in OURS] == [
        *("doctor", "search", "report", "export", "verify", "monitor"),
        *("verify", "monitor"),
    ]
    assert LINES.index("pip install -e .") < LINES.index("python -m optimizer doctor")


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_command_and_option_is_there(words: list[str]) -> None:
    section = HELP.read_text(encoding="utf-8").partition(f"optimizer {words[0]} [OPTIONS]")[2].partition("Usage:")[0]
    assert section, words[0]
    for option in (w for w in words if w.startswith("--")):
        assert option in section, option


def test_the_search_is_one_that_can_be_made(tmp_path: Path) -> None:
    """Target, settings and budget are composed and made as the command would."""
    (words,) = [words[1:] for words in OURS if words[0] == "search"]
    setup = load([*words, "tracking=none", f"studies_dir={tmp_path}"], (), DAY)
    assert (setup.recipe.target.name, setup.budget.trials) == ("gemm_cpu", 20)


def test_what_is_named_by_one_command_is_made_by_another() -> None:
    """The study that is searched is reported and exported, and its export verified and monitored."""
    (study,) = [w.removeprefix("study=") for words in OURS for w in words if w.startswith("study=")]
    named = {words[0]: words[1] for words in OURS if words[0] in ("report", "export", "verify", "monitor")}
    assert named == {
        "report": study,
        "export": study,
        "verify": f"exports/{study}",
        "monitor": f"exports/{study}",
    }
    assert f"@exports/{study}/flags.rsp -include exports/{study}/config.h" in PAGE


def test_its_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([\w.]+)(?:#[\w-]+)?\)", PAGE):
        assert (DOCS / link).is_file(), link


def test_the_readme_leads_here() -> None:
    assert "(docs/tutorial.md)" in (DOCS.parent / "README.md").read_text(encoding="utf-8")
