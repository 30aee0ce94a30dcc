"""What a newcomer asks first: help, what there is, what this machine has, completion."""

import json
from pathlib import Path

import pytest
from commands import command, error

from optimizer.cli.completion import complete_word
from optimizer.cli.doctor import findings
from optimizer.cli.helptext import rendered
from optimizer.resources import HELP


def test_the_help_that_is_read_is_the_help_that_typer_writes() -> None:
    """python -m optimizer.cli.helptext writes it anew."""
    assert HELP.read_text(encoding="utf-8") == rendered()


@pytest.mark.parametrize("words", [["--help"], ["search", "--help"], ["doctor", "--help"], []], ids=str)
def test_help_is_plain_text_and_names_the_exit_codes(words: list[str], tmp_path: Path) -> None:
    said = command(*words, cwd=tmp_path).stdout
    assert "Usage: python -m optimizer" in said
    assert "\x1b" not in said
    assert "╭" not in said
    if words in ([], ["--help"]):
        assert "Exit codes: 0" in said
        for name in ("search", "report", "export", "track", "ui", "doctor", "targets", "spaces"):
            assert name in said


def test_the_version(tmp_path: Path) -> None:
    from optimizer import __version__

    assert command("--version", cwd=tmp_path).stdout.strip() == __version__


def test_a_misspelt_command_is_told(tmp_path: Path) -> None:
    assert "serch" in error("serch", cwd=tmp_path)


def test_targets_and_spaces_have_a_line_each(tmp_path: Path) -> None:
    targets = json.loads(command("targets", "--json", cwd=tmp_path).stdout)
    assert {"gemm_cpu", "conv_cpu", "mlp_cpu", "decoder_cpu", "synthetic", "replay"} <= set(targets)
    assert all(targets.values())
    spaces = json.loads(command("spaces", "--json", cwd=tmp_path).stdout)
    assert {"gxx", "clangxx", "gemm", "conv", "mlp", "decoder", "quantization", "pruning", "shapes"} <= set(spaces)
    assert all("knobs" in text for text in spaces.values())
    assert int(spaces["gxx"].split()[0]) >= 15
    lines = command("targets", cwd=tmp_path).stdout.splitlines()
    assert len(lines) == len(targets)


def test_a_space_of_ones_own_is_listed(tmp_path: Path) -> None:
    (tmp_path / "own/space").mkdir(parents=True)
    (tmp_path / "own/space/mine.yaml").write_text(
        "# Two knobs of mine.\nA: {domain: 'choice(1, 2)', macro: A, default: 1}\n"
    )
    spaces = json.loads(command("spaces", "--json", "--config-dir", "own", cwd=tmp_path).stdout)
    assert spaces["mine"].endswith("1 knobs: Two knobs of mine.")


def test_the_doctor_knows_compilers_packages_and_folders(tmp_path: Path) -> None:
    found = {f["what"]: f for f in json.loads(command("doctor", "--json", cwd=tmp_path).stdout)}
    assert found["g++"]["ok"] is True
    assert found["torch"]["ok"] is True
    assert found["kernels"]["ok"] is True
    assert found["working folder"]["ok"] is True
    for finding in found.values():
        assert finding["found"] or finding["advice"], "what is missing comes with how to get it"


def test_the_doctor_without_compilers_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {f.what: f for f in findings()}
    assert found["g++"].ok is False
    assert "install" in found["g++"].advice
    assert found["nvcc"].ok is None


def test_the_doctor_draws_a_table(tmp_path: Path) -> None:
    said = command("doctor", cwd=tmp_path).stdout
    assert "g++" in said
    assert "\x1b" not in said


def test_completion_offers_groups_files_and_keys() -> None:
    assert "target=" in complete_word("tar")
    assert "target=gemm_cpu" in complete_word("target=ge")
    assert complete_word("strategy=t") == ["strategy=tpe"]
    assert "budget.trials=" in complete_word("budget.")
    assert complete_word("nothing=") == []


def test_the_shell_completes(tmp_path: Path) -> None:
    env = {
        "_OPTIMIZER_COMPLETE": "complete_bash", "COMP_WORDS": "optimizer search target=ge", "COMP_CWORD": "2",
    }  # fmt: skip
    assert "target=gemm_cpu" in command(cwd=tmp_path, env=env, status=None).stdout
