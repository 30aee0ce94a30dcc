"""MLflow on PostgreSQL, its server killed for half of a search, in short: experiments/tracking runs 10,000 trials."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from postgres import Cluster, programs

from optimizer.listeners.tracker import patience

PROGRAMS = programs()


@pytest.mark.extra
@pytest.mark.skipif(find_spec("psycopg2") is None, reason="needs psycopg2-binary: the extra postgres")
@pytest.mark.skipif(PROGRAMS is None, reason="needs PostgreSQL's initdb and pg_ctl")
def test_every_trial_is_in_mlflow_once_though_its_server_was_down_for_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from at_scale import run

    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT", "GIT_PYTHON_REFRESH"):
        monkeypatch.setenv(name, "0")  # given back after what patience() sets
        monkeypatch.delenv(name)
    patience()
    assert PROGRAMS is not None
    with Cluster(PROGRAMS) as cluster:
        result = run(tmp_path, cluster, trials=300, build_s=0.1)
    assert result["trials made while the server was down"] >= 150
    assert result["artifacts, files"] >= result["failed trials"] > 0
