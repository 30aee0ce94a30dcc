"""The server that `ui` starts listens on this machine alone unless it is told otherwise."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from optimizer.cli import studies
from optimizer.cli.app import app


@pytest.mark.parametrize(
    ("words", "host"),
    [([], "127.0.0.1"), (["--host", "127.0.0.2"], "127.0.0.2"), (["--host", "0.0.0.0"], "0.0.0.0")],
)
def test_ui_gives_the_server_its_address(
    words: list[str], host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Sequence[str]] = []

    def served(command: Sequence[str]) -> int:
        started.append(command)
        return 0

    monkeypatch.setattr(studies, "_served", served)
    (tmp_path / "mlflow.db").touch()
    done = CliRunner().invoke(app, ["ui", f"studies_dir={tmp_path}", "--port", "0", *words])
    assert done.exit_code == 0, done.output
    [command] = started
    assert [command[i + 1] for i, word in enumerate(command) if word == "--host"] == [host]
