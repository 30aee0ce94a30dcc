"""How do configuration files and the words of a command line become one tree of plain values?

Hydra composes the files of conf/ (and of --config-dir) through its compose API. Words that act on a knob never reach
it: space.KNOB=… gives the knob another domain and baseline.KNOB=… another baseline, and the rest of the knob stays as
its file has it. Hydra's errors are turned into ours, with the nearest right name.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from optimizer.config.domains import domain_of, parse_domain, parse_word
from optimizer.config.spaces import CONSTRAINTS
from optimizer.errors import ConfigError, nearest
from optimizer.resources import conf_dir
from optimizer.space import Domain, Float, Value

Tree = dict[str, Any]
ROOT = "config"
SCALARS = ("seed", "device", "ahead")
WHOLE = ("objective.metrics", "objective.limits")  # given as a mapping, they replace the file's
NOT_SHIPPED = ("study", "studies_dir", "budget", "tracking", "executor", "experiment", "build_cache", "noise_file")
OPEN = (
    "objective.metrics.", "objective.limits.", "target.options.", "target.metrics.", "target.environment.",
    "target.build_environment.", "executor.more.",
)  # fmt: skip
"""Mappings to which anybody may add."""


def whole(node: Tree, key: str, least: int, where: str = "") -> int:
    """`where`: of the node, with its dot. Raises ConfigError."""
    value = node[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{where}{key} is a whole number of at least {least}, not '{value}'.")
    return value


@dataclass(frozen=True)
class Composed:
    """A configuration without Hydra: plain dicts, lists and values."""

    tree: Tree
    domains: Mapping[str, Domain]  # knobs that the words (or the key `domains`) gave another domain
    baseline: Mapping[str, Value]  # knobs that the words (or the key `baseline`) gave another baseline
    choices: Mapping[str, str]  # which file each group was given: {"strategy": "tpe", …}
    spaces: tuple[str, ...]  # the files of the space
    words: tuple[str, ...]  # what was typed


@dataclass(frozen=True)
class Words:
    """The words of a command line, sorted by who reads them."""

    hydra: tuple[str, ...]
    domains: Mapping[str, Domain]
    baseline: Mapping[str, Value]
    constraints: Mapping[str, str | None]  # None takes one away

    def sets(self, key: str) -> bool:
        """Whether a word sets this key (or a key below it)."""
        return any(sets(word, key) for word in self.hydra)


def sets(word: str, key: str) -> bool:
    """Whether a word sets this key, or a key below it."""
    name = word.lstrip("+~").split("=", 1)[0]
    return name == key or name.startswith(key + ".")


def sorted_words(words: Sequence[str]) -> Words:
    """Raises ConfigError for a word that is not KEY=VALUE."""
    hydra: list[str] = []
    domains: dict[str, Domain] = {}
    baseline: dict[str, Value] = {}
    constraints: dict[str, str | None] = {}
    for word in words:
        key, _, value = word.partition("=")
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"'{word}' is not a setting; write KEY=VALUE, as in strategy=genetic budget.trials=50.")
        group, _, name = key.lstrip("+").partition(".")
        if group == "space" and name.startswith(f"{CONSTRAINTS}."):
            constraints[name.removeprefix(f"{CONSTRAINTS}.")] = _unquoted(value)  # "<" is not in Hydra's grammar
        elif group == "space" and name and key == f"space.{name}":
            domains[name] = domain_of(parse_word(word), name)
        elif group == "baseline" and name:
            pinned = domain_of(parse_word(word), name)
            if isinstance(pinned, Float) or pinned.size != 1:
                raise ConfigError(f"{key}: a baseline is one value.")
            baseline[name] = pinned.at(0)
        elif key in WHOLE:
            hydra += [f"~{key}", f"+{word}"]
        else:
            hydra.append(f"++{word}" if key.startswith(OPEN) else word)
    return Words(tuple(hydra), domains, baseline, constraints)


def nested(words: Sequence[str]) -> Tree:
    """What the words say besides naming files, as a tree for a configuration file: {"target": {"options": …}, …}.

    Words that name a group's file, the study, its budget, its tracking or its folders are left out.
    """
    tree: Tree = {}
    for word in words:
        key, _, value = word.partition("=")
        path = key.lstrip("+").split(".")
        if path[0] in NOT_SHIPPED or key.startswith("~"):
            continue
        if path[0] == "space" and len(path) == 2 and not key.startswith("+"):
            tree.setdefault("domains", {})[path[1]] = value
        elif path[:2] == ["space", CONSTRAINTS]:
            tree.setdefault("space", {}).setdefault(CONSTRAINTS, {})[".".join(path[2:])] = _unquoted(value)
        elif len(path) > 1 or path[0] in SCALARS:
            node = tree
            for part in path[:-1]:
                node = node.setdefault(part, {})
            node[path[-1]] = parse_word(f"x={value}").value()
    return tree


def _unquoted(text: str) -> str | None:
    bare = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    return None if bare == "null" else bare


class Files:
    """The configuration files: the packaged ones, then a user's own folders (they add files and replace none)."""

    def __init__(self, folders: Sequence[Path], resolvers: Mapping[str, Callable[[], Any]]) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(f"--config-dir {folder}: there is no such folder.")
        self._own = [f.resolve() for f in folders]
        self.folders = [conf_dir(), *self._own]
        for name, resolver in resolvers.items():
            OmegaConf.register_new_resolver(name, resolver, replace=True)

    def composed(self, words: Sequence[str]) -> Composed:
        """Raises ConfigError with the nearest right name for anything that is not there."""
        given = sorted_words(words)
        with self._open() as search_path:
            try:
                config = compose(ROOT, overrides=[*search_path, *given.hydra], return_hydra_config=True)
                files = self._space_files([*search_path, *given.hydra])
                choices = {str(g): str(c) for g, c in config.hydra.runtime.choices.items() if "/" not in str(g)}
                with open_dict(config):
                    del config["hydra"]
                tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            except (HydraException, OmegaConfBaseException, YAMLError) as error:
                raise self._explained(error, given, search_path) from None
        assert isinstance(tree, dict)
        home = self._home(choices.get("target", ""))
        if "home" in tree["target"] or home is not None:
            tree["target"]["home"] = str(tree["target"].get("home") or home or Path.cwd())
        _refuse_doubles(files)
        tree["space"] = _constrained(tree["space"] or {}, given.constraints)
        written = {str(k): parse_domain(v, str(k)) for k, v in tree.pop("domains").items()}
        baseline = {str(k): v for k, v in tree.pop("baseline").items()}
        return Composed(
            tree={str(k): v for k, v in tree.items()},
            domains={**written, **given.domains},
            baseline={**baseline, **given.baseline},
            choices=choices,
            spaces=tuple(path.removeprefix("space/") for path in files),
            words=tuple(words),
        )

    def _home(self, target: str) -> Path | None:
        """The user's folder that has the target's file: what its relative paths are meant from."""
        path = self.path(f"target/{target}")
        return next((f for f in self._own if path is not None and path.is_relative_to(f)), None)

    def options(self, group: str) -> list[str]:
        """The files of a group: the targets there are, the spaces, …"""
        return sorted({p.stem for folder in self.folders for p in (folder / group).glob("*.yaml")})

    def path(self, name: str) -> Path | None:
        """Where a file lies, by group and name: space/gxx. A user's file never hides a packaged one."""
        places = (folder / f"{name}.yaml" for folder in self.folders)
        return next((p for p in places if p.is_file()), None)

    def text(self, name: str) -> Tree:
        """A file as it is written, unresolved."""
        path = self.path(name)
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False) if path else None
        return {str(k): v for k, v in tree.items()} if isinstance(tree, dict) else {}

    @contextmanager
    def _open(self) -> Iterator[list[str]]:
        GlobalHydra.instance().clear()
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            folders = ",".join(f"'file://{f}'" for f in self._own)
            yield [f"hydra.searchpath=[{folders}]"] if folders else []

    def _space_files(self, overrides: list[str]) -> dict[str, Tree]:
        """Every file that went into the space, as it is written."""
        listed = _loader().compute_defaults_list(ROOT, overrides, RunMode.RUN).defaults
        for path in (str(d.config_path or "") for d in listed):
            if ".." in Path(path).parts or path.startswith("/"):
                raise ConfigError(f"{path} leaves the folder of configurations: name a file in it, or --config-dir.")
        return {d.config_path: self.text(d.config_path) for d in listed if d.package == "space" and d.config_path}

    def _explained(self, error: Exception, given: Words, search_path: list[str]) -> ConfigError:
        """One of Hydra's errors in our words."""
        text = str(error)
        if found := re.search(r"Could not (?:find|load) '([\w/.-]+)'", text):
            group, _, name = found.group(1).rpartition("/")
            known = self.options(group) if group else []
            return ConfigError(f"There is no {group or 'configuration'} '{name}'.{nearest(name, known)}")
        if found := re.search(r"Could not (?:override|delete)[^']*'([^']+)'", text):
            key = found.group(1).split("@")[0]
            return ConfigError(f"There is no setting '{key}'.{nearest(key, self._keys(given, key, search_path))}")
        if "requires --multirun" in text or "sweep" in text.lower():
            sweep = next((w for w in given.hydra if parse_word(w).is_sweep_override()), "")
            return ConfigError(f"'{sweep}' lists several values; that is for knobs (space.NAME=…). Give one value.")
        if isinstance(error, YAMLError):
            return ConfigError(f"A configuration file is not YAML: {' '.join(text.split())}")
        first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        return ConfigError(f"The configuration can't be composed: {first}")

    def _keys(self, given: Words, wrong: str, search_path: list[str]) -> list[str]:
        """All settings there are with the groups that were chosen."""
        groups = [w for w in given.hydra if "." not in w.split("=", 1)[0] and not w.startswith((wrong, "~", "+"))]
        try:
            tree = OmegaConf.to_container(compose(ROOT, overrides=[*search_path, *groups]))
        except (HydraException, OmegaConfBaseException):
            tree = OmegaConf.to_container(compose(ROOT))
        depth = wrong.count(".")
        return [k for k in _flattened(tree) if k.count(".") == depth]


