"""torch.compile and AOTInductor: compiled cold into a cache of the trial's own, loaded warm, with evidence."""

import json
from pathlib import Path

import pytest
from torchmodels import MODELS, Make, failure, tried

from optimizer.config.native import found_compilers
from optimizer.space import Point
from optimizer.targets.native import Limits
from optimizer.targets.torch.target import IMPORTED, TorchTarget
from optimizer.targets.torch.workers import Zygote
from optimizer.trial import Reason

pytestmark = pytest.mark.skipif("g++" not in found_compilers(), reason="Inductor needs g++")


def test_a_compiled_model_is_cold_once_and_warm_afterwards(own: Make) -> None:
    target = own("tiny")
    artifact = target.build(Point({"backend": "compile", "epilogue_fusion": False}))
    facts = artifact.facts
    assert (facts["graphs"], facts["graph_breaks"], facts["cache_hits"], facts["cache_misses"]) == (1, 0, 0, 1)
    assert json.loads(artifact.log)["options"] == {"epilogue_fusion": "False"}
    with target.open(artifact) as runner:
        assert runner.verify().errors["max_rel_error"] < 1e-4
        assert runner.run(2)["latency_s"]
    assert (runner.facts["cache_hits"], runner.facts["cache_misses"]) == (1, 0)
    assert runner.facts["compile_warm_s"] < facts["compile_time_s"]
    assert list((Path(artifact.path) / "inductor").rglob("*.so"))
    assert not list(Path(artifact.path).rglob("*.gch"))


def test_aot_inductor_leaves_a_package_that_needs_no_model(own: Make) -> None:
    target = own("tiny")
    artifact = target.build(Point({"backend": "aoti", "freezing": True}))
    assert artifact.facts["package_bytes"] == (Path(artifact.path) / "forward.pt2").stat().st_size
    with target.open(artifact) as runner:
        assert "model_bytes" not in runner.facts
        assert runner.verify().errors["max_rel_error"] < 1e-4


def test_a_model_that_would_run_eagerly_is_a_failed_trial(own: Make) -> None:
    error = failure(lambda: tried(own("uncompiled"), backend="compile"))
    assert error.reason is Reason.REJECTED
    assert "ran eagerly" in error.log


def test_a_model_that_is_compiled_again_while_it_runs_is_a_failed_trial(own: Make) -> None:
    error = failure(lambda: tried(own("reshaped"), backend="compile"))
    assert error.reason is Reason.REJECTED
    assert "ecompil" in error.log


def test_an_option_that_this_torch_lacks_is_refused() -> None:
    from optimizer.targets.torch.backends.options import in_effect
    from optimizer.trial import TrialError

    with pytest.raises(TrialError, match=r"cpp\.no_such"):
        in_effect({"cpp.no_such": 1})


@pytest.mark.parametrize(
    "script", ["kill -9 $$", "echo 'g++: fatal error: Killed signal terminated program cc1plus' >&2; exit 1"]
)
def test_a_compiler_of_torch_that_somebody_kills_is_no_verdict_on_the_point(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *--version*) exec g++ "$@";; esac\n{script}\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    zygote, limits = Zygote(IMPORTED), Limits(300.0, 8 << 30)
    given = {"model": f"{MODELS}:tiny"}
    target = TorchTarget("own", given, Point({}), "cpu", tmp_path, tmp_path / "cache", limits, zygote=zygote)
    error = failure(lambda: target.build(Point({"backend": "compile"})))
    zygote.close()
    assert (error.reason, error.again) == (Reason.COMPILE, True)
