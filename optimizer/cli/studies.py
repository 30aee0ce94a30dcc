"""Commands on studies that exist: track, ui."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from optimizer.cli import FAILED
from optimizer.cli.sources import default_uri, journal_of
from optimizer.config.compose import sorted_words
from optimizer.errors import ConfigError, nearest
from optimizer.journal import Study, read
from optimizer.listeners.mlflow import send
from optimizer.listeners.together import send_together
from optimizer.listeners.tracker import Status, patience, sending, write_status
from optimizer.readers.store import StoreError, sqlite_path

PLACES = ("studies_dir", "tracking.uri", "tracking.experiment")


def settings_of(words: Sequence[str], known: Sequence[str] = PLACES) -> dict[str, str]:
    """The few settings that these commands take, as typed. Raises ConfigError for any other."""
    found = {}
    for word in sorted_words(words).hydra:
        key, _, value = word.partition("=")
        if key not in known:
            raise ConfigError(f"'{key}' is not a setting of this command.{nearest(key, known)}")
        found[key] = value
    return found


def journal_named(name: str, settings: Mapping[str, str]) -> Path:
    """Raises ConfigError where there is no such study, with the nearest name."""
    path = Path(name) if Path(name).is_file() else journal_of(name, settings)
    if path is not None:
        return path
    studies = Path(settings.get("studies_dir", "studies"))
    known = [p.parent.name for p in studies.glob("*/journal.jsonl")]
    raise ConfigError(f"There is no study {name} in {studies}.{nearest(name, known)}")


def track_command(name: str, words: Sequence[str]) -> None:
    settings = settings_of(words)
    path = journal_named(name, settings)
    study = read(path)
    status = sent(path, study, settings)
    print(f"{len(study.trials)} trials of {study.name} are in {status.uri}, run {status.run_id}.")


def sent(path: Path, study: Study, settings: Mapping[str, str]) -> Status:
    """Sends what MLflow lacks of a study. Ends the program where it can't be reached."""
    uri = store_for(settings, path.resolve().parent.parent)
    experiment = settings.get("tracking.experiment") or study.recipe.target.name
    from rich.console import Console
    from rich.progress import Progress

    from optimizer.listeners.pages import pages

    with Progress(console=Console(stderr=True), transient=True) as progress, store_reached(uri), sending(path):
        task = progress.add_task("sending", total=len(study.trials))

        def done(number: int) -> None:
            progress.update(task, completed=number)

        new = send_together({experiment: [study]}, uri, done, pages)
        copy = new.get(study.id) or send(study, uri, experiment, done, pages)
    status = Status(uri, copy.experiment_id, copy.parent, len(study.trials))
    write_status(path, status)
    return status


def store_for(settings: Mapping[str, str], studies: Path) -> str:
    """The store that these commands write to; MLflow's client behaves as the tracking process wants it from here on."""
    uri = settings.get("tracking.uri") or default_uri(studies)
    patience()
    if (database := sqlite_path(uri)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    return uri


@contextlib.contextmanager
def store_reached(uri: str) -> Iterator[None]:
    """Ends the program with what to do where the store does not answer or refuses."""
    try:
        yield
    except StoreError as error:
        print(
            f"error: MLflow at {uri} can't be written to: {error}. Start it, then give this command again.",
            file=sys.stderr,
        )
        raise SystemExit(FAILED) from None


def ui_command(words: Sequence[str], host: str, port: int) -> None:
    settings = settings_of(words)
    studies = Path(settings.get("studies_dir", "studies")).resolve()
    uri = settings.get("tracking.uri") or default_uri(studies)
    if uri.startswith(("http://", "https://")):
        raise ConfigError(f"{uri} is a server already: open it in a browser.")
    if (database := sqlite_path(uri)) is not None and not database.exists():
        raise ConfigError(
            f"There is no store at {database} yet: it is made by the first search (or name studies_dir=…)."
        )
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"{host}:{port} can't be listened on ({error.strerror}): name another --port.") from None
    artifacts = database.parent / "mlartifacts" if database else studies / "mlartifacts"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--default-artifact-root"]
    command += [str(artifacts), "--host", host, "--port", str(port), "--workers", "1"]
    print(f"MLflow on {uri}: http://{host}:{port} (Ctrl-C ends it)", flush=True)
    raise SystemExit(_served(command))


def _served(command: Sequence[str]) -> int:
    """Runs a server until it or we are ended; the processes that it has started go with it."""
    # Jobs would be seven processes that nothing here uses.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return server.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
