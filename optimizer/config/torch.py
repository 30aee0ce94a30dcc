"""How does a torch model become a target, with the backends and schemes that work on this machine?"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optimizer.config.compose import Tree
from optimizer.config.made import Builds, Made, beside, cache_of, needed
from optimizer.config.native import found_compilers
from optimizer.device import Host, chosen_gpus
from optimizer.errors import ConfigError, nearest
from optimizer.export.exported import Exported
from optimizer.journal import Study
from optimizer.protocols import Device, Target
from optimizer.recipe import Plan, differences
from optimizer.space import Choice, Point, Space
from optimizer.targets.native import Limits
from optimizer.targets.torch.exported import ExportedTarget
from optimizer.targets.torch.parts import BACKEND
from optimizer.targets.torch.tables import BACKENDS, TASKS
from optimizer.targets.torch.target import IMPORTED, TorchTarget
from optimizer.targets.torch.told import described, resolved
from optimizer.targets.torch.workers import Zygote
from optimizer.targets.torch.working import working
from optimizer.trial import Trial, TrialError


def torch(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    """Raises ConfigError where the model can't be made, or no backend works here."""
    space = needed(space, node)
    task = str(node["task"])
    if task not in TASKS:
        raise ConfigError(f"target.task={task} is not known.{nearest(task, TASKS)}")
    kind = device.partition(":")[0]
    compilers = {"torch": version("torch"), **{c.name: c.version for c in found_compilers().values()}}
    gpus = chosen_gpus(device, {}) if kind == "cuda" else ()
    watched: Device = gpus[0] if gpus else Host(compilers)
    target = target_of(node, space.baseline(), plan, builds.folder, kind, gpus[0].uuid if gpus else None)
    found = working(space, target)
    _some_backend(space, found.missing)
    return Made(target, found.space, watched, kind, {}, found.missing, preview=target.preview)


def target_of(node: Tree, baseline: Point, plan: Plan, folder: Path, kind: str, gpu: str | None) -> TorchTarget:
    """kind: cpu or cuda; gpu: which one."""
    return TorchTarget(
        task=str(node["task"]),
        options=_options(node),
        baseline=baseline,
        device=kind,
        folder=folder,
        cache=cache_of(node),
        limits=Limits(plan.timeout_s, plan.memory_bytes),
        gpu=gpu,
        zygote=Zygote((*IMPORTED, *map(str, node.get("imports") or ()))),
    )


def exported_target(exported: Exported, made: Made) -> Target:
    """The model in an export, and beside it the unmodified one that `made` of the export's own node is."""
    place = exported.folder.resolve()  # workers work elsewhere
    if not isinstance(made.target, TorchTarget):
        raise ConfigError(f"{place} holds a model, and its provenance.json names a target of another kind.")
    proved = exported.recipe.target.options
    return ExportedTarget(place, described(place), made.target, exported.code_key, proved)


def exported_node(place: Path, node: Mapping[str, Any]) -> Tree:
    """The target's node with what the model was made of as it lies in the export."""
    return {**node, "options": dict(resolved(described(place)["options"], place))}


@contextmanager
def packaged(node: Mapping[str, Any], study: Study, trial: Trial, beside: Path) -> Iterator[Path]:
    """A temporary folder in `beside` with the model of a trial, loadable alone. Raises ConfigError where it can't be
    made (again)."""
    if trial.artifact is None or not trial.artifact.path:
        raise ConfigError(f"Trial {trial.number} was never built.")
    recipe, folder = study.recipe, Path(trial.artifact.path).parent
    kind = recipe.device.partition(":")[0]
    gpus = chosen_gpus(recipe.device, {}) if kind == "cuda" else ()
    target = target_of(dict(node), study.trials[0].point, recipe.plan, folder, kind, gpus[0].uuid if gpus else None)
    if target.fingerprint() != recipe.target.options:
        changed = "\n  ".join(differences(dict(recipe.target.options), dict(target.fingerprint())))
        raise ConfigError(f"The model is no longer the one that was searched; search again. What differs:\n  {changed}")
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=beside) as place:
            target.export(target.build(trial.point), Path(place))
            yield Path(place)
    except TrialError as error:
        raise ConfigError(f"Trial {trial.number} can't be exported as a model: {error.log}") from None
    finally:
        target.zygote.close()


def _options(node: Tree) -> Mapping[str, Any]:
    """A model's own file is named as it lies here: workers work elsewhere."""
    options = {str(k): v for k, v in (node.get("options") or {}).items()}
    where, colon, what = str(options.get("model") or "").rpartition(":")
    if colon and where.endswith(".py"):
        own = beside(node, where)
        path = own if own.is_file() else Path(where)
        if not path.is_file():
            raise ConfigError(f"target.options.model={where}:{what}: there is no file {path.resolve()}.")
        options["model"] = f"{path.resolve()}:{what}"
    return options


def _some_backend(space: Space, missing: Mapping[str, str]) -> None:
    knob = space.by_name.get(BACKEND)
    if knob is None or not isinstance(knob.domain, Choice):
        return
    if all(f"{BACKEND}={value}" in missing for value in knob.domain.values):
        reasons = "\n".join(f"{value}: {missing[f'{BACKEND}={value}']}" for value in knob.domain.values)
        raise ConfigError(f"No backend of this space works here.\n{reasons}")


def backends_here() -> Mapping[str, str | None]:
    """Every backend there is, and what it lacks on this machine as far as can be told without starting it."""
    return {
        name: offer.missing("cpu") if "cpu" in offer.devices else offer.missing("cuda")
        for name, offer in BACKENDS.items()
    }
