"""How does a list of words become a command line, and is every placeholder in it one?"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimizer.config.compose import Tree
from optimizer.errors import ConfigError
from optimizer.space import Space
from optimizer.targets.command.answers import Answer
from optimizer.targets.command.placeholders import FOLDERS, SPLICED, check, names
from optimizer.targets.command.sources import Sources
from optimizer.targets.command.target import Commands

OPERATORS = ("&&", "||", "|", ">", ">>", "<", ";", "&", "2>&1")
SHELLS = ("sh", "bash", "dash", "zsh", "fish")
SHELL_TEXT = re.compile(r"[|&;<>$`*?~]")


def commands_of(node: Tree) -> Commands:
    build = node["build"] or []
    if isinstance(build, list) and build and all(isinstance(step, list) for step in build):
        steps = tuple(words_of(step, f"target.build[{i}]") for i, step in enumerate(build))
    else:
        steps = (words_of(build, "target.build"),) if build else ()
    run = words_of(node["run"] or [], "target.run")
    if not run and not steps:
        raise ConfigError(
            f"target={node['name']} has nothing to do: write target.run (and target.build), as in "
            "run: ['{out}/program', '{options}']. `optimizer init` writes a file to begin with."
        )
    return Commands(
        build=steps,
        run=run,
        build_folder=str(node["build_folder"]),
        folder=str(node["folder"]),
        build_environment=_variables(node, "build_environment"),
        environment=_variables(node, "environment"),
        products=_products(node, run, steps),
    )


def words_of(given: Any, where: str) -> tuple[str, ...]:
    """A command line as a list of words. Raises ConfigError with the list for one that is a text."""
    if isinstance(given, str):
        raise ConfigError(f"{where} is a text, and no shell reads it. {_remedy(given)}")
    if not isinstance(given, list) or any(isinstance(w, list | dict) or w is None for w in given):
        raise ConfigError(f"{where} is a list of words, as in [make, -j4, 'CXXFLAGS={{flags}}'], not {given}.")
    words = tuple(str(w).lower() if isinstance(w, bool) else str(w) for w in given)
    if words and Path(words[0]).name not in SHELLS and (found := [w for w in words if w in OPERATORS]):
        raise ConfigError(f"{where} has the word {found[0]}, which only a shell knows. {_remedy(' '.join(words))}")
    if words and not words[0]:
        raise ConfigError(f"{where}: the first word, the program, is empty.")
    return words


def _remedy(text: str) -> str:
    shell = f"[sh, -c, {text!r}]"
    if SHELL_TEXT.search(text):
        return (
            f"Write a list of words, and one list for each command where there are several; or, where a shell is "
            f"wanted, {shell}."
        )
    try:
        return f"Write {shlex.split(text)}."
    except ValueError:  # a quote that is not closed
        return f"Write a list of words; or, where a shell is wanted, {shell}."


def _variables(node: Tree, key: str) -> Mapping[str, str]:
    given = node[key] or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"target.{key} maps the names of variables to texts, not '{given}'.")
    for name, text in given.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name)):
            raise ConfigError(f"target.{key}: '{name}' can't be the name of a variable.")
        if isinstance(text, list | dict) or text is None:
            raise ConfigError(f"target.{key}.{name} is a text, not {text}.")
    return {str(name): str(text) for name, text in given.items()}


def _products(node: Tree, run: Sequence[str], steps: Sequence[Sequence[str]]) -> tuple[str, ...]:
    given = node["program"]
    if given is None:
        return (run[0],) if steps and run and run[0].startswith("{out}/") else ()
    products = tuple(map(str, given)) if isinstance(given, list) else (str(given),)
    for product in products:
        if not product.startswith(("{out}/", "{source}/")):
            raise ConfigError(
                f"target.program={product}: what a build leaves lies in {{out}}, as in {{out}}/{product}."
            )
        if ".." in Path(product).parts:
            raise ConfigError(f"target.program={product} leaves its folder.")
    if not steps:
        raise ConfigError("target.program names what a build leaves, and target.build is empty.")
    return products


def check_placeholders(commands: Commands, answer: Answer, space: Space, sources: Sources | None) -> None:
    building = [f for f in FOLDERS if f != "scratch" and (f != "source" or sources)]
    running = [f for f in FOLDERS if f != "source" or sources]
    for i, step in enumerate(commands.build):
        check("target.build" if len(commands.build) == 1 else f"target.build[{i}]", step, space, building)
    check("target.build_folder", [commands.build_folder], space, building)
    check("target.build_environment", commands.build_environment.values(), space, building)
    check("target.program", commands.products, space, building)
    check("target.run", commands.run, space, running)
    check("target.environment", commands.environment.values(), space, running)
    _only_folders("target.folder", [commands.folder], running)
    _only_folders("target.check", [*answer.command, answer.place], running)
    _check_effects(commands, space)


def _only_folders(where: str, words: Sequence[str], folders: Sequence[str]) -> None:
    """The words are the same at every point."""
    for name in names(words):
        if name not in folders:
            raise ConfigError(f"{where}: {{{name}}} is none of {', '.join(f'{{{f}}}' for f in folders)}.")


def _check_effects(commands: Commands, space: Space) -> None:
    """Raises ConfigError for a knob that no command line takes up: its values would all be the same."""
    texts = [
        *(word for step in commands.build for word in step),
        *commands.build_environment.values(),
        *commands.run,
        *commands.environment.values(),
    ]
    used = set(names(texts))
    for knob in space.knobs:
        kind = knob.effect.kind
        spliced = next((name for name, spliced in SPLICED.items() if spliced == kind), None)
        if kind == "env" or used & {spliced, knob.name, f"knob.{knob.name}"}:
            continue
        wanted = f"{{{spliced}}} or {{knob.{knob.name}}}" if spliced else f"{{knob.{knob.name}}}"
        raise ConfigError(
            f"The knob {knob.name} acts on {kind}, and no command has {wanted}: it would change nothing. Put it into "
            "target.build or target.run, or leave the knob out of the space."
        )
