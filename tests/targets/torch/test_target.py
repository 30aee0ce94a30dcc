"""Torch models as targets: right answers, evidence of settings, caches of their own, failures that cost a trial."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torchmodels import Make, failure, tried

from optimizer.errors import ConfigError
from optimizer.space import Choice, Effect, Knob, Point, Space
from optimizer.targets.torch.working import working
from optimizer.trial import Reason


def test_eager_answers_as_itself_and_reports_what_everybody_reports(own: Make) -> None:
    target = own("tiny")
    artifact = target.build(Point({"backend": "eager", "threads": 1}))
    with target.open(artifact) as runner:
        check, samples = runner.verify(), runner.run(4)
    assert check.errors == {"max_rel_error": 0.0}
    assert check.quality == {"top1_agreement_pct": 100.0, "quality_loss_pct": 0.0}
    assert [len(samples[n]) for n in ("latency_s", "cpu_time_s", "throughput_ips", "peak_memory_bytes")] == [4, 4, 4, 1]
    assert samples["throughput_ips"][0] == pytest.approx(2 / samples["latency_s"][0])
    assert artifact.facts["model_bytes"] == 4 * (8 * 16 + 16 + 16 * 4 + 4)
    assert {"compile_time_s", "threads"} <= artifact.facts.keys()
    assert {"load_s", "compile_warm_s"} <= runner.facts.keys()
    assert runner.facts["threads"] == 1
    assert json.loads(artifact.log)["weights"] == {"float32": artifact.facts["model_bytes"]}


def test_threads_are_what_was_asked_for(own: Make) -> None:
    target = own("tiny")
    artifacts = {n: target.build(Point({"threads": n})) for n in (1, 2)}
    assert {n: a.facts["threads"] for n, a in artifacts.items()} == {1: 1.0, 2: 2.0}
    assert artifacts[1].identity != artifacts[2].identity


@pytest.mark.parametrize("how", ["none", "freeze", "inference"])
def test_torchscript(own: Make, how: str) -> None:
    check, _ = tried(own("tiny"), backend="torchscript", jit_optimize=how)
    assert check.errors["max_rel_error"] < 1e-5


def test_channels_last_changes_the_layout_and_not_the_answer(own: Make) -> None:
    check, _ = tried(own("images", axis=1), backend="torchscript", channels_last=True)
    assert check.errors["max_rel_error"] < 1e-5
    assert check.quality["top1_agreement_pct"] == 100.0


def test_a_backend_that_answers_wrongly_fails_the_trial(own: Make) -> None:
    error = failure(lambda: tried(own("branching"), backend="torchscript"))
    assert error.reason is Reason.WRONG
    assert "max_rel_error" in error.log


def test_the_quality_is_what_the_owner_says_it_is(own: Make) -> None:
    check, _ = tried(own("judged"))
    assert check.quality.keys() == {"accuracy", "top1_agreement_pct", "quality_loss_pct"}
    assert check.quality["quality_loss_pct"] == 0.0


def test_reference_answers_are_computed_once_and_kept_by_content(own: Make, cache: Path) -> None:
    before = set((cache / "reference").glob("*")) if (cache / "reference").is_dir() else set()
    target = own("tiny", arguments={"width": 24})
    target.build(Point({"backend": "eager"}))
    made = set((cache / "reference").glob("*")) - before
    assert len(made) == 1
    stamp = made.copy().pop().stat().st_mtime_ns
    tried(target, backend="torchscript")
    assert set((cache / "reference").glob("*")) - before == made
    assert made.pop().stat().st_mtime_ns == stamp
    own("tiny", arguments={"width": 28}).build(Point({}))
    assert len(set((cache / "reference").glob("*")) - before) == 2


def test_a_build_is_kept_and_a_fresh_one_is_made_anew(own: Make, tmp_path: Path) -> None:
    target, point = own("tiny"), Point({"backend": "torchscript"})
    first = target.build(point)
    stamp = (Path(first.path) / "artifact.json").stat().st_mtime_ns
    assert target.build(point) == first
    again = target.build(point, fresh=True)
    assert again.identity == first.identity
    assert again.facts["compile_time_s"] != first.facts["compile_time_s"]
    assert (Path(first.path) / "artifact.json").stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == [first.key]


def test_too_much_memory_ends_the_trial_with_that_reason(own: Make) -> None:
    target = own("hungry", memory_bytes=1 << 30)
    check, _ = tried(target, batch=1)
    assert check.errors["max_rel_error"] == 0.0
    error = failure(lambda: tried(target, batch=64))
    assert error.reason is Reason.MEMORY
    assert "resident memory reached" in error.log
    tried(target, batch=2)


def test_a_model_that_can_not_be_made_is_a_wrong_configuration(own: Make) -> None:
    for name, said in {"nonsense": "must return", "absent": "has no function"}.items():
        with pytest.raises(ConfigError, match=said):
            own(name).fingerprint()


def test_the_fingerprint_changes_with_the_weights(own: Make) -> None:
    one, same, other = (own("tiny", arguments={"width": w}).fingerprint() for w in (8, 8, 9))
    assert one == same
    assert one["content"] != other["content"]
    assert one["packages"]["torch"]


def test_what_does_not_work_here_leaves_the_space_with_the_reason(own: Make) -> None:
    values = ("eager", "torchscript", "no_such_backend")
    space = Space((Knob("backend", Choice(values), Effect("setting", "backend"), "eager"),))
    found = working(space, own("tiny"))
    assert found.space.by_name["backend"].domain == Choice(values[:2])
    assert found.missing == {"backend=no_such_backend": "there is no backend no_such_backend"}
    assert working(found.space, own("tiny")).missing == {}


def test_a_device_that_is_not_there_leaves_no_backend(own: Make) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    space = Space((Knob("backend", Choice(("eager",)), Effect("setting", "backend"), "eager"),))
    assert "fails here" in working(space, own("tiny", device="cuda")).missing["backend=eager"]


def test_a_search_of_other_targets_never_imports_torch() -> None:
    """Nor does that of a torch model, in its own process."""
    text = "import sys, optimizer.config.torch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0
