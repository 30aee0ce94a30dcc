"""How does one search go, from a setup to an ending? Journal, tracker and screen around the loop."""

import socket
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import urlsplit

from optimizer.conditions import processors
from optimizer.config import Setup
from optimizer.confirm import confirm
from optimizer.errors import ConfigError
from optimizer.executors.local import InlineExecutor
from optimizer.journal import Journal, Study, read
from optimizer.listeners.tracker import Status, Tracker
from optimizer.measure import LiveMeter, StillMeter
from optimizer.noise import known
from optimizer.process import isolation, kill_all, place
from optimizer.protocols import Clock, Device, Ending, Listener, Meter
from optimizer.readers.store import sqlite_path
from optimizer.recipe import Environment
from optimizer.study import Bench, Seat, search
from optimizer.targets.replay import PlayedMeter
from optimizer.trial import Measured, Trial
from optimizer.waiting import Announced

CONNECT_S = 2.0
READY_S = 30.0


class Screen(Listener, Protocol):
    """A listener that can also be told of earlier trials and of what goes on between trials."""

    def recall(self, trial: Trial) -> None: ...
    def say(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def waiting(self, text: str) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What a session leaves: the study as it stands in the journal, and how far tracking is (None: not tracked)."""

    study: Study
    tracking: Status | None
    tracking_s: float = 0.0  # of waiting, after the search, for what was not sent yet


def run(setup: Setup, screen: Screen, clock: Clock, *, resume: bool) -> Outcome:
    """Runs a search to its end or to an interrupt. Raises ConfigError where it can't begin or must not go on."""
    clock = setup.made.clock or clock
    start_s = clock()
    strategy = setup.strategy()
    environment = _environment(setup)
    if setup.made.meter is None:  # else each machine that measures places its own programs
        place(processors(setup.recipe.plan.cpus), setup.recipe.plan.nice)
    with _journal(setup, environment, resume=resume) as journal:
        try:
            setup.made.prepare()
        except ConfigError:
            journal.forget_if_empty()
            raise
        tracker = _tracker(setup, screen)
        try:
            screen.on_start(setup.recipe, environment)
            for text in (*setup.warnings, *setup.made.warnings):
                screen.warn(text)
            _tell_news(setup, screen)
            for trial in journal.recorded:
                screen.recall(trial)
            played = setup.made.clock is not None
            meter = PlayedMeter() if played else _meter(setup, setup.made.device, clock)
            executor = InlineExecutor(clock) if played else setup.executor()
            more = tuple(
                Seat(target, _announced(setup, device, screen), _meter(setup, device, clock))
                for target, device in setup.made.more
            )
            device = _announced(setup, setup.made.device, screen)
            bench = Bench(setup.made.target, device, executor, meter, clock, more=more)
            trials: list[Trial] = []
            with closing(executor):
                try:
                    interrupted = False
                    for trial in search(
                        setup.recipe, strategy, bench, setup.budget, journal.recorded, (journal, screen)
                    ):
                        trials.append(trial)  # what came before an interrupt must stay
                        _tell_news(setup, screen)
                        if tracker is not None:
                            tracker.revive()
                except KeyboardInterrupt:
                    interrupted = True
                kill_all()  # what was asked ahead and nobody waits for any more
                screen.stop()
                ending = _confirmed(setup, trials, bench, screen, interrupted=interrupted)
            seconds = {**_stage_seconds(trials), **ending.seconds, "total": clock() - start_s}
            ending = replace(ending, interrupted=interrupted, seconds=seconds)
            journal.on_end(ending)
            screen.on_end(ending)
            trials.clear()  # the study is read from its journal below: one copy in memory is enough
        finally:
            screen.stop()
            _tell_news(setup, screen)
            flush_s = time.perf_counter()
            status = _flushed(tracker, setup, screen)
    return Outcome(read(setup.journal), status, time.perf_counter() - flush_s)


def _journal(setup: Setup, environment: Environment, *, resume: bool) -> Journal:
    if resume:
        return Journal.resume(setup.journal, setup.recipe, environment)
    return Journal.create(setup.journal, setup.study, setup.recipe, environment, setup.settings)


def _environment(setup: Setup) -> Environment:
    """The device as it is described, with what programs are kept from, and how noisy the machine was measured to be."""
    found = setup.made.device.describe()
    if not setup.made.measured_here:
        return found  # nothing runs on this machine
    more = {
        "isolation": dict(isolation()),
        "noise": dict(known(setup.noise_file, found.device, setup.recipe.target.name, time.time())),
    }
    return replace(found, host={**found.host, **{name: facts for name, facts in more.items() if facts}})


def _tell_news(setup: Setup, screen: Screen) -> None:
    for text in setup.news():
        screen.warn(text)


def _announced(setup: Setup, device: Device, screen: Screen) -> Device:
    """Whom it is waited for can be told of this machine's devices alone."""
    return device if setup.made.meter is not None else Announced(device, screen.say)


def _meter(setup: Setup, device: Device, clock: Clock) -> Meter:
    if setup.made.meter is not None:
        return setup.made.meter
    if not setup.made.runs:
        return StillMeter()
    return LiveMeter(device, setup.recipe.plan, setup.recipe.goal, clock)


def _confirmed(setup: Setup, trials: Sequence[Trial], bench: Bench, screen: Screen, *, interrupted: bool) -> Ending:
    """The verdict; none where nothing was measured, or a second interrupt came."""
    if not trials or not isinstance(trials[0].outcome, Measured):
        return Ending(None)
    if interrupted:
        screen.say("Interrupted. Confirming the best so far; Ctrl-C once more leaves it unconfirmed.")
    else:
        screen.waiting("Confirming the winner against the baseline …")
    start_s = bench.clock()
    try:
        ending = confirm(setup.recipe, trials, bench)
    except KeyboardInterrupt:
        kill_all()
        return Ending(None)
    return replace(ending, seconds={"confirm": bench.clock() - start_s})


def _stage_seconds(trials: Sequence[Trial]) -> dict[str, float]:
    stages = dict.fromkeys(stage for t in trials for stage in t.seconds)
    return {stage: sum(t.seconds.get(stage, 0.0) for t in trials) for stage in stages}


def _tracker(setup: Setup, screen: Screen) -> Tracker | None:
    """The tracking process. A store that does not answer is a warning: what it misses is sent later."""
    tracking = setup.tracking
    if tracking.name == "none":
        return None
    if (path := sqlite_path(tracking.uri)) is not None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
    if (problem := _unreachable(tracking.uri)) is not None:
        screen.warn(
            f"MLflow at {tracking.uri} does not answer ({problem}). The search goes on; send its trials later "
            f"with: python -m optimizer track {setup.journal} tracking.uri={tracking.uri}"
        )
    if not setup.made.target.shares_cpu:
        return Tracker(setup.journal, tracking.uri, tracking.experiment, device_lock="")
    tracker = Tracker(setup.journal, tracking.uri, tracking.experiment, setup.made.device.lock)
    screen.waiting("Opening MLflow …")
    tracker.wait_until_ready(READY_S)  # its start would slow the first builds
    return tracker


def _unreachable(uri: str) -> str | None:
    """Why nobody listens at an http address, None where somebody does or it is no such address."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname, port), timeout=CONNECT_S):
            return None
    except (OSError, ValueError) as error:
        return str(error)


def _flushed(tracker: Tracker | None, setup: Setup, screen: Screen) -> Status | None:
    if tracker is None:
        return None
    try:
        status = tracker.finish(lambda s: screen.waiting(f"Tracking: {s.sent} trials sent …"))
    except KeyboardInterrupt:
        tracker.abandon()
        status = replace(tracker.status, error="interrupted")
    if status.error:
        screen.warn(
            f"Tracking is not complete ({status.error}). Nothing is lost; send what is missing with: "
            f"python -m optimizer track {setup.journal} tracking.uri={status.uri}"
        )
    return status
