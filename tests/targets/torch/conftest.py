"""What the tests of torch models share: one fork server, and one folder of what is kept between studies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torchmodels import MODELS, Make

from optimizer.space import Point
from optimizer.targets.native import Limits
from optimizer.targets.torch.target import IMPORTED, TorchTarget
from optimizer.targets.torch.workers import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    server = Zygote(IMPORTED)
    yield server
    server.close()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own(zygote: Zygote, cache: Path, tmp_path: Path) -> Make:
    """A target of one of the functions in models.py."""

    def make(name: str, *, memory_bytes: int = 8 << 30, device: str = "cpu", **options: Any) -> TorchTarget:
        given = {"model": f"{MODELS}:{name}", **options}
        limits = Limits(300.0, memory_bytes)
        return TorchTarget("own", given, Point({}), device, tmp_path, cache, limits, zygote=zygote)

    return make
