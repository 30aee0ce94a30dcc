"""How does a composed configuration become the objects of a search? Everything that can be wrong fails here."""

import math
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from optimizer.conditions import processors
from optimizer.config.builds import builds_of
from optimizer.config.cluster import cluster_of, made_by
from optimizer.config.compose import Composed, Tree, whole
from optimizer.config.made import Builds, Made
from optimizer.config.prior import known_of
from optimizer.config.spaces import space_of
from optimizer.config.targets import device_name, made_target
from optimizer.device import physical_cores
from optimizer.errors import ConfigError, nearest
from optimizer.executors.local import LocalExecutor
from optimizer.feasible import Feasible
from optimizer.files import names_folder
from optimizer.journal import JOURNAL, Settings
from optimizer.objective import STATISTICS, Bound, Direction, Goal, Limit, Objective, direction_of
from optimizer.protocols import Executor, Strategy
from optimizer.recipe import Budget, Confirm, Part, Plan, Recipe
from optimizer.space import Point, Space, Value, contains
from optimizer.strategies.prior import Known
from optimizer.strategies.proposals import Proposals, Proposer

T = TypeVar("T")
EXECUTORS = ("local", "ray", "slurm")


@dataclass(frozen=True)
class Tracking:
    """Where trials are tracked; `name` none: nowhere."""

    name: str
    uri: str
    experiment: str


@dataclass(frozen=True)
class Setup:
    """Everything that a search needs before it starts."""

    recipe: Recipe
    feasible: Feasible
    made: Made
    budget: Budget
    tracking: Tracking
    studies_dir: Path
    study: str
    executor: Callable[[], Executor]  # makes the one that the session closes
    news: Callable[[], Sequence[str]]  # what the user should know of what went on since it was last asked for
    settings: Settings
    builds: Builds
    noise_file: Path
    prior: tuple[Known, ...] = ()
    warnings: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()  # of devices in a cluster; this study is one of the first's

    @property
    def folder(self) -> Path:
        return self.studies_dir / self.study

    @property
    def journal(self) -> Path:
        return self.folder / JOURNAL

    def strategy(self) -> Strategy:
        return strategy_of(self.recipe, self.feasible, self.prior)


def setup_of(composed: Composed, today: date) -> Setup:
    """Raises ConfigError for whatever can't work, before anything is built, run or written."""
    tree = composed.tree
    studies_dir = Path(_text(tree, "studies_dir"))
    study = study_of(tree, today)
    plan, confirm = _measuring(tree["measure"])
    goal = goal_of(tree["objective"])
    builds, told = builds_of(tree["build_cache"], (studies_dir / study / "build").resolve(), goal)
    space = space_of(tree["space"], composed.domains) if _has_knobs(tree["space"]) else None
    ahead = whole(tree, "ahead", 1)
    executor: Callable[[], Executor]
    news: Callable[[], Sequence[str]]
    kinds: tuple[str, ...] = ()
    if (name := _executor_name(tree["executor"])) == "slurm":
        raise ConfigError("executor=slurm is for `search`, which sends itself into an allocation of the batch system.")
    if name == "ray":
        cluster = cluster_of(tree, space, plan, goal, builds.folder)
        made, kinds = made_by(cluster, device_name(str(tree["device"]), tree["target"])), tuple(sorted(cluster.kinds))
        executor, news = (lambda: cluster.executor(ahead)), (lambda: (*builds.news(), *cluster.news()))
    else:
        workers = _workers(tree["executor"])
        made = made_target(composed, space, plan, builds)
        executor, news = (lambda: LocalExecutor(workers)), builds.news
    feasible = Feasible(made.space)
    budget = _filled(Budget, tree["budget"], "budget")
    _check_budget(budget)
    options = {k: v for k, v in tree["strategy"].items() if k != "name"}
    prior = known_of(options.get("prior"), studies_dir, goal, made.space)
    if prior:
        options["prior"] = [k.document() for k in prior]
    recipe = Recipe(
        target=Part(tree["target"]["name"], dict(made.target.fingerprint())),
        space=made.space,
        strategy=Part(tree["strategy"]["name"], options),
        goal=goal,
        plan=plan,
        confirm=confirm,
        seed=whole(tree, "seed", 0),
        ahead=ahead,
        start=_start(made, composed, tree),
        device=made.device_name,
    )
    uri = tree["tracking"]["uri"] or f"sqlite:///{(studies_dir / 'mlflow.db').resolve()}"
    return Setup(
        recipe=recipe,
        feasible=feasible,
        made=made,
        budget=budget,
        tracking=Tracking(tree["tracking"]["name"], uri, tree["tracking"]["experiment"] or tree["target"]["name"]),
        studies_dir=studies_dir,
        study=study,
        executor=executor,
        news=news,
        settings=Settings(composed.words, composed.choices, composed.spaces, tree["target"]),
        prior=prior,
        builds=builds,
        noise_file=Path(_text(tree, "noise_file")).expanduser(),
        warnings=tuple(told),
        kinds=kinds,
    )


