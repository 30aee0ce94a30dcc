"""Exported language models: prompts of any length are continued as transformers does, and nothing is downloaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra models")

from torchmodels import exported_at

from optimizer.space import Json, Point, Value
from optimizer.targets.native import Limits
from optimizer.targets.torch.exported import ExportedTarget
from optimizer.targets.torch.language import language_task
from optimizer.targets.torch.load import load_model
from optimizer.targets.torch.target import TorchTarget
from optimizer.targets.torch.workers import Zygote

pytestmark = pytest.mark.extra
LIMITS = Limits(300.0, 8 << 30)
OPTIONS: dict[str, Json] = {
    "weights": "random",
    "size": "tiny_gemma3",
    "windows": 2,
    "window_tokens": 24,
    "calibration_windows": 2,
    "calibration_tokens": 16,
    "prompt_tokens": 12,
    "generate_tokens": 6,
    "batch": 2,
}


BUILT: Mapping[str, Mapping[str, Value]] = {
    "torchscript": {"backend": "torchscript"},
    "eager": {"backend": "eager"},
    "dynamic": {"backend": "eager", "kv_cache": "dynamic"},
}


@pytest.fixture(scope="module", params=BUILT)
def exported(
    request: pytest.FixtureRequest, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> ExportedTarget:
    place = tmp_path_factory.mktemp("language")
    baseline = Point({"backend": "eager"})
    target = TorchTarget("language", OPTIONS, baseline, "cpu", place / "built", place / "cache", LIMITS, zygote=zygote)
    (place / "export").mkdir()
    target.export(target.build(Point(BUILT[request.param])), place / "export")
    return exported_at(place / "export", target)


def greedy(ids: list[int], count: int) -> list[int]:
    """As transformers' own model continues it, reading all again for every token."""
    model = cast(Any, language_task(OPTIONS, {}, "cpu", Path("unused")).weights.model("eager"))
    with torch.inference_mode():
        for _ in range(count):
            ids = [*ids, int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
    return ids[-count:]


@pytest.mark.parametrize("length", [1, 5, 12, 15])
def test_a_prompt_of_any_length_is_continued(exported: ExportedTarget, length: int) -> None:
    """Shorter than what prefill was built for, as long, longer."""
    ids = [(7 * i + 3) % 300 for i in range(length)]
    assert load_model(exported.place).generate(ids, 4) == greedy(ids, 4)


def test_several_prompts_are_continued_together(exported: ExportedTarget) -> None:
    rows = [[1, 2, 3], [200, 100, 50]]
    assert load_model(exported.place).generate(rows, 3) == [greedy(row, 3) for row in rows]


@pytest.mark.parametrize(("ids", "count"), [([[1], [2], [3]], 2), ([], 2), ([1], 0)])
def test_what_does_not_fit_is_refused(exported: ExportedTarget, ids: list[Any], count: int) -> None:
    with pytest.raises(ValueError, match="1 to 2 prompts"):
        load_model(exported.place).generate(ids, count)


def test_a_static_cache_holds_so_many_tokens_and_one_that_grows_any(exported: ExportedTarget) -> None:
    model, ids = load_model(exported.place), [1] * 12
    if exported.told["knobs"].get("kv_cache") == "dynamic":
        assert model.generate(ids, 30) == greedy(ids, 30)
    else:
        with pytest.raises(ValueError, match="19 tokens with what follows"):
            model.generate(ids, 8)


def test_it_is_judged_by_the_windows_that_it_carries(exported: ExportedTarget) -> None:
    with exported.open(exported.build(exported.point)) as runner:
        check = runner.verify()
        assert runner.run(1)["tokens_per_s"][0] > 0
    assert check.errors["export_rel_error"] < 1e-6
    assert check.quality == {"top1_agreement_pct": 100.0}
    assert exported.told["options"]["windows_file"] == "source/windows.safetensors"
