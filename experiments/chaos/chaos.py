"""How are the processes of a search killed at random moments? A search with its server, and one who kills."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median
from types import TracebackType
from typing import IO, Any, Self

import psutil

from optimizer.keeper import descendants
from optimizer.readers.store import runs_of

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
PROGRAM = (sys.executable, "-m", "optimizer")
AHEAD = 4
STEP = 24  # trials by which the budget grows whenever a search has ended before all kills are done
KINDS = {"search": 60, "program": 50, "compiler": 50, "keeper": 20, "tracker": 12, "server": 8}
"""What is killed, and how often of each: the search's own process, the program that is measured, a process of the
compiler, the process that keeps both, the tracking process, the MLflow server."""
TRANSIENT = ("program", "compiler", "keeper")  # what they were at is tried once more, not twice
DIE_S, END_S = 10.0, 300.0


class Chaos:
    """One study in a folder of its own, searched by a strategy. Without a `server` it is not tracked. Use as a context
    manager."""

    def __init__(self, folder: Path, seed: int, strategy: str, *, server: bool) -> None:
        folder.mkdir(parents=True)
        self.folder, self.budget, self.starts = folder, STEP, 0
        self.killed: list[tuple[str, str]] = []
        self._seed, self._strategy = seed, strategy
        self._random = Random(seed)
        self._log: IO[bytes] = (folder / "log").open("ab")
        self._server = Server(folder, *_on_sqlite(folder)) if server else None
        self.uri = self._server.uri if self._server else ""
        self._search: subprocess.Popen[bytes] | None = None

    @property
    def journal(self) -> Path:
        return self.folder / "studies" / "chaos" / "journal.jsonl"

    def trials(self) -> list[dict[str, Any]]:
        """The whole lines of the journal that are trials."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_bytes().splitlines(keepends=True)
        return [t for t in map(json.loads, (x for x in lines if x.endswith(b"\n"))) if t.get("kind") == "trial"]

    def kill(self, count: int) -> None:
        """That many kills, each at a random moment, in a search that is resumed whenever it is gone."""
        for kind in self._kinds(count):
            self._running()
            time.sleep(self._random.uniform(0.0, 3.0 if kind == "search" else 1.0))
            self._struck(kind)

    def finish(self) -> list[dict[str, Any]]:
        """The trials of the search at its end."""
        budget = self.budget
        while len(self.trials()) < budget or self._search is None or self._search.poll() is None:
            self._running(grows=False)
            assert self._search is not None
            try:
                self._search.wait(END_S)
            except subprocess.TimeoutExpired:
                raise self._hangs("it does not end") from None
        if self._server is not None:
            self._server.ready()
            sent = self._command("track", "chaos", f"tracking.uri={self.uri}")
            assert sent.returncode == 0, sent.stderr
        return self.trials()

    def _hangs(self, what: str) -> AssertionError:
        """What is told of a search that goes no further: with the stacks of its threads, which SIGABRT makes it print
        (PYTHONFAULTHANDLER)."""
        if self._search is not None and self._search.poll() is None:
            self._search.send_signal(signal.SIGABRT)
            self._search.wait(DIE_S)
        return AssertionError(f"{what}; {len(self.trials())} trials of {self.budget}\n{self._said()}")

    def _kinds(self, count: int) -> list[str]:
        """Every kind, by its share, in random order."""
        shares = {k: n for k, n in KINDS.items() if k != "server" or self._server is not None}
        total = sum(shares.values())
        kinds = [kind for kind, share in shares.items() for _ in range(max(1, round(count * share / total)))]
        self._random.shuffle(kinds)
        while len(kinds) < count:
            kinds.append("search")
        return kinds

    def _struck(self, kind: str) -> None:
        assert self._search is not None
        before = len(self.trials())
        if kind == "server":
            assert self._server is not None
            self._server.kill()
            time.sleep(self._random.uniform(0.0, 3.0))
            self._server.start()
            self.killed.append((kind, "tracking"))
            return
        if kind == "search":
            where, programs = self._stage(), _programs(self._search.pid)
            self._search.kill()
            self._search.wait()
            _gone(programs)
            self.killed.append((kind, where))
            return
        self.killed.append((kind, self._victim(kind)))
        if kind in TRANSIENT:
            self._waited_for(lambda: len(self.trials()) > before + AHEAD)

    def _victim(self, kind: str) -> str:
        """Kills a process of this kind; where there is none the search is resumed or waited for. What went on then."""
        until = time.monotonic() + END_S
        while time.monotonic() < until:
            self._running()
            assert self._search is not None
            found = _found(self._search.pid, kind)
            if found:
                where = {"program": "running", "compiler": "building"}.get(kind) or self._stage()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._random.choice(found), signal.SIGKILL)
                    return where
            time.sleep(0.002)
        raise self._hangs(f"no {kind} to kill")

    def _stage(self) -> str:
        """What goes on, for the record."""
        assert self._search is not None
        if not self.journal.exists():
            return "start"
        if _found(self._search.pid, "program"):
            return "running"
        if _found(self._search.pid, "compiler"):
            return "building"
        return "between"

    def _waited_for(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + END_S
        while not done() and self._search is not None and self._search.poll() is None:
            if time.monotonic() > until:
                raise self._hangs("no trials come")
            time.sleep(0.02)

    def _running(self, *, grows: bool = True) -> None:
        """Starts the search where it does not run."""
        if self._search is not None and self._search.poll() is None:
            return
        if self._search is not None and self._search.returncode == 0 and grows:
            self.budget += STEP
        words = [*self._words(), f"budget.trials={self.budget}", *(["--resume"] if self._begun() else [])]
        assert self._search is None or self._search.returncode in (0, -signal.SIGKILL), self._said()
        self.starts += 1
        self._search = subprocess.Popen(
            [*PROGRAM, "search", *words], cwd=self.folder, env=environment(), stdout=self._log, stderr=self._log
        )

    def _begun(self) -> bool:
        return self.journal.exists() and b"\n" in self.journal.read_bytes()

    def _words(self) -> list[str]:
        config = (f"--config-dir={HERE / 'conf'}",)
        if self._begun():
            return [*config, "study=chaos"]
        source = f"target.source={HERE / 'chaos.cpp'}"
        plan = ("measure=quick", "measure.confirm.max_seconds=1", "measure.confirm.rounds=6", "measure.drift_every=0")
        cache = f"build_cache.folder={self.folder / 'builds'}"
        return [
            *config,
            "target=chaos",
            source,
            cache,
            "study=chaos",
            f"strategy={self._strategy}",
            f"seed={self._seed}",
            *(["tracking=none"] if self._server is None else [f"tracking.uri={self.uri}"]),
            f"ahead={AHEAD}",
            *plan,
        ]

    def _command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *words], cwd=self.folder, env=environment(), capture_output=True, text=True, check=False
        )

    def _said(self) -> str:
        return (self.folder / "log").read_text()[-8000:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._search is not None and self._search.poll() is None:
            self._search.kill()
            self._search.wait()
        if self._server is not None:
            self._server.kill()
        self._log.close()


class Server:
    """An MLflow server; `store` are the words that say where it keeps runs and artifacts."""

    def __init__(self, folder: Path, *store: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._folder, self._store = folder, store
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()
        self.ready()

    def ready(self) -> None:
        """Waits until it answers; one that has ended by itself (its port was taken meanwhile) is started again."""
        until = time.monotonic() + END_S
        while not self._answers():
            assert time.monotonic() < until, (self._folder / "server.log").read_text()
            if self._process.poll() is not None:
                self.start()
            time.sleep(0.1)

    def start(self) -> None:
        address = ("--host", "127.0.0.1", "--port", str(self._port), "--workers", "1")
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *self._store, *address],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )

    def kill(self) -> None:
        """With all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1.0):
            return True
        return False


def _on_sqlite(folder: Path) -> Sequence[str]:
    database, artifacts = f"sqlite:///{folder}/server.db", str(folder / "mlartifacts")
    return ("--backend-store-uri", database, "--default-artifact-root", artifacts)


def environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONFAULTHANDLER": "1"}


def _found(search: int, kind: str) -> list[int]:
    """The processes of a search that are of this kind."""
    return [pid for pid in descendants(search) if _kind(pid) == kind]


def _kind(pid: int) -> str:
    try:
        words = Path("/proc", str(pid), "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return ""
    if not words:
        return ""  # it has ended
    if any(word.endswith("keeper.py") for word in words):
        return "keeper"
    if "optimizer.listeners.tracker" in words:
        return "tracker"
    name = Path(words[0]).name
    if name == "program":
        return "program"
    tools = ("g++", "clang++", "clang", "cc1plus", "as", "collect2", "ld", "ld.lld")
    return "compiler" if name in tools and "--version" not in words else ""


def _programs(search: int) -> list[int]:
    return [pid for kind in ("program", "compiler", "keeper") for pid in _found(search, kind)]


def _gone(pids: Sequence[int]) -> None:
    """What the search had started does not outlive it."""
    until = time.monotonic() + DIE_S
    for pid in pids:
        while _lives(pid):
            assert time.monotonic() < until, f"process {pid} outlived its search"
            time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- what must come of it


def outcome(trial: Mapping[str, Any]) -> Any:
    """What a trial says that does not depend on when it ran."""
    if "failed" in trial:
        return trial["failed"]["stage"], trial["failed"]["reason"], trial["same_as"]
    return sorted(set(trial["samples"]["latency_s"])), trial["check"]["errors"], trial["same_as"]


def compared(killed: Sequence[Mapping[str, Any]], undisturbed: Sequence[Mapping[str, Any]]) -> None:
    """The same candidates in the same order, each once, with the same outcomes."""
    assert [t["number"] for t in killed] == list(range(len(killed)))
    assert len(killed) == len(undisturbed)
    for one, other in zip(killed, undisturbed, strict=True):
        assert one["point"] == other["point"], f"trial {one['number']}: {one['point']} against {other['point']}"
        logs = [trial["failed"] for trial in (one, other) if "failed" in trial]
        assert outcome(one) == outcome(other), f"trial {one['number']}: {outcome(one)} against {outcome(other)}: {logs}"


def in_mlflow(uri: str, trials: Sequence[Mapping[str, Any]]) -> int:
    """Every trial is there exactly once, complete, with the journal's latency, under one study. Returns how many."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("chaos")
    assert experiment is not None
    runs = list(runs_of(client, experiment.experiment_id, ""))
    copies = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(runs) == len(copies) + 1
    assert {r.data.tags["mlflow.parentRunId"] for r in copies} == {
        r.info.run_id for r in runs if "mlflow.parentRunId" not in r.data.tags
    }
    counts = Counter(int(r.data.tags["number"]) for r in copies)
    assert counts == Counter(range(len(trials))), f"not once each: {counts}"
    for run in copies:
        trial = trials[int(run.data.tags["number"])]
        assert run.info.status == ("FAILED" if "failed" in trial else "FINISHED")
        if "failed" not in trial:
            assert run.data.metrics["latency_s"] == median(trial["samples"]["latency_s"])
            assert {k: run.data.params[k] for k in trial["point"]} == {k: str(v) for k, v in trial["point"].items()}
    return len(copies)
