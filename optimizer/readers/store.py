"""How is a store of MLflow asked? Its errors as one, its runs page by page, the names that our runs are known by."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from optimizer.errors import causes

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 250  # runs a request: a thousand take a busy server 5 s, and a request that takes 10 s is given up
JOURNAL_TAG, NUMBER_TAG, PARENT_TAG = "optimizer.journal", "number", "mlflow.parentRunId"
OBJECTIVE = "objective"
DERIVED = (OBJECTIVE, "gain", "quality_loss_pct")
"""Metrics that MLflow gets beside those that were measured."""

TAILS = ("p95", "p99")
MORE_TAG, ERROR_TAG, BEST_TAG = "metrics.more", "error", "best"
STUDY_FILE = "study.jsonl"
"""The artifact of a study's run that tells what runs don't: a journal without its trials."""
OWN_UI = "http://127.0.0.1:5000"
"""Where `optimizer ui` answers by default."""


class StoreError(Exception):
    """The store did not answer or refused; what is missing can be sent later."""


@contextmanager
def store_errors() -> Iterator[None]:
    """Whatever the store raises becomes StoreError: MLflow's own errors and those of its database and network."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        raise StoreError(_shortly(error)) from error


def _shortly(error: BaseException) -> str:
    """The first line; of a request that failed its address and what the system said, without the layers between."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    asked, layers, _ = first.partition(" failed with exception ")
    if layers:
        *_, innermost = causes(error)
        first = f"{asked} failed: {innermost}"
    return first[:300]


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite:/// address, None for any other."""
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


def runs_of(client: "MlflowClient", experiment_id: str, filter_string: str) -> "Iterator[Run]":
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], filter_string, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def experiment_address(uri: str, experiment_id: str) -> str:
    """In the UI: a server's own; of a file, that of `optimizer ui`."""
    base = uri.rstrip("/") if uri.startswith(("http://", "https://")) else OWN_UI
    return f"{base}/#/experiments/{experiment_id}"
