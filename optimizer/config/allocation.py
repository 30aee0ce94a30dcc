"""Which allocation of a batch system does a configuration ask for, and which words does the search in it get?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optimizer.config.compose import Composed, Tree, sets, whole
from optimizer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from optimizer.executors.allocation import Allocation

CLUSTERS = ("slurm", "local", "debug")
RAY = ("device", "retries", "wait_s")
"""Settings that the executor=ray of the search inside gets."""


def asks_for_allocation(composed: Composed) -> bool:
    return str(composed.tree["executor"].get("name")) == "slurm"


def allocation_of(composed: Composed) -> "Allocation":
    """Raises ConfigError for wrong settings, and where submitit is missing."""
    try:
        from optimizer.executors.allocation import Allocation
    except ModuleNotFoundError as error:
        if error.name != "submitit":
            raise
        raise ConfigError("executor=slurm needs submitit and Ray: pip install 'inference-optimizer[slurm]'.") from None
    node: Tree = composed.tree["executor"]
    cluster = str(node["cluster"])
    if cluster not in CLUSTERS:
        raise ConfigError(f"executor.cluster={cluster} is not known.{nearest(cluster, CLUSTERS)}")
    machines = whole(node, "machines", 1, "executor.")
    if cluster == "debug" and machines > 1:
        raise ConfigError("executor.cluster=debug runs one task: executor.machines=1.")
    more = node["more"] or {}
    if wrong := [name for name, value in more.items() if not isinstance(value, str | int)]:
        raise ConfigError(f"executor.more.{wrong[0]} is a word or a whole number.")
    return Allocation(
        cluster,
        machines,
        cpus=whole(node, "cpus", 1, "executor."),
        gpus=whole(node, "gpus", 0, "executor."),
        minutes=whole(node, "minutes", 1, "executor."),
        partition=None if node["partition"] is None else str(node["partition"]),
        more={str(name): value for name, value in more.items()},
    )


def words_inside(composed: Composed) -> list[str]:
    """The words without those of the executor, and what executor=ray has of it."""
    node: Tree = composed.tree["executor"]
    return ["executor=ray", *words_outside(composed), *(f"executor.{name}={quoted(node[name])}" for name in RAY)]


def words_outside(composed: Composed) -> list[str]:
    """The words without those of the executor."""
    return [word for word in composed.words if not sets(word, "executor")]


def without_executor(words: Sequence[str], more: Sequence[str]) -> list[str]:
    """Earlier words that `more` goes on with: where it names an executor, the settings of another one go."""
    if any(word.startswith("executor=") for word in more):
        return [word for word in words if not sets(word, "executor")]
    return list(words)


def quoted(value: Any) -> str:
    """A value as a word of a command line gives it."""
    if value is None or isinstance(value, int | float):
        return "null" if value is None else str(value)
    text = str(value).replace("'", "\\'")  # a backslash elsewhere is one
    return f"'{text}'"
