"""What all tests share: a build cache of their own, so that none depends on what a machine has built before.

Where several processes run the tests, each has a temporary folder of its own: the locks that keep two searches from
measuring at once lie there, and tests of one process would wait for those of the other. OpenMP's threads sleep while
they wait, since those that turn in circles take the processors from the tests beside them.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder() -> Iterator[None]:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user and must come to its own folder in it
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_build_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
