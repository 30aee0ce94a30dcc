"""The machine described, held alone, and watched for others' load."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from optimizer.device import Host, lock_path, physical_cores


def test_the_load_of_others_is_seen_and_one_s_own_is_not() -> None:
    busy = "import time\nend = time.time() + 1.5\nwhile time.time() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", busy])
    with Host().watch(None) as foreign:
        time.sleep(1.0)
    other.wait()
    runner = subprocess.Popen([sys.executable, "-c", busy])
    with Host().watch(runner.pid) as own:
        time.sleep(1.0)
    runner.wait()
    one_core = 100.0 / (os.cpu_count() or 1)
    assert foreign.samples["foreign_load_pct"][0] > 0.5 * one_core
    # what else goes on here adds to both alike
    assert own.samples["foreign_load_pct"][0] < foreign.samples["foreign_load_pct"][0]


def test_a_runner_that_is_gone_leaves_no_reading() -> None:
    runner = subprocess.Popen([sys.executable, "-c", ""])
    runner.wait()
    with Host().watch(runner.pid) as telemetry:
        pass
    assert telemetry.samples == {}


def test_only_one_process_at_a_time_holds_a_device(tmp_path: Path) -> None:
    """And a holder that was killed holds nothing."""
    name = f"test-{os.getpid()}"
    holder = subprocess.Popen(
        [sys.executable, "-c",
         f"from optimizer.device import Host\nimport time\nwith Host(lock={name!r}).alone():\n"
         f"    open({str(tmp_path / 'held')!r}, 'w').close()\n    time.sleep(600)"],
    )  # fmt: skip
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    started = time.monotonic()
    killer = threading.Timer(0.5, holder.kill)
    killer.start()
    with Host(lock=name).alone():
        waited_s = time.monotonic() - started
    killer.join()
    holder.wait()
    assert waited_s >= 0.4
    Path(lock_path(name)).unlink()


def test_the_machine_is_described() -> None:
    found = Host(compilers={"g++": "12.2"}).describe()
    assert found.device
    assert dict(found.compilers) == {"g++": "12.2"}
    assert found.host["cores"] == physical_cores() >= 1
    assert {"optuna", "deap", "torch", "mlflow"} <= set(found.host["packages"])
