"""What does MLflow get of a monitored export? One run whose metrics have a step a check, each once."""

from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.listeners.mlflow import experiment_id
from optimizer.readers.store import runs_of, store_errors

HISTORY_TAG = "optimizer.monitor"


@dataclass(frozen=True)
class Step:
    """One check as the store gets it; metrics that a check has not are absent."""

    number: int
    at_s: float
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def send_steps(
    uri: str, experiment: str, history: str, name: str, steps: list[Step], picture: tuple[str, bytes] | None
) -> str:
    """Sends the steps that the run of this history lacks; its id. Raises StoreError; sending again changes nothing."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    with store_errors():
        client = MlflowClient(uri)
        place = experiment_id(client, uri, experiment)
        known = next(iter(runs_of(client, place, f"tags.`{HISTORY_TAG}` = '{history}'")), None)
        if known is None:
            tags = {HISTORY_TAG: history, "status": "monitor"}
            start_ms = int(steps[0].at_s * 1000) if steps else None
            known = client.create_run(place, start_ms, tags, f"monitor {name}")
        run = str(known.info.run_id)
        sent = int(known.data.tags.get("checks", 0))
        for step in steps[sent:]:
            metrics = [Metric(n, v, int(step.at_s * 1000), step.number) for n, v in step.metrics.items()]
            told = {**step.tags, "checks": str(step.number + 1)}
            client.log_batch(run, metrics=metrics, tags=[RunTag(n, v[:5000]) for n, v in told.items()])
        if picture is not None and sent < len(steps):
            path, content = picture
            _log_bytes(client, run, path, content)
        client.set_terminated(run, "FINISHED")
    return run


def _log_bytes(client: object, run: str, path: str, content: bytes) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path
        file.write_bytes(content)
        client.log_artifact(run, str(file))  # type: ignore[attr-defined]