def strategy_of(recipe: Recipe, feasible: Feasible, prior: Sequence[Known] = ()) -> Strategy:
    """A new strategy at its beginning; raises ConfigError where it does not fit the space."""
    return strategy_for(recipe.strategy, recipe.goal, recipe.seed, feasible, recipe.start, prior)


def strategy_for(
    part: Part, goal: Goal, seed: int, feasible: Feasible, start: Sequence[Point], prior: Sequence[Known] = ()
) -> Strategy:
    """The same of its parts. `prior` is what the option of that name names by hash."""
    options = {**part.options, **({"prior": prior} if "prior" in part.options else {})}
    proposer = _proposer(Part(part.name, options), len(goal.objectives), seed, feasible)
    return Proposals(proposer, feasible, goal, Random(f"nearest {seed}"), start)


def study_of(tree: Tree, today: date) -> str:
    """The study's name, or a new one. Raises ConfigError where it can't be that of a folder."""
    named = _study_name(tree["study"])
    return named or new_study_name(Path(_text(tree, "studies_dir")), _target_name(tree["target"]), today)


def new_study_name(studies_dir: Path, target: str, today: date) -> str:
    """One that does not exist yet: target and date, then with a number."""
    base = f"{target}-{today.isoformat()}"
    names = [base, *(f"{base}-{i}" for i in range(2, 10_000))]
    return next(n for n in names if not (studies_dir / n).exists())


# --- parts


def goal_of(node: Tree) -> Goal:
    """Objectives and limits of a composed configuration."""
    metrics = node.get("metrics")
    if not isinstance(metrics, Mapping) or not metrics:
        raise ConfigError("objective.metrics names at least one metric, as in objective.metrics={latency_s: minimize}.")
    objectives = tuple(_objective(str(name), spec) for name, spec in metrics.items() if spec is not None)
    stated = {str(name): spec for name, spec in (node.get("limits") or {}).items() if spec is not None}
    return Goal(objectives, tuple(chain.from_iterable(_limits(name, spec) for name, spec in stated.items())))


def _objective(metric: str, spec: Any) -> Objective:
    if isinstance(spec, Mapping):
        statistic = str(spec.get("statistic", "median"))
        _known_statistic(metric, statistic)
        return Objective(metric, direction_of(metric, spec.get("direction")), statistic)
    return Objective(metric, direction_of(metric, str(spec)))


