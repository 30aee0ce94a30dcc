"""Which files stand with a study's run in MLflow? Its report, as a page and as Markdown."""

from collections.abc import Mapping

from optimizer.journal import Study
from optimizer.listeners.mlflow import StudyCopy
from optimizer.report.markdown import markdown
from optimizer.report.overview import overview
from optimizer.report.page.page import page
from optimizer.report.page.trials import Runs

OWN_UI = "http://127.0.0.1:5000"
"""Where `optimizer ui` answers by default."""


def pages(study: Study, copy: StudyCopy) -> Mapping[str, str]:
    """A study without a trial has none."""
    if not study.trials:
        return {}
    found = overview([study], study.name)
    runs = Runs(experiment_address(copy.uri, copy.experiment_id), copy.parent, copy.runs)
    return {
        "report.html": page(found, [study], {study.name: runs}).decode(),
        "report.md": markdown(study, found.importance.get(study.name, {})),
    }


def experiment_address(uri: str, experiment_id: str) -> str:
    """In the UI: a server's own; of a file, that of `optimizer ui`."""
    base = uri.rstrip("/") if uri.startswith(("http://", "https://")) else OWN_UI
    return f"{base}/#/experiments/{experiment_id}"
