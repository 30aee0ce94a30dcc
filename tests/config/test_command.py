"""What is wrong with somebody's command lines is told before anything is started, with the remedy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from own_program import KNOBS, RUN, setup

from optimizer.config.command_lines import words_of
from optimizer.errors import ConfigError


def told(folder: Path, target: Mapping[str, Any], *words: str, knobs: Mapping[str, Any] = KNOBS) -> str:
    with pytest.raises(ConfigError) as error:
        setup(folder, {"run": RUN, **target}, *words, knobs=knobs)
    assert not (folder / "studies").exists()
    return str(error.value)


BUILT = {"build": ["true"]}
METRIC = {"regex": r"(\d+)"}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"run": []}, "has nothing to do"),
        ({"run": [], "build": ["true", "{mode}", "{options}"]}, "There is no target.run"),
        ({"run": "prog --fast"}, "Write ['prog', '--fast']"),
        ({"run": "prog | tee log"}, "[sh, -c, 'prog | tee log']"),
        ({"build": "make 'x"}, "no shell reads it"),
        ({"build": ["make", "&&", "make", "test"]}, "only a shell knows"),
        ({"build": [["make"], "test"]}, "is a list of words"),
        ({"run": ["no-such-program-x", "{options}", "{mode}"]}, "no program 'no-such-program-x' on the PATH"),
        ({"run": ["./none", "{options}", "{mode}"]}, "There is no program"),
        ({"run": ["sh", "{option}", "{mode}"]}, "Did you mean 'options'?"),
        ({"run": ["sh", "{knob.siz}", "{mode}"]}, "Did you mean 'knob.size'?"),
        ({"run": ["sh", "{env.HOME}"]}, "no environment variable"),
        ({"run": ["sh", "{mode}"]}, "The knob size acts on option, and no command has {options} or {knob.size}"),
        ({"run": ["sh", "{options}"]}, "The knob mode acts on setting, and no command has {knob.mode}"),
        ({"source": "none"}, "there is no folder"),
        ({"run": ["sh", "{source}", "{mode}", "{options}"]}, "{source} needs target.source"),
        ({"build": ["sh", "{scratch}"]}, "there is no {scratch} here"),
        ({"program": "{out}/x"}, "target.build is empty"),
        ({**BUILT, "program": "/usr/bin/x"}, "lies in {out}"),
        ({**BUILT, "program": "{out}/../x"}, "leaves its folder"),
        ({"folder": "{mode}"}, "is none of {out}, {scratch}"),
        ({"environment": {"A B": 1}}, "can't be the name of a variable"),
        ({"environment": {"A": None}}, "is a text"),
        ({"copy_source": "yes"}, "is true or false"),
        ({"metric": {}}, "Did you mean 'metrics'?"),
        ({"metrics": {"x y": METRIC}}, "letters, digits and _"),
        ({"metrics": {"latency_s": "time"}}, "is a mapping"),
        ({"metrics": {"latency_s": {}}}, "exactly one of regex, json and measure"),
        ({"metrics": {"latency_s": {**METRIC, "json": "x"}}}, "exactly one of"),
        ({"metrics": {"latency_s": {**METRIC, "units": "ms"}}}, "Did you mean 'unit'?"),
        ({"metrics": {"latency_s": {**METRIC, "unit": "MB"}}}, "is kept in s, and MB is no unit of that"),
        ({"metrics": {"latency_s": {**METRIC, "unit": "parsec"}}}, "is not known"),
        ({"metrics": {"latency_s": {"regex": "("}}}, "no regular expression"),
        ({"metrics": {"latency_s": {"regex": "time"}}}, "has no group"),
        ({"metrics": {"latency_s": {**METRIC, "from": "stdin"}}}, "write stdout, stderr, build"),
        ({"metrics": {"latency_s": {**METRIC, "from": "build"}}}, "of a build one number is taken"),
        ({"metrics": {"latency_s": {**METRIC, "take": "avg"}}}, "take=avg is not known"),
        ({"metrics": {"latency_s": {"measure": "walls"}}}, "Did you mean 'wall'?"),
        ({"metrics": {"latency_s": {"measure": "peak_memory"}}}, "is kept in s"),
        ({"check": "answer.txt"}, "target.check is a mapping"),
        ({"check": {}}, "exactly one of command, expected (a file) and text"),
        ({"check": {"expected": "none.txt"}}, "there is no file"),
        ({"check": {"text": "1", "tolerance": -1}}, "at least 0"),
        ({"check": {"text": "1", "tolerence": 1}}, "Did you mean 'tolerance'?"),
        ({"check": {"command": ["no-such-program-x"]}}, "no program 'no-such-program-x'"),
        ({"check": {"text": "1", "from": "answer.txt"}}, "write stdout, stderr, or a file"),
        ({"check": {"command": "diff a b"}}, "Write ['diff', 'a', 'b']"),
    ],
)  # fmt: skip
def test_it_is_refused_with_the_remedy(target: Mapping[str, Any], said: str, tmp_path: Path) -> None:
    assert said in told(tmp_path, target)


def test_a_program_that_is_no_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("echo")
    assert "chmod +x" in told(tmp_path, {"run": ["./script", "{mode}", "{options}"]})


def test_a_missing_tool_is_told_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install cmake" in told(tmp_path, {"build": ["cmake", "{out}"]})


def test_paths_are_meant_from_the_folder_of_the_users_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    script = tmp_path / "run me"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    found = setup(tmp_path, {"run": ["./run me", "{mode}", "{options}"], "source": "space"})
    assert [line.split()[1] for line in found.made.preview(found.recipe.start[0])] == ["'./run"]
    assert (
        found.recipe.key == setup(tmp_path, {"run": ["./run me", "{mode}", "{options}"], "source": "space"}).recipe.key
    )


def test_a_program_that_has_changed_makes_another_environment(tmp_path: Path) -> None:
    script = tmp_path / "prog"
    target = {"run": ["./prog", "{mode}", "{options}"]}
    found = []
    for text in ("#!/bin/sh\n", "#!/bin/sh\n:\n"):
        script.write_text(text)
        script.chmod(0o755)
        found.append(setup(tmp_path, target).made.device.describe().compilers["prog"])
    assert found[0] != found[1]


def test_one_word_settings_of_the_command_line_reach_it(tmp_path: Path) -> None:
    found = setup(tmp_path, {"run": RUN}, "target.metrics.score={regex: '(.*)'}", "target.environment.X=1")
    assert {"latency_s", "score"} <= set(found.recipe.target.options["metrics"])
    assert found.recipe.target.options["commands"]["environment"] == {"X": "1"}


def test_a_shell_that_the_user_names_is_used() -> None:
    assert words_of(["sh", "-c", "a && b | c"], "x") == ("sh", "-c", "a && b | c")
    assert words_of(["/bin/bash", "-c", "a", "&&"], "x")[0] == "/bin/bash"
    assert words_of([True, 3, 0.5], "x") == ("true", "3", "0.5")