def _limits(metric: str, spec: Any) -> Iterator[Limit]:
    """{max: 2} · {max_degradation_pct: 2} · several at once; direction and statistic beside them."""
    if not isinstance(spec, Mapping):
        raise ConfigError(f"objective.limits.{metric} is a mapping, as in {{max: 0.5}} or {{max_degradation_pct: 2}}.")
    statistic = str(spec.get("statistic", "median"))
    _known_statistic(metric, statistic)
    bounds = {b.value: b for b in Bound}
    for name, value in spec.items():
        if name in ("direction", "statistic") or value is None:
            continue
        if name not in bounds:
            raise ConfigError(f"objective.limits.{metric}.{name} is not a kind of limit.{nearest(name, bounds)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"objective.limits.{metric}.{name} is a number, not '{value}'.")
        absolute = bounds[name] in (Bound.MAX, Bound.MIN)
        direction = Direction.MINIMIZE if absolute else direction_of(metric, spec.get("direction"))
        yield Limit(metric, bounds[name], float(value), direction, statistic)


def _known_statistic(metric: str, statistic: str) -> None:
    if statistic not in STATISTICS:
        raise ConfigError(f"{metric}: the statistic '{statistic}' is not known.{nearest(statistic, STATISTICS)}")


def _measuring(node: Tree) -> tuple[Plan, Confirm]:
    cpus = str(node.get("cpus", ""))  # YAML takes a single one for a number
    plan = _filled(Plan, {k: v for k, v in node.items() if k != "confirm"} | {"cpus": cpus}, "measure")
    confirm = _filled(Confirm, node["confirm"], "measure.confirm")
    if plan.min_samples < 1 or plan.max_samples < plan.min_samples or plan.warmups < 0:
        raise ConfigError("measure: min_samples is at least 1, max_samples at least as many, warmups not negative.")
    try:
        processors(plan.cpus)
    except ValueError:
        raise ConfigError(f"measure.cpus is a list of processors such as 2-3,6, not '{cpus}'.") from None
    if confirm.rounds < 6:
        raise ConfigError("measure.confirm.rounds is at least 6: of fewer no 95% interval can be made.")
    return plan, confirm


def _start(made: Made, composed: Composed, tree: Tree) -> tuple[Point, ...]:
    """The baseline, then the known good points that the space has."""
    space = made.space
    for name, value in composed.baseline.items():
        if name not in space.by_name:
            raise ConfigError(f"baseline.{name}: there is no such knob.{nearest(name, space.by_name)}")
        if not contains(space.by_name[name].domain, value):
            raise ConfigError(f"baseline.{name}={value} is outside the knob's domain, which is what is searched.")
    baseline = space.baseline({**made.baseline, **composed.baseline})
    if (broken := space.broken(baseline)) is not None:
        values = {k.name: baseline.get(k.name, k.default) for k in space.knobs}  # a knob that is not active counts too
        named = ", ".join(f"{n}={values[n]}" for n in sorted(broken.expression.names))
        raise ConfigError(
            f"The baseline breaks the constraint {broken.name} ({broken.expression.text}): "
            f"{broken.expression.instance(values)} with {named}. Choose another with baseline.KNOB=VALUE."
        )
    known_good = [_known_good(space, baseline, given) for given in tree["known_good"]]
    return tuple(dict.fromkeys([baseline, *(p for p in known_good if p is not None)]))


def _known_good(space: Space, baseline: Point, given: Any) -> Point | None:
    """The baseline with some knobs changed; None where this machine's or this user's space does not have it."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"known_good lists mappings of knobs to values, not '{given}'.")
    values: dict[str, Value] = {k.name: k.default for k in space.knobs} | dict(baseline)
    values |= {str(n): v for n, v in given.items() if n in space.by_name}
    point = space.active(values)
    return point if point in space else None


def _proposer(part: Part, objectives: int, seed: int, feasible: Feasible) -> Proposer:
    name, options = part.name, dict(part.options)
    if name not in STRATEGIES:
        raise ConfigError(f"There is no strategy '{name}'.{nearest(name, STRATEGIES)}")
    try:
        return STRATEGIES[name](feasible, objectives, seed, options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"strategy={name} can't be made with {options}: {error}") from None


def _random(feasible: Feasible, objectives: int, seed: int, options: Mapping[str, Any]) -> Proposer:
    from optimizer.strategies.random import RandomProposer

    return RandomProposer(feasible, Random(seed), **options)


def _auto(feasible: Feasible, objectives: int, seed: int, options: Mapping[str, Any]) -> Proposer:
    from optimizer.strategies.model import ModelProposer

    return ModelProposer(feasible, objectives, seed, **options)


def _grid(feasible: Feasible, objectives: int, seed: int, options: Mapping[str, Any]) -> Proposer:
    from optimizer.strategies.random import GridProposer

    return GridProposer(feasible, **options)


def _optuna(name: str) -> Callable[..., Proposer]:
    def make(feasible: Feasible, objectives: int, seed: int, options: Mapping[str, Any]) -> Proposer:
        from optimizer.strategies import bayesian

        sampler, traits = getattr(bayesian, name)(seed, **options)
        return bayesian.OptunaProposer(feasible.space, objectives, sampler, traits)

    return make


def _genetic(feasible: Feasible, objectives: int, seed: int, options: Mapping[str, Any]) -> Proposer:
    from optimizer.strategies.genetic import GeneticProposer

    return GeneticProposer(feasible, objectives, Random(seed), **options)


STRATEGIES: Mapping[str, Callable[..., Proposer]] = {
    "auto": _auto,
    "random": _random,
    "grid": _grid,
    "tpe": _optuna("tpe"),
    "gp": _optuna("gp"),
    "cmaes": _optuna("cmaes"),
    "nsga2": _optuna("nsga2"),
    "genetic": _genetic,
    "genetic_nsga2": _genetic,
}
"""A new strategy is one line here, its file, and its file in conf/strategy."""


# --- single values


def _has_knobs(node: Any) -> bool:
    return bool(node) and any(name != "constraints" for name in node)


def _filled(cls: type[T], node: Mapping[str, Any], path: str) -> T:
    """A frozen dataclass filled from a mapping, every value checked against its field's type."""
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in node.items():
        if name not in known:
            raise ConfigError(f"There is no setting '{path}.{name}'.{nearest(name, known)}")
        values[name] = _typed(value, hints[name], f"{path}.{name}")
    return cls(**values)


def _typed(value: Any, hint: Any, path: str) -> Any:
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in allowed:
        return None
    if float in allowed and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if int in allowed and isinstance(value, int) and not isinstance(value, bool):
        return value
    if bool in allowed and isinstance(value, bool):
        return value
    if str in allowed and isinstance(value, str):
        return value
    names = {float: "a number", int: "a whole number", bool: "true or false", type(None): "null"}
    raise ConfigError(f"{path} is {' or '.join(names.get(a, str(a)) for a in allowed)}, not '{value}'.")


def _check_budget(budget: Budget) -> None:
    for name in ("trials", "seconds", "patience"):
        value = getattr(budget, name)
        if value is not None and value <= 0:
            raise ConfigError(f"budget.{name} must be above 0, not {value}.")


def _text(tree: Tree, key: str) -> str:
    value = tree[key]
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key} is a word, not '{value}'.")
    return value


def _study_name(value: Any) -> str:
    if value is None:
        return ""
    name = str(value)
    if not names_folder(name) or len(name) > 200:
        raise ConfigError(f"study={name!r} can't be the name of a folder: write letters, digits, - and _.")
    return name


def _target_name(node: Tree) -> str:
    if not names_folder(name := node["name"]):
        raise ConfigError(f"target.name={name!r} names studies, which are folders: write letters, digits, - and _.")
    return str(name)


def _executor_name(node: Tree) -> str:
    name = str(node["name"])
    if name not in EXECUTORS:
        raise ConfigError(f"There is no executor '{name}'.{nearest(name, EXECUTORS)}")
    return name


def _workers(node: Tree) -> int:
    workers = node["workers"]
    if workers is None:
        return max(physical_cores(), os.cpu_count() or 1)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigError(f"executor.workers is a whole number of at least 1, or null, not '{workers}'.")
    return workers
