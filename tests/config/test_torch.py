"""Torch models in configuration files: seed benchmarks compose, knobs are what Inductor has, wrong words fail."""

from datetime import date
from pathlib import Path

import pytest

from optimizer.config import composed, files, load
from optimizer.config.spaces import space_of
from optimizer.config.torch import backends_here
from optimizer.errors import ConfigError
from optimizer.space import Value
from optimizer.targets.torch.backends.options import OPTIONS

TODAY = date(2026, 11, 25)


@pytest.mark.parametrize("name", ["mlp", "conv", "transformer"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_seed_benchmark_has_its_configuration(name: str, device: str) -> None:
    infix = "" if device == "cpu" else "_cuda"
    made = composed([f"experiment={name}{infix}_bench"], [])
    space = space_of(made.tree["space"], made.domains)
    assert (made.tree["target"]["name"], made.tree["device"]) == (name, device)
    assert made.tree["objective"]["limits"] == {"quality_loss_pct": {"max": 1}}
    assert space.baseline()["backend"] == "eager"
    for point in made.tree["known_good"]:
        assert space.active({**{k.name: k.default for k in space.knobs}, **point}) in space


def test_every_backend_but_eager_has_a_known_good_point() -> None:
    text = files().text("target/conv")
    assert {point["backend"] for point in text["known_good"]} >= {"torchscript", "compile", "aoti"}
    assert backends_here()["eager"] is None


def test_the_knobs_of_inductor_are_options_that_this_torch_has() -> None:
    from torch._inductor import config

    known = config.get_config_copy()
    assert [key for key in OPTIONS.values() if key not in known] == []
    for name in ("torch_compile", "torch_compile_cuda"):
        knobs = set(files().text(f"space/{name}"))
        assert knobs - {"compile_mode", "dynamic", "fullgraph"} <= OPTIONS.keys()
        assert len(knobs) >= 13


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    for word, said in {
        "target.options.model=nowhere.py:net": "there is no file",
        "target.options.model=net": "names no function",
        "target.task=perceptron": "is not known",
    }.items():
        words = ["target=model", word, "space=[torch_batch]", f"studies_dir={tmp_path}", f"target.cache={tmp_path}"]
        with pytest.raises(ConfigError, match=said):
            load(words, [], TODAY)


def test_without_a_compiler_what_needs_one_is_missing_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = backends_here()
    assert found["eager"] is None
    for name in ("compile", "aoti"):
        assert "apt install g++" in str(found[name])


@pytest.mark.parametrize(
    ("knobs", "fits"),
    [
        ({"kv_cache": "dynamic"}, True),
        ({"kv_cache": "dynamic", "backend": "compile", "dynamic": "true"}, True),
        ({"kv_cache": "dynamic", "backend": "compile", "dynamic": "auto"}, False),
        ({"kv_cache": "dynamic", "backend": "openvino"}, False),
        ({"context_tokens": 128}, True),
        ({"context_tokens": 72}, False),
    ],
)
def test_a_cache_that_grows_or_is_too_short_stays_out_of_what_cannot_take_it(
    knobs: dict[str, Value], *, fits: bool
) -> None:
    made = composed(["target=smollm2", "space.context_tokens=choice(0,72,128)"], [])
    space = space_of(made.tree["space"], made.domains)
    assert (space.active({**{k.name: k.default for k in space.knobs}, **knobs}) in space) is fits
