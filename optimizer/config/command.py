"""How does a configured program of anybody's become a target? All that is wrong with it is told before trial 0."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from optimizer.config.command_lines import check_placeholders, commands_of
from optimizer.config.command_reads import answer_of, reads_of
from optimizer.config.compose import Tree
from optimizer.config.made import COMMON, Builds, Made, beside, known_keys, needed
from optimizer.config.programs import found_program, version_or_hash
from optimizer.device import Host, NoDevice, chosen_gpus
from optimizer.errors import ConfigError
from optimizer.protocols import Device
from optimizer.recipe import Plan
from optimizer.space import Space
from optimizer.targets.command.answers import Answer
from optimizer.targets.command.placeholders import names
from optimizer.targets.command.sources import Sources
from optimizer.targets.command.target import Commands, CommandTarget
from optimizer.targets.native import Limits

KEYS = (
    *COMMON, "source", "copy_source", "ignore", "build", "build_folder", "build_environment", "program", "run",
    "folder", "environment", "metrics", "check", "limit_memory", "arch",
)  # fmt: skip


def command(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    space = needed(space, node)
    known_keys("target", node, KEYS)
    sources, runs = _sources(node), device != "none"
    commands, answer = commands_of(node), answer_of(node, sources)
    if runs and not commands.run:
        raise ConfigError("There is no target.run: write how the program is run, or device=none to measure its build.")
    check_placeholders(commands, answer, space, sources)
    paths = _paths(commands, answer, [beside(node, "."), *([sources.folder] if sources else [])])
    used = version_or_hash([Path(path) for path in paths.values()], builds=bool(commands.build))
    gpus = chosen_gpus(device, used) if device.partition(":")[0] == "cuda" else ()
    host: Device = gpus[0] if gpus else Host(used) if runs else NoDevice(str(node["arch"] or "nothing"), used)
    target = CommandTarget(
        commands=commands,
        sources=sources,
        copy_source=_flag(node, "copy_source") and bool(commands.build),  # where nothing is built, nothing mixes
        reads=reads_of(node, commands),
        answer=answer,
        space=space,
        programs=used,
        paths=paths,
        folder=builds.folder,
        limits=Limits(plan.timeout_s, plan.memory_bytes),
        limit_memory=_flag(node, "limit_memory") and not gpus,  # a CUDA context reserves hundreds of GiB
        runs=runs,
        variables={"CUDA_VISIBLE_DEVICES": gpus[0].uuid} if gpus else {},
    )
    warnings = tuple(text for gpu in gpus[:1] for text in gpu.warnings)
    name = device.partition(":")[0]
    return Made(target, space, host, name, {}, {}, preview=target.preview, runs=runs, warnings=warnings)


def _sources(node: Tree) -> Sources | None:
    if node["source"] is None:
        return None
    folder = beside(node, node["source"]).resolve()
    if not folder.is_dir():
        raise ConfigError(f"target.source={node['source']}: there is no folder {folder}.")
    if not isinstance(node["ignore"], list):
        raise ConfigError("target.ignore is a list of names, as in [build, '*.o'].")
    return Sources(folder, tuple(map(str, node["ignore"])))


def _paths(commands: Commands, answer: Answer, folders: Sequence[Path]) -> Mapping[str, str]:
    """Where the programs lie that the commands name and do not build. Raises ConfigError where one is missing."""
    first = [line[0] for line in (*commands.build, commands.run, answer.command) if line]
    return {word: found_program(word, folders) for word in first if not list(names([word]))}


def _flag(node: Tree, key: str) -> bool:
    if not isinstance(node[key], bool):
        raise ConfigError(f"target.{key} is true or false, not '{node[key]}'.")
    return bool(node[key])
