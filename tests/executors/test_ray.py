"""A real Ray cluster of several machines on this one: the search that it makes is that of the local executor."""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from simple import Tape

from optimizer.config import Setup, composed, load
from optimizer.config.kinds import kinds_of
from optimizer.errors import ConfigError
from optimizer.measure import LiveMeter
from optimizer.protocols import Listener
from optimizer.study import Bench, Seat, search
from optimizer.trial import Failed, Trial

pytest.importorskip("ray", reason="needs ray: pip install 'inference-optimizer[ray]'")
pytestmark = pytest.mark.extra

STORE_BYTES = 80_000_000
SYNTHETIC = ("target=synthetic", "strategy=random", "measure=quick", "measure.drift_every=0", "target.noise=0.0")
NATIVE = (
    "target=gemm_cpu", "strategy=random", "measure=quick", "measure.max_seconds=0.05", "measure.warmups=1",
    "target.options.m=32", "target.options.n=32", "target.options.k=32",
)  # fmt: skip


@dataclass
class Machines:
    """A cluster: a head that keeps the books and machines with a temporary folder each, as if they were several."""

    cluster: Any
    folder: Path
    count: int = 0

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, *, cpus: int = 1, **resources: float) -> Any:
        self.count += 1
        own = self.folder / f"machine{self.count}"
        own.mkdir()
        return self.cluster.add_node(
            num_cpus=cpus, object_store_memory=STORE_BYTES, resources=resources, env_vars={"TMPDIR": str(own)}
        )

    def kill(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # its sockets need a short path
        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield Machines(cluster, Path(folder))
        finally:
            cluster.shutdown()


def setup_of(words: Sequence[str], folder: Path, *more: str) -> Setup:
    return load([*words, f"studies_dir={folder}", "study=x", "tracking=none", *more], [], date(2026, 1, 1))


def searched(setup: Setup, trials: int, *listeners: Listener) -> list[Trial]:
    """A whole search, without confirmation."""
    made = setup.made
    setup.made.prepare()

    def meter(device: Any) -> Any:
        return made.meter or LiveMeter(device, setup.recipe.plan, setup.recipe.goal)

    more = tuple(Seat(t, d, meter(d)) for t, d in made.more)
    bench = Bench(made.target, made.device, setup.executor(), meter(made.device), more=more)
    try:
        found = []
        for trial in search(setup.recipe, setup.strategy(), bench, setup.budget, listeners=listeners):
            found.append(trial)
            if len(found) == trials:
                break
        return found
    finally:
        bench.executor.close()


def outcomes(trials: Sequence[Trial]) -> list[object]:
    """What a strategy learns of trials without noise."""
    return [
        (t.candidate, t.outcome.reason if isinstance(t.outcome, Failed) else set(t.outcome.samples["latency_s"]))
        for t in trials
    ]


class Killer(Tape):
    """Kills a machine when a trial has ended."""

    def __init__(self, machines: Machines, node: Any, after: int) -> None:
        super().__init__()
        self._kill, self._after = (machines, node), after

    def on_trial(self, trial: Trial) -> None:
        super().on_trial(trial)
        if trial.number == self._after:
            machines, node = self._kill
            threading.Thread(target=machines.kill, args=(node,)).start()


def test_a_machine_that_dies_in_mid_search_changes_nothing(machines: Machines, tmp_path: Path) -> None:
    words = (*SYNTHETIC, "budget.trials=30", "target.build_s=0.03", "target.run_s=0.003")
    here = searched(setup_of(words, tmp_path / "local"), 30)
    nodes = [machines.add(measurer=1, builder=1) for _ in range(3)]
    setup = setup_of(
        words, tmp_path / "ray", "executor=ray", f"executor.address={machines.address}",
        "executor.measure_on=measurer", "executor.build_on=builder",
    )  # fmt: skip
    assert len(setup.made.more) == 2, "a place for each machine"
    killer = Killer(machines, nodes[0], after=8)
    there = searched(setup, 30, killer)
    for node in nodes[1:]:
        machines.kill(node)
    assert outcomes(there) == outcomes(here)
    assert [t.number for t in killer.trials] == list(range(30)), "told in the order of asking"
    assert any("lost" in text for text in setup.news()), "the user is told"


def test_what_one_machine_builds_another_measures(machines: Machines, tmp_path: Path) -> None:
    words = (*NATIVE, "budget.trials=5")
    here = searched(setup_of(words, tmp_path / "local"), 5)
    nodes = [machines.add(builder=1), machines.add(measurer=1)]
    setup = setup_of(
        words, tmp_path / "ray", "executor=ray", f"executor.address={machines.address}",
        "executor.measure_on=measurer", "executor.build_on=builder", "build_cache.folder=null",
    )  # fmt: skip
    there = searched(setup, 5)
    for node in nodes:
        machines.kill(node)
    assert [t.candidate for t in there] == [t.candidate for t in here]
    for mine, theirs in zip(there, here, strict=True):
        assert isinstance(mine.outcome, Failed) == isinstance(theirs.outcome, Failed), mine.outcome
        if mine.artifact is not None and theirs.artifact is not None:
            assert mine.artifact.code_key == theirs.artifact.code_key
            assert Path(mine.artifact.path).is_relative_to(setup.builds.folder), "the study keeps what was built"
            assert Path(mine.artifact.path).is_file()
    assert not list((machines.folder).glob("machine*/optimizer-*/*/*")), "nothing stays on the machines"


def test_a_kind_of_device_is_chosen_by_its_own_words(machines: Machines, tmp_path: Path) -> None:
    node = machines.add()
    words = [*SYNTHETIC, "executor=ray", f"executor.address={machines.address}", f"studies_dir={tmp_path}"]
    [kind] = kinds_of(composed(words, ()), date(2026, 1, 1))
    chosen = setup_of([*words, *kind.words], tmp_path)
    try:
        assert chosen.kinds == (kind.name,)
        assert kind.name.startswith(chosen.made.device.describe().device)
    finally:
        chosen.executor().close()
        machines.kill(node)


def test_without_a_cluster_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ray start --head"):
        setup_of(SYNTHETIC, tmp_path, "executor=ray", "executor.address=127.0.0.1:1")
