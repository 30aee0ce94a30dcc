"""Which files stand with a study's run in MLflow? Its report, as a page and as Markdown."""

from collections.abc import Mapping

from optimizer.journal import Study
from optimizer.listeners.mlflow import StudyCopy
from optimizer.readers.store import experiment_address
from optimizer.report.overview import overview
from optimizer.report.overview_markdown import study_markdown
from optimizer.report.page.page import page
from optimizer.report.page.runs import Runs


def pages(study: Study, copy: StudyCopy) -> Mapping[str, str]:
    """A study without a trial has none."""
    if not study.trials:
        return {}
    found = overview([study], study.name)
    runs = Runs(experiment_address(copy.uri, copy.experiment_id), copy.parent, copy.runs)
    return {
        "report.html": page(found, [study], {study.name: runs}).decode(),
        "report.md": study_markdown(study, found),
    }
