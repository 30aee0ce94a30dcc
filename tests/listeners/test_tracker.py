"""The tracking process: sends while the journal grows, ends when told, keeps off a device that is busy."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from simple import MIXED, recipe_of, searched, synthetic, until

from optimizer.device import lock_path
from optimizer.journal import Journal, Settings
from optimizer.listeners.mlflow import StudyCopy
from optimizer.listeners.tracker import Status, Tracker, follow, read_status, write_status
from optimizer.readers.store import StoreError
from optimizer.recipe import Environment
from optimizer.trial import Trial

TRIALS = searched(recipe_of(MIXED), synthetic(), 10)[0]


def begun(folder: Path) -> Journal:
    return Journal.create(folder / "s" / "journal.jsonl", "s", recipe_of(MIXED), Environment("x"), Settings())


class FakeCopy:
    """A store in memory that refuses the first `refusals` trials it is sent."""

    def __init__(self, refusals: int = 0, known: int = 0) -> None:
        self.experiment_id, self.parent = "1", "parent"
        self.known = known  # trials that it had before
        self.sent: list[int] = []
        self.system_readings: list[dict[str, float]] = []
        self.ended = 0
        self.refusals = refusals

    def has(self, trial: Trial) -> bool:
        return trial.number < self.known

    def trial(self, trial: Trial, study: object) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreError("not now")
        self.sent.append(trial.number)

    def system(self, readings: Mapping[str, float], step: int) -> None:
        self.system_readings.append(dict(readings))

    def ending(self, study: object, pages: Mapping[str, str]) -> None:
        self.ended += 1


def opened(monkeypatch: pytest.MonkeyPatch, copy: FakeCopy) -> None:
    monkeypatch.setattr(StudyCopy, "opened", lambda *_: copy)
    monkeypatch.setattr("optimizer.listeners.tracker._pages", lambda *_: {})
    monkeypatch.setattr("optimizer.listeners.tracker.RETRY_S", 0.05)
    monkeypatch.setattr("optimizer.listeners.tracker.POLL_S", 0.02)


def in_background(journal: Path, finished: Callable[[], bool], lock: str = "") -> tuple[threading.Thread, list[Status]]:
    found: list[Status] = []
    thread = threading.Thread(target=lambda: found.append(follow(journal, "sqlite:///x", "x", finished, lock)))
    thread.start()
    return thread, found


def test_a_sender_that_gets_no_further_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was stopped, say. While the search runs it may take its time; then it must get on."""
    monkeypatch.setattr("optimizer.listeners.tracker.OTHER_S", 0.3)
    ended = threading.Event()
    with begun(tmp_path) as journal, FileLock(journal.path.with_name("tracking.lock")):
        thread, found = in_background(journal.path, ended.is_set)
        time.sleep(0.5)
        assert thread.is_alive()
        ended.set()
        thread.join(20)
    assert "Another process" in (found[0].error or "") and f"pid {os.getpid()}" in (found[0].error or "")


def test_trials_are_sent_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, ended = FakeCopy(), threading.Event()
    opened(monkeypatch, copy)
    with begun(tmp_path) as journal:
        thread, found = in_background(journal.path, ended.is_set)
        for trial in TRIALS[:5]:
            journal.on_trial(trial)
        until(lambda: len(copy.sent) == 5)
        assert copy.ended == 0
        for trial in TRIALS[5:]:
            journal.on_trial(trial)
        ended.set()
        thread.join(20)
    assert copy.sent == list(range(10))
    assert copy.ended == 1
    assert found == [Status("sqlite:///x", "1", "parent", 10)]
    assert read_status(journal.path) == found[0]


def test_a_store_that_refuses_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, ended = FakeCopy(refusals=3), threading.Event()
    opened(monkeypatch, copy)
    with begun(tmp_path) as journal:
        for trial in TRIALS:
            journal.on_trial(trial)
        thread, found = in_background(journal.path, ended.is_set)
        until(lambda: len(copy.sent) == 10)
        ended.set()
        thread.join(20)
    assert copy.sent == list(range(10))
    assert found[0].error is None


def test_a_store_that_never_answers_does_not_hold_the_end_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = FakeCopy(refusals=10**6)
    opened(monkeypatch, copy)
    with begun(tmp_path) as journal:
        for trial in TRIALS:
            journal.on_trial(trial)
        status = follow(journal.path, "sqlite:///x", "x", lambda: True, "")
    assert status.error == "not now"
    assert status.sent == 0


def test_nothing_is_sent_while_the_device_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, ended, name = FakeCopy(), threading.Event(), f"tracker-test-{os.getpid()}"
    opened(monkeypatch, copy)
    with begun(tmp_path) as journal:
        for trial in TRIALS:
            journal.on_trial(trial)
        with FileLock(lock_path(name)):
            thread, _ = in_background(journal.path, ended.is_set, name)
            time.sleep(0.3)
            assert copy.sent == []
        until(lambda: len(copy.sent) == 10)
        ended.set()
        thread.join(20)
    Path(lock_path(name)).unlink()


def test_what_the_store_has_waits_for_no_device_and_is_not_written_down_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reconnect all trials are walked again."""
    copy, taken, written = FakeCopy(known=7), list[str](), list[int]()
    opened(monkeypatch, copy)

    @contextmanager
    def idle(lock: str, finished: object) -> Iterator[None]:
        taken.append(lock)
        yield

    monkeypatch.setattr("optimizer.listeners.tracker._device_idle", idle)
    monkeypatch.setattr("optimizer.listeners.tracker.write_status", lambda _, status: written.append(status.sent))
    with begun(tmp_path) as journal:
        for trial in TRIALS:
            journal.on_trial(trial)
        assert follow(journal.path, "sqlite:///x", "x", lambda: True, "device").sent == len(TRIALS)
    assert copy.sent == list(range(10)), "the best so far is known again"
    assert taken == ["device"] * 4, "once to open the store, and for the three trials that it lacks"
    assert written == [0, 8, 9, 10]


def test_the_process_sends_all_and_ends(tmp_path: Path) -> None:
    """The real one, into SQLite; its status file holds no half of a line at any time."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with begun(tmp_path) as journal:
        tracker = Tracker(journal.path, uri, "x", "")
        tracker.wait_until_ready(60)
        for trial in TRIALS:
            journal.on_trial(trial)
        seen: list[int] = []
        status = tracker.finish(lambda s: seen.append(s.sent))
    assert (status.sent, status.error) == (10, None)
    assert seen == sorted(seen)


def test_a_process_that_crashes_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with begun(tmp_path) as journal:
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        (tmp_path / "mlflow.py").write_text("raise SystemError('broken install')")
        tracker = Tracker(journal.path, f"sqlite:///{tmp_path}/mlflow.db", "x", "")
        status = tracker.finish(lambda _: None)
    assert status.error is not None
    assert "tracking.log" in status.error
    assert "broken install" in journal.path.with_name("tracking.log").read_text()


def test_a_status_is_whole_or_absent(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    assert read_status(journal) is None
    write_status(journal, Status("u", "1", "2", 3, None))
    assert read_status(journal) == Status("u", "1", "2", 3, None)
    (tmp_path / "tracking.json").write_text(json.dumps({"other": 1}))
    assert read_status(journal) is None
