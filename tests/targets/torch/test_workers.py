"""A fork server that has torch imported, and the workers that it starts."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from optimizer.errors import ConfigError
from optimizer.process import kill_all
from optimizer.space import Point
from optimizer.targets.torch.workers import Zygote
from optimizer.trial import Reason, TrialError

PROBE = {"act": "probe", "knob": "backend", "value": "eager", "knobs": {}, "device": "cpu"}


def document(folder: Path) -> dict[str, Any]:
    return {**PROBE, "folder": str(folder), "cache": str(folder)}


def asked(zygote: Zygote, folder: Path) -> Any:
    with zygote.worker(document(folder), {}, str(folder), 60.0, 4 << 30) as worker:
        return worker.answer()


def running(zygote: Zygote) -> Any:
    assert zygote.server._running is not None
    return zygote.server._running


def gone(pid: int) -> bool:
    for _ in range(200):
        if gone_by_now(pid):
            return True
        time.sleep(0.02)
    return False


def gone_by_now(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_nothing_touches_a_tensor_before_the_fork(zygote: Zygote, tmp_path: Path) -> None:
    assert asked(zygote, tmp_path) == {"missing": None}
    server = psutil.Process(running(zygote).ready["pid"])
    assert running(zygote).ready["threads"] == 1
    assert server.num_threads() == 1
    assert "torch" in " ".join(server.cmdline())


def test_a_worker_leads_a_group_of_its_own_and_is_gone_afterwards(zygote: Zygote, tmp_path: Path) -> None:
    with zygote.worker(document(tmp_path), {}, str(tmp_path), 60.0, 4 << 30) as worker:
        assert os.getpgid(worker.pid) == worker.pid
        assert psutil.Process(worker.pid).ppid() == running(zygote).ready["pid"]
    assert gone(worker.pid)


def test_an_interrupt_kills_workers(own: Any) -> None:
    target = own("tiny")
    with target.open(target.build(Point({}))) as runner:
        kill_all()
        with pytest.raises(TrialError):
            runner.run(1)
        assert gone(runner.pid)


def test_a_dead_server_is_started_anew_and_its_workers_die_with_it(own: Any) -> None:
    target = own("tiny")
    artifact = target.build(Point({}))
    server = running(target.zygote).ready["pid"]
    with target.open(artifact) as runner:
        os.kill(server, signal.SIGKILL)
        assert gone(server)
        with pytest.raises(TrialError) as failed:
            runner.run(1)
        assert failed.value.reason is Reason.CRASH
        assert gone(runner.pid)
    with target.open(artifact) as runner:
        assert runner.run(1)["latency_s"]
    assert running(target.zygote).ready["pid"] != server


def test_a_copy_has_not_started_and_a_closed_server_is_gone(tmp_path: Path) -> None:
    zygote = Zygote(("json",))
    copied = pickle.loads(pickle.dumps(zygote))
    assert copied.modules == zygote.modules
    assert copied.server._running is None
    with zygote.worker(document(tmp_path), {}, str(tmp_path), 60.0, 4 << 30):
        server = running(zygote).ready["pid"]
    zygote.close()
    assert gone(server)


def test_a_server_that_can_not_import_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no_such_module"):
        asked(Zygote(("no_such_module",)), tmp_path)


def test_what_a_worker_is_asked_and_does_not_know_is_a_crash(own: Any) -> None:
    target = own("tiny")
    with target.open(target.build(Point({}))) as runner, pytest.raises(TrialError) as failed:
        runner._program.ask("dance")
    assert failed.value.reason is Reason.CRASH
    assert "verify, run N, quit" in failed.value.log


def test_a_server_ends_with_the_search_that_started_it(tmp_path: Path) -> None:
    text = (
        "import time; from optimizer.targets.torch.workers import Zygote;"
        "zygote = Zygote(('json',)); print(zygote.server.ready['pid'], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, cwd=tmp_path) as search:
        assert search.stdout is not None
        server = int(search.stdout.readline())
        assert not gone_by_now(server)
        search.kill()
    assert gone(server)
