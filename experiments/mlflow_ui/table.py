"""How long does MLflow's UI take to show the table of 5,000 trials, as we log them and as a newcomer does?

    python experiments/mlflow_ui/table.py [TRIALS]

Both stores hold the same made-up trials. The newcomer's has a run each with all parameters and every reading as a step,
no parent and no view: what mlflow.start_run, log_params and log_metric make, held against three such runs, and written
in the same way as ours since the calls take over half an hour.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from screenshots import ROOT, served
from selenium import webdriver
from sqlalchemy import create_engine

sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from browser import browser, until  # noqa: E402

from experiments.report.run import study as study_of  # noqa: E402
from optimizer.device import cpu_model, physical_cores  # noqa: E402
from optimizer.journal import Study  # noqa: E402
from optimizer.listeners.mlflow import no_pages  # noqa: E402
from optimizer.listeners.together import Together, send_together  # noqa: E402
from optimizer.trial import Trial, samples_of  # noqa: E402

TRIALS, OPENED, COMPARED = 5000, 3, 3
OURS, NAIVE = "as we log them", "as a newcomer logs them"
ROWS = "return document.querySelectorAll('.ag-center-cols-container .ag-row, [role=row] a[href*=\"/runs/\"]').length"
FIRST = "const a = document.querySelector('[role=row] a[href*=\"/runs/\"]'); return a ? a.innerText : ''"


def readings(trial: Trial, at_ms: int) -> Sequence[Metric]:
    """Each reading a step, and what the compiler told."""
    every = [(name, v, i) for name, values in samples_of(trial).items() for i, v in enumerate(values)]
    return [Metric(name, value, at_ms, step) for name, value, step in every]


def naive(study: Study, uri: str) -> str:
    """The experiment's id."""
    place = MlflowClient(uri).create_experiment("naive")
    engine = create_engine(uri)
    together = Together(engine, {place: Path(uri.removeprefix("sqlite:///")).parent / "artifacts"})
    for trial in study.trials:
        at_ms = int(trial.started_at_s * 1000)
        tags = {"mlflow.user": "me", "mlflow.source.name": "search.py", "mlflow.source.type": "LOCAL"}
        run = together.create_run(place, at_ms, tags, f"run-{trial.number}").info.run_id
        params = [Param(name, str(value)) for name, value in trial.point.items()]
        together.log_batch(run, metrics=readings(trial, at_ms), params=params)
        together.set_terminated(run, "FINISHED", at_ms + 5000)
    together.write()
    engine.dispose()
    return place


def like_the_calls(study: Study, uri: str, place: str) -> None:
    """Raises AssertionError where the fluent calls make other runs than `naive`."""
    mlflow.set_tracking_uri(f"{uri}.calls")
    client, calls = MlflowClient(uri), MlflowClient(f"{uri}.calls")
    mine = {r.info.run_name: r for r in client.search_runs([place], max_results=TRIALS)}
    for trial in study.trials[:COMPARED]:
        with mlflow.start_run(run_name=f"run-{trial.number}") as run:
            mlflow.log_params(dict(trial.point))
            for metric in readings(trial, 0):
                mlflow.log_metric(metric.key, metric.value, step=metric.step)
        theirs, here = calls.get_run(run.info.run_id), mine[f"run-{trial.number}"]
        assert (theirs.data.params, theirs.data.metrics) == (here.data.params, here.data.metrics)
        tags = {name for name in theirs.data.tags if not name.startswith("mlflow.source.git.")}
        assert tags == here.data.tags.keys()
        for name in theirs.data.metrics:
            steps = [c.get_metric_history(r.info.run_id, name) for c, r in ((calls, theirs), (client, here))]
            assert [(m.step, m.value) for m in steps[0]] == [(m.step, m.value) for m in steps[1]]


def opened(driver: webdriver.Chrome, address: str) -> float:
    """Seconds from the address to the first row of the table."""
    driver.get("about:blank")
    start_s = time.monotonic()
    driver.get(address)
    until(driver, ROWS)
    return time.monotonic() - start_s


def measured(addresses: dict[str, str]) -> dict[str, dict[str, object]]:
    """In turn, each in a browser of its own, whose cache is empty, as one opens it first, then once more."""
    found: dict[str, tuple[list[float], list[float], list[str]]] = {name: ([], [], []) for name in addresses}
    for _ in range(OPENED):
        for name, address in addresses.items():
            with browser(size=(1720, 900)) as driver:
                found[name][0].append(round(opened(driver, address), 2))
                found[name][1].append(round(opened(driver, address), 2))
                found[name][2].append(str(driver.execute_script(FIRST)))
    return {
        name: {
            "new browser, s": first,
            "again, s": again,
            "medians, s": [round(statistics.median(first), 2), round(statistics.median(again), 2)],
            "first row": rows[-1],
        }
        for name, (first, again, rows) in found.items()
    }


def main(words: Sequence[str]) -> None:
    count = int(words[0]) if words else TRIALS
    study = study_of(count)
    with tempfile.TemporaryDirectory(prefix="table-") as folder:
        ours, theirs = (Path(folder) / name for name in ("ours", "naive"))
        for store in (ours, theirs):
            store.mkdir()
        uris = [f"sqlite:///{store}/mlflow.db" for store in (ours, theirs)]
        start_s = time.process_time()
        (copy,) = send_together({"ours": [study]}, uris[0], lambda sent: None, no_pages).values()
        sending_s = time.process_time() - start_s
        place = naive(study, uris[1])
        like_the_calls(study, uris[1], place)
        with served(ours) as one, served(theirs) as two:
            addresses = {
                OURS: f"{one}/#/experiments/{copy.experiment_id}/runs?viewStateShareKey=optimizer",
                NAIVE: f"{two}/#/experiments/{place}/runs",
            }
            tables = measured(addresses)
        store_bytes = {n: (p / "mlflow.db").stat().st_size for n, p in ((OURS, ours), (NAIVE, theirs))}
    result = {
        "runs": count,
        "until the first row of the table": tables,
        "store_bytes": store_bytes,
        "sending ours, CPU s": round(sending_s, 1),
        "mlflow": mlflow.__version__,
        "processor": f"{cpu_model()}, {physical_cores()} cores",
        "load": round(os.getloadavg()[0], 1),
        "date": date.today().isoformat(),
    }
    text = json.dumps(result, indent=1, ensure_ascii=False)
    print(text)
    if count == TRIALS:
        (Path(__file__).parent / "table.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
