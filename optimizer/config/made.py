"""What comes of a configured target: the values that every kind of target fills in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from optimizer.config.compose import Tree
from optimizer.errors import ConfigError, nearest
from optimizer.protocols import Device, Meter, Target
from optimizer.resources import kernels_dir
from optimizer.space import Choice, Point, Space, Value
from optimizer.targets.cache import BuildCache
from optimizer.targets.replay import SimulatedClock
from optimizer.targets.units import Launcher

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

COMMON = ("name", "kind", "text", "devices", "objectives", "home")
"""Settings that every kind of target has."""


def _nothing() -> None: ...


def _nothing_to_show(point: Point) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Made:
    """A target ready to be searched, with what came of the space on this machine."""

    target: Target
    space: Space
    device: Device
    device_name: str
    baseline: Mapping[str, Value]  # what the target says number 0 is, over the knobs' defaults
    missing: Mapping[str, str]  # what is left out of the space here → why, and how to get it
    clock: SimulatedClock | None = None  # its samples are a record and so is the time that they took
    prepare: Callable[[], None] = _nothing  # what must be done once before the first trial; raises ConfigError
    preview: Callable[[Point], Sequence[str]] = _nothing_to_show  # the commands of a point, for people
    runs: bool = True  # False: it is only built, so what builds tell is all there is
    more: tuple[tuple[Target, Device], ...] = ()  # further devices like the first, with the target as it runs there
    warnings: tuple[str, ...] = ()  # what disturbs measurements here
    meter: Meter | None = None  # how it is measured, where it is not on this machine

    @property
    def measured_here(self) -> bool:
        """Whether programs are run and timed on this machine."""
        return self.runs and self.clock is None and self.meter is None


@dataclass(frozen=True)
class Builds:
    """Where a search builds, and what spares it a build. folder: of the study; cache: what other searches have built;
    launcher: ccache or sccache, for object files; times_count: the goal is about compile times."""

    folder: Path
    cache: BuildCache | None = None
    launcher: Launcher | None = None
    times_count: bool = False

    def news(self) -> Sequence[str]:
        """What went wrong with the cache since it was last asked for."""
        return self.cache.news() if self.cache is not None else ()


def needed(space: Space | None, node: Tree) -> Space:
    if space is None:
        raise ConfigError(
            f"target={node['name']} needs knobs: name files with space=[…]; `optimizer spaces` lists them."
        )
    return space


def known_keys(where: str, node: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Raises ConfigError for a setting that is not among them."""
    for key in node:
        if key not in keys:
            raise ConfigError(f"There is no setting '{where}.{key}'.{nearest(str(key), keys)}")


def names_of(work: "type[DataclassInstance]") -> tuple[str, ...]:
    """The settings that say how much work a target times: fields of a dataclass."""
    return tuple(field.name for field in fields(work))


Work = TypeVar("Work", bound="DataclassInstance")


def work_of(node: Tree, work: type[Work], least: Mapping[str, int]) -> Work:
    """A dataclass of whole numbers, each of at least 2 where `least` says nothing else. Raises ConfigError."""
    values: dict[str, int] = {}
    for name in names_of(work):
        value, low = node[name], least.get(name, 2)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ConfigError(f"target.{name} is a whole number from {low} up, not '{value}'.")
        values[name] = value
    return work(**values)


def data_file(path: Any, node: Tree) -> Path:
    """A data file: as given, beside a user's own configuration, or beside the kernels."""
    for place in (Path(str(path)), beside(node, path), kernels_dir() / str(path)):
        if place.is_file():
            return place.resolve()
    raise ConfigError(f"target={node['name']}: there is no file {path}.")


def beside(node: Tree, path: Any) -> Path:
    """A file of a user's own target: relative to the folder of --config-dir that has the target's file."""
    return Path(str(node.get("home") or ""), str(path))


def data_files(node: Tree) -> dict[str, Path]:
    """The target's files by the option that names each."""
    return {str(option): data_file(path, node) for option, path in (node.get("files") or {}).items()}


def cache_of(node: Tree) -> Path:
    """What is worth keeping between studies: reference answers, converted weights, what a probe found."""
    return Path(str(node["cache"])).expanduser().resolve() if node.get("cache") else default_cache()


def default_cache() -> Path:
    return Path.home() / ".cache" / "inference-optimizer"


def words_of(node: Tree, key: str) -> dict[str, str]:
    """A mapping of the target's node as text."""
    return {str(k): str(v) for k, v in (node.get(key) or {}).items()}


T = TypeVar("T")


@dataclass(frozen=True)
class Compilers(Generic[T]):
    space: Space
    used: Mapping[str, T]
    missing: Mapping[str, str]


def with_compilers(space: Space, here: Mapping[str, T], advice: Mapping[str, str]) -> Compilers[T]:
    """The space without the compilers that this machine lacks, and those that it then uses (one where no knob chooses).

    `advice`: how each that is known is got. Raises ConfigError where none is left.
    """
    knob = space.by_name.get("compiler")
    wanted = [v for v in knob.domain.values if isinstance(v, str)] if knob and isinstance(knob.domain, Choice) else []
    absent = {
        name: f"{name} is not installed: install {advice.get(name, name)}." for name in wanted if name not in here
    }
    if not here or (wanted and len(absent) == len(wanted)):
        remedy = " ".join(absent.values()) or " ".join(f"Install {text}." for text in advice.values())
        raise ConfigError(
            f"There is no compiler for this space. {remedy} `optimizer doctor` shows what this machine has; "
            "target=synthetic needs no compiler."
        )
    if knob is None or not wanted:
        first = next(iter(here))
        return Compilers(space, {first: here[first]}, absent)
    kept = tuple(v for v in wanted if v not in absent)
    return Compilers(space.narrowed({knob.name: kept}), {name: here[name] for name in kept}, absent)
