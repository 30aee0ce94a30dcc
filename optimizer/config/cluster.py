"""How does a configuration become a search on a cluster? Every machine makes its own target of the same values."""

import functools
import json
import os
import platform
import stat
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.conditions import processors
from optimizer.config.builds import builds_of
from optimizer.config.compose import Tree
from optimizer.config.made import Made
from optimizer.config.targets import device_name, made_of
from optimizer.errors import ConfigError
from optimizer.executors.site import Site, Told
from optimizer.measure import LiveMeter, StillMeter
from optimizer.objective import Goal
from optimizer.process import place
from optimizer.recipe import Plan
from optimizer.space import Json, Space, canonical, digest, space_from

if TYPE_CHECKING:
    from optimizer.executors.ray import Cluster, Settings

NEEDS_DEVICE = ("cuda",)
"""Devices that a machine which only builds need not have: it builds as for device=none."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a machine makes its site of; mappings as JSON, so that equal orders are the same one."""

    target: str
    space: str | None
    plan: Plan
    goal: Goal
    build_cache: str
    device: str
    folder: str  # the name of the folder for builds


def cluster_of(tree: Tree, space: Space | None, plan: Plan, goal: Goal, folder: Path) -> "Cluster":
    """Connects. `folder`: of the study's builds. Raises ConfigError for wrong settings, or where nothing answers."""
    settings = _settings(tree["executor"])
    node: Json = dict(tree["target"])
    device = device_name(str(tree["device"]), node)
    if node.get("kind") == "replay":
        raise ConfigError("target=replay builds and runs nothing: leave executor=ray away.")
    if ":" in device:
        raise ConfigError(f"device={device} names a GPU of one machine; on a cluster write device=cuda.")
    from optimizer.executors.ray import Cluster

    order = Order(
        canonical(node),
        None if space is None else canonical(space.document()),
        plan,
        goal,
        canonical(tree["build_cache"]),
        device,
        digest([platform.node(), str(folder)]),
    )

    def builds(first: Told) -> "functools.partial[Site]":
        other = replace(order, space=canonical(first.space))
        if device in NEEDS_DEVICE:
            known = {**node, "arch": first.fingerprint["arch"]}
            other = replace(other, target=canonical(known), device="none")
        return functools.partial(site_of, other)

    return Cluster(settings, functools.partial(site_of, order), builds, folder, gpus=device == "cuda")


def made_by(cluster: "Cluster", device: str) -> Made:
    """What the search sees of the cluster."""
    from optimizer.executors.remote import RemoteMeter

    first, ((target, watched), *more) = cluster.first, cluster.seats
    return Made(
        target,
        space_from(first.space),
        watched,
        device,
        first.baseline,
        first.missing,
        prepare=cluster.prepare,
        runs=first.runs,
        more=tuple(more),
        warnings=tuple(text for host in cluster.hosts for text in host.told.warnings),
        meter=RemoteMeter(),
    )


@functools.lru_cache(maxsize=4)
def site_of(order: Order) -> Site:
    """On a machine of the cluster. Raises ConfigError where the target can't work there."""
    folder = _own_folder() / order.folder
    builds, _ = builds_of(json.loads(order.build_cache), folder, order.goal)
    space = None if order.space is None else space_from(json.loads(order.space))
    made = made_of(json.loads(order.target), space, order.plan, builds, order.device)
    meter = LiveMeter(made.device, order.plan, order.goal) if made.runs else StillMeter()
    place(processors(order.plan.cpus), order.plan.nice)
    told = Told(
        platform.node(),
        made.space.document(),
        dict(made.target.fingerprint()),
        made.device.describe(),
        made.device.lock,
        made.target.shares_cpu,
        made.runs,
        dict(made.baseline),
        dict(made.missing),
        made.warnings,
    )
    return Site(made.target, made.device, meter, folder, made.prepare, told)


def _own_folder() -> Path:
    """Where builds lie on this machine: in the temporary folder, this user's alone. Raises ConfigError."""
    folder = Path(tempfile.gettempdir()) / f"optimizer-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"{folder} can be written by others, and what lies there is run: remove it on {platform.node()}."
        )
    return folder


def _settings(node: Tree) -> "Settings":
    try:
        from optimizer.executors.ray import Settings
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError("executor=ray needs Ray: pip install 'inference-optimizer[ray]'.") from None
    retries, wait_s = node["retries"], node["wait_s"]
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ConfigError(f"executor.retries is a whole number, 0 or more, not '{retries}'.")
    if isinstance(wait_s, bool) or not isinstance(wait_s, int | float) or wait_s < 0:
        raise ConfigError(f"executor.wait_s is a number of seconds, 0 or more, not '{wait_s}'.")
    return Settings(
        address=str(node["address"]),
        measure_on=_name(node, "measure_on"),
        build_on=_name(node, "build_on"),
        device=_name(node, "device"),
        retries=retries,
        wait_s=float(wait_s),
    )


def _name(node: Tree, key: str) -> str | None:
    value: Any = node[key]
    return None if value is None else str(value)
