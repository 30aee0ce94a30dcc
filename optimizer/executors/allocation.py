"""How does a search get machines of a batch system? By a job of submitit's: its first task is the head of a Ray cluster
with the search beside it, its others are the machines of that cluster, and all end when the search does."""

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import submitit

from optimizer.files import write_whole

if TYPE_CHECKING:
    from submitit import Job

HEAD, OVER, PRINTED = "head", "over", "printed"
"""Files by which the tasks tell each other that the cluster is there and that the search is over, and what the search
has printed."""
START_S = 300.0  # for the machines of an allocation to come up
POLL_S = 0.5
END_S = 30.0  # for Ray's own processes to end
T = TypeVar("T")
SHARES_A_MACHINE = ("local", "debug")
"""What submitit runs on this machine: a task there stands for a machine."""


@dataclass(frozen=True)
class Allocation:
    """cluster: submitit's word for the batch system; cpus, gpus: of each machine; more: parameters of sbatch."""

    cluster: str
    machines: int
    cpus: int
    gpus: int
    minutes: int
    partition: str | None = None
    more: Mapping[str, str | int] = field(default_factory=dict)


def submitted(allocation: Allocation, words: Sequence[str], folder: Path, name: str) -> "Job[int]":
    """The job, waiting or running.

    words: of `optimizer search` with executor=ray, without its address; folder: on a disk that all machines see, for
    what submitit and the tasks tell each other. Raises RuntimeError where the batch system is not there or refuses.
    """
    executor = submitit.AutoExecutor(folder=folder, cluster=allocation.cluster)  # refuses before it makes the folder
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for left in (HEAD, OVER, PRINTED):
        (folder / left).unlink(missing_ok=True)
    alone = allocation.cluster in SHARES_A_MACHINE
    executor.update_parameters(
        name=name,
        timeout_min=allocation.minutes,
        nodes=1 if alone else allocation.machines,
        tasks_per_node=allocation.machines if alone else 1,
        cpus_per_task=allocation.cpus,
        gpus_per_node=allocation.gpus,
        **({"slurm_partition": allocation.partition} if allocation.partition and not alone else {}),
        **({"slurm_additional_parameters": dict(allocation.more)} if allocation.more and not alone else {}),
    )
    return executor.submit(task, allocation, tuple(words), folder, Path.cwd())


def task(allocation: Allocation, words: Sequence[str], folder: Path, place: Path) -> int:
    """What each task does; the search's exit code. Raises TimeoutError or RuntimeError where the cluster does not come
    up."""
    rank = submitit.JobEnvironment().global_rank
    log = folder / f"ray-{rank}.log"
    if rank == 0:
        return _head(allocation, words, folder, place, log)
    address = _awaited(lambda: _read(folder / HEAD), f"no head of the Ray cluster is told in {folder / HEAD}")
    with _ray(log, f"--address={address}", f"--num-cpus={allocation.cpus}") as machine:
        while machine.poll() is None and not (folder / OVER).exists():
            time.sleep(POLL_S)
    return 0


def _head(allocation: Allocation, words: Sequence[str], folder: Path, place: Path, log: Path) -> int:
    ray: Any = importlib.import_module("ray")
    host = str(ray.util.get_node_ip_address())
    port = _free_port(host)
    head = ("--head", f"--port={port}", f"--num-cpus={allocation.cpus}", "--include-dashboard=false")
    try:
        with _ray(log, *head, "--disable-usage-stats") as machine:
            _awaited(
                lambda: _answers(host, port) or machine.poll() is not None, f"Ray's head does not answer; see {log}"
            )
            if machine.poll() is not None:
                raise RuntimeError(f"Ray's head ended at once; see {log}")
            write_whole(folder / HEAD, f"{host}:{port}".encode())
            ray.init(f"{host}:{port}", log_to_driver=False)
            _awaited(lambda: _many(ray.nodes()) >= allocation.machines, "not all machines have joined the Ray cluster")
            ray.shutdown()
            asked = [*words, f"executor.address={host}:{port}"]
            with (folder / PRINTED).open("wb") as out:
                command = [sys.executable, "-m", "optimizer", "search", *asked]
                return subprocess.run(command, cwd=place, stdout=out, check=False).returncode
    finally:
        write_whole(folder / OVER, b"")


@contextmanager
def _ray(log: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Ray's processes of one machine; no `ray stop`, which would end those of other searches too."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--block"]
    with log.open("wb") as out:
        machine = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        yield machine
    finally:
        machine.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            machine.wait(END_S)
        with contextlib.suppress(ProcessLookupError):  # what did not end with it
            os.killpg(machine.pid, signal.SIGKILL)
        machine.wait()


def _awaited(found: Callable[[], T], otherwise: str) -> T:
    until = time.monotonic() + START_S
    while not (result := found()):
        if time.monotonic() > until:
            raise TimeoutError(f"{otherwise} after {START_S:.0f} s")
        time.sleep(POLL_S)
    return result


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1.0):
        return True
    return False


def _many(nodes: Sequence[Mapping[str, Any]]) -> int:
    return sum(bool(node["Alive"]) for node in nodes)


def _free_port(host: str) -> int:
    with socket.socket() as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])