def _constrained(space: Tree, added: Mapping[str, str | None]) -> Tree:
    known = space.get(CONSTRAINTS) or {}
    if not isinstance(known, Mapping):
        raise ConfigError("space.constraints maps a name to an expression, as in tile_fits: TILE_M * TILE_N <= 4096.")
    return {**space, CONSTRAINTS: {**known, **added}}


def _loader() -> Any:
    return GlobalHydra.instance().config_loader()


def _flattened(tree: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            path = f"{prefix}.{key}" if prefix else str(key)
            yield path
            yield from _flattened(value, path)


def _refuse_doubles(files: Mapping[str, Tree]) -> None:
    """A knob or constraint that two files define: Hydra would silently let the later one win."""
    owner: dict[str, str] = {}
    for path, tree in files.items():
        names = [str(n) for n in tree if n not in (CONSTRAINTS, "defaults")]
        constraints = tree.get(CONSTRAINTS)
        names += [f"{CONSTRAINTS}.{n}" for n in constraints] if isinstance(constraints, Mapping) else []
        for name in names:
            if name in owner:
                what = "constraint" if name.startswith(f"{CONSTRAINTS}.") else "knob"
                raise ConfigError(
                    f"The {what} {name.removeprefix(f'{CONSTRAINTS}.')} is defined in both {owner[name]} and {path}; "
                    "leave one of the files out of space=[…], or rename it."
                )
            owner[name] = path
