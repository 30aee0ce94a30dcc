"""Which numbers of a program are which metrics, and what must its answer be?"""

import math
import re
from collections.abc import Mapping
from typing import Any

from optimizer.config.command_lines import words_of
from optimizer.config.compose import Tree
from optimizer.config.made import beside, known_keys
from optimizer.errors import ConfigError, nearest
from optimizer.metrics import unit_of
from optimizer.targets.command.answers import Answer
from optimizer.targets.command.placeholders import names
from optimizer.targets.command.readings import COSTS, TAKES, Reading
from optimizer.targets.command.sources import Sources
from optimizer.targets.command.target import BUILD, Commands
from optimizer.targets.command.units import EXAMPLES, scale

METRIC_KEYS = ("regex", "json", "measure", "from", "unit", "take")
CHECK_KEYS = ("command", "expected", "text", "from", "tolerance")
USUAL = {"latency_s": "wall", "peak_memory_bytes": "peak_memory", "cpu_time_s": "cpu"}
"""What the system tells of every run, where the file says nothing else."""


def reads_of(node: Tree, commands: Commands) -> tuple[Reading, ...]:
    given = node["metrics"] or {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            "target.metrics maps a metric's name to where it is found, as in {latency_s: {json: time_s}}."
        )
    declared = [_reading(str(name), spec, commands) for name, spec in given.items() if spec is not None]
    known = {r.metric for r in declared}
    usual = [Reading(n, unit_of(n) or "", cost=c) for n, c in USUAL.items() if n not in known]
    return (*declared, *usual)


def _reading(metric: str, spec: Any, commands: Commands) -> Reading:
    where = f"target.metrics.{metric}"
    if not metric.isidentifier():
        raise ConfigError(f"{where}: a metric's name is of letters, digits and _.")
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{where} is a mapping, as in {{regex: 'time: ([0-9.]+) ms', unit: ms}}, not '{spec}'.")
    known_keys(where, spec, METRIC_KEYS)
    ways = [w for w in ("regex", "json", "measure") if spec.get(w) is not None]
    if len(ways) != 1:
        raise ConfigError(f"{where} has exactly one of regex, json and measure; this one has {ways or 'none'}.")
    place = str(spec.get("from", "stdout"))
    take = str(spec.get("take", "last" if place == BUILD else "all"))
    if take not in TAKES:
        raise ConfigError(f"{where}.take={take} is not known.{nearest(take, TAKES)}")
    if place == BUILD and (take == "all" or not commands.build):
        raise ConfigError(f"{where}: of a build one number is taken; write take: last, max, sum or another.")
    if place not in ("stdout", "stderr", BUILD) and not list(names([place])):
        raise ConfigError(
            f"{where}.from={place}: write stdout, stderr, build, or a file as in '{{scratch}}/result.json'."
        )
    cost = str(spec["measure"]) if ways == ["measure"] else ""
    if cost and (cost not in COSTS or "from" in spec or "unit" in spec):
        raise ConfigError(f"{where}.measure is {', '.join(COSTS)}, without from and unit.{nearest(cost, COSTS)}")
    unit = "" if spec.get("unit") is None else str(spec["unit"])
    return Reading(
        metric=metric,
        base=_base(where, metric, {"peak_memory": "B", "": unit}.get(cost, "s")),
        cost=cost,
        pattern=_pattern(where, spec["regex"]) if ways == ["regex"] else "",
        path=str(spec["json"]) if ways == ["json"] else "",
        place=place,
        unit=unit,
        take=take,
    )


def _base(where: str, metric: str, unit: str) -> str:
    """The unit that a metric is kept in: what its name promises, else the base of the unit that is declared."""
    promised, scaled = unit_of(metric), scale(unit)
    if not unit:
        return promised or "1"
    if scaled is None and promised is not None:
        raise ConfigError(f"{where}.unit={unit} is not known. Known are {EXAMPLES}, and more of their kind.")
    base = scaled[0] if scaled else unit
    if promised is not None and promised != base:
        raise ConfigError(f"{where}: {metric} is kept in {promised}, and {unit} is no unit of that.")
    return base


def _pattern(where: str, given: Any) -> str:
    try:
        pattern = re.compile(str(given), re.MULTILINE)
    except re.error as error:
        raise ConfigError(f"{where}.regex is no regular expression of Python's: {error}.") from None
    if "value" not in pattern.groupindex and pattern.groups == 0:
        raise ConfigError(f"{where}.regex has no group: put the number in (?P<value>…), its unit in (?P<unit>…).")
    return str(given)


def answer_of(node: Tree, sources: Sources | None) -> Answer:
    spec = node["check"]
    if spec is None:
        return Answer()
    if not isinstance(spec, Mapping):
        raise ConfigError(f"target.check is a mapping, as in {{expected: answer.txt, tolerance: 1e-6}}, not '{spec}'.")
    known_keys("target.check", spec, CHECK_KEYS)
    if sum(spec.get(w) is not None for w in ("command", "expected", "text")) != 1:
        raise ConfigError("target.check has exactly one of command, expected (a file) and text.")
    tolerance = spec.get("tolerance")
    if tolerance is not None:
        if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
            raise ConfigError(f"target.check.tolerance is a number of at least 0, not '{tolerance}'.")
        if spec.get("command") is not None:
            raise ConfigError("target.check.tolerance is for expected and text; the command decides by itself.")
    place = str(spec.get("from", "stdout"))
    if place not in ("stdout", "stderr") and not list(names([place])):
        raise ConfigError(f"target.check.from={place}: write stdout, stderr, or a file as in '{{scratch}}/answer.txt'.")
    if spec.get("command") is not None:
        return Answer(words_of(spec["command"], "target.check.command"), place)
    expected = str(spec["text"]).encode() if spec.get("text") is not None else _expected(node, spec, sources)
    return Answer((), place, expected, None if tolerance is None else float(tolerance))


def _expected(node: Tree, spec: Mapping[str, Any], sources: Sources | None) -> bytes:
    places = [beside(node, spec["expected"]), *([sources.folder / str(spec["expected"])] if sources else [])]
    for place in places:
        if place.is_file():
            return place.read_bytes()
    raise ConfigError(
        f"target.check.expected: there is no file {places[0]}. Run the program as it is now, look at what it prints, "
        "and keep that."
    )
