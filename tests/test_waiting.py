"""Who waits for a device is told for whom."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from optimizer import waiting
from optimizer.device import Host, lock_path
from optimizer.waiting import Announced, holder, known_as

HOLDER = """
import sys
from optimizer.device import Host
with Host(lock=sys.argv[1]).alone():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_whoever_holds_a_device_is_named_while_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "TOLD_S", 0.05)
    name, said, told = f"test-waiting-{os.getpid()}", list[str](), threading.Event()

    def say(text: str) -> None:
        said.append(text)
        told.set()

    words = [sys.executable, "-c", HOLDER, name]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == b"held\n"
        release = other.stdin.close
        threading.Thread(target=lambda: (told.wait(20), release())).start()
        with Announced(Host(lock=name), say).alone():
            assert holder(Path(lock_path(name))) == os.getpid()
    [text] = said
    assert f"pid {other.pid}" in text and name in text
    assert known_as(Path(lock_path(name))) == "", "nobody holds it now"
    Path(lock_path(name)).unlink()


def test_a_device_that_is_free_is_taken_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    device = Announced(Host(lock=f"test-free-{os.getpid()}"), said.append)
    with device.alone():
        pass
    assert said == []
    Path(lock_path(device.lock)).unlink()
