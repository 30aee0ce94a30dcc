"""A search over a torch model, from the words of a command line to the verdict."""

from pathlib import Path

from commands import lines, search_json
from torchmodels import MODELS

WORDS = ("target=model", "measure=quick", "measure.max_seconds=0.2", "tracking=none", "study=s")


def test_a_search_goes_on_after_a_trial_that_took_too_much_memory(tmp_path: Path) -> None:
    found = search_json(
        *WORDS,
        f"target.options.model={MODELS}:hungry",
        f"target.cache={tmp_path / 'cache'}",
        "space=[torch_batch]",
        "space.batch=choice(1,2,4,64)",
        "baseline.batch=2",
        "strategy=grid",
        "budget.trials=4",
        "measure.memory_bytes=1000000000",
        cwd=tmp_path,
    )
    assert found["failed"] == {"memory": 1}
    assert found["measured"] == 3
    assert found["verdict"] is not None


def test_six_trials_end_to_end(tmp_path: Path) -> None:
    found = search_json(
        *WORDS,
        f"target.options.model={MODELS}:tiny",
        f"target.cache={tmp_path / 'cache'}",
        "space=[torch_backend,torch_layout]",
        "space.backend=choice(eager,torchscript)",
        "space.threads=choice(0,1)",
        "budget.trials=6",
        cwd=tmp_path,
    )
    assert found["trials"] == found["measured"] == 6
    assert found["baseline"]["metrics"]["quality_loss_pct"] == 0.0
    trials = [line for line in lines(tmp_path / "studies/s/journal.jsonl") if line.get("kind") == "trial"]
    points = [trial["point"] for trial in trials]
    assert points[0] == {"backend": "eager", "threads": 0, "channels_last": False}
    assert {"backend": "torchscript", "jit_optimize": "inference", "threads": 0, "channels_last": False} in points[1:3]
