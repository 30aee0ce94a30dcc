"""What is shipped of a winner? Files that compilers, this program and people read. Pure: values in, bytes out."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

from optimizer.journal import Study
from optimizer.space import Json, Space
from optimizer.text import value_text
from optimizer.trial import Trial, metrics_of


def flag_words(space: Space, trial: Trial, base: list[str]) -> list[str]:
    """The compiler's words: the target's own, then the knobs' flags."""
    words = list(base)
    for knob in space.knobs:
        if knob.effect.kind == "flag" and knob.name in trial.point:
            words += knob.effect.words(trial.point[knob.name])
    return words


def macros(space: Space, trial: Trial) -> dict[str, str]:
    active = [k for k in space.knobs if k.effect.kind == "macro" and k.name in trial.point]
    return {k.effect.name: k.effect.word(trial.point[k.name]) for k in active}


def response_file(study: Study, trial: Trial) -> bytes:
    """flags.rsp: `g++ @flags.rsp source.cpp`. One word a line."""
    base = list(study.recipe.target.options.get("flags", []))
    words = flag_words(study.recipe.space, trial, base)
    return "".join(f"{_response_word(w)}\n" for w in words).encode()


def _response_word(word: str) -> str:
    """Compilers read a response file as a shell would: white space splits, quotes join, a backslash quotes."""
    return "".join(f"\\{c}" if c.isspace() or c in "\"'\\" else c for c in word)


def header(study: Study, trial: Trial) -> bytes:
    """config.h: the winner's macros; `g++ -include config.h` gives a kernel the winner's values."""
    lines = [f"// {_origin(study, trial)}", "#pragma once", ""]
    lines += [f"#define {name} {value}" for name, value in macros(study.recipe.space, trial).items()]
    return ("\n".join(lines) + "\n").encode()


def experiment(study: Study, trial: Trial, settings: Mapping[str, Json]) -> bytes:
    """experiment/NAME.yaml: a search of two trials, the baseline and the winner, whose verdict repeats the proof."""
    spaces = ", ".join(study.settings.spaces)
    groups = {g: c for g, c in study.settings.choices.items() if g in ("target", "objective", "measure")}
    lines = [
        "# @package _global_",
        f"# {_origin(study, trial)}",
        "# Measure it against the baseline again: python -m optimizer search --config-dir FOLDER experiment=winner",
        "# Or pin single knobs in any search:",
        *(f"#   space.{name}={value_text(value)}" for name, value in trial.point.items()),
        "defaults:",
        *(f"  - override /{group}: {choice}" for group, choice in groups.items()),
        f"  - override /space: [{spaces}]",
    ]
    tree = {**settings, "budget": {"trials": 2, "seconds": None}, "known_good": [dict(trial.point)]}
    lines += [f"{name}: {json.dumps(value)}" for name, value in tree.items()]
    return ("\n".join(lines) + "\n").encode()


def provenance(study: Study, trial: Trial, program: bytes | None) -> bytes:
    """provenance.json: recipe, environment, metrics, verdict and hashes."""
    verdict = study.ending.verdict if study.ending else None
    document = {
        "study": study.name,
        "recipe_key": study.recipe.key,
        "recipe": study.recipe.document(),
        "environment": study.environment.document(),
        "number": trial.number,
        "point": dict(trial.point),
        "metrics": metrics_of(trial),
        "baseline_metrics": metrics_of(study.trials[0]),
        "verdict": asdict(verdict) if verdict else None,
        "confirmed": trial.number != 0 and study.winner is not None and study.winner.number == trial.number,
        "compile_side_only": not study.environment.runs,
        "command": list(trial.artifact.command) if trial.artifact else [],
        "arguments": list(trial.artifact.arguments) if trial.artifact else [],
        "program_sha256": hashlib.sha256(program).hexdigest() if program is not None else None,
    }
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _origin(study: Study, trial: Trial) -> str:
    origin = f"Trial {trial.number} of the study {study.name}, recipe {study.recipe.key}."
    return origin if study.environment.runs else f"{origin} Compile side only: nothing ran, no speed was measured."


def rendered(study: Study, trial: Trial, program: bytes | None, settings: Mapping[str, Json]) -> dict[str, bytes]:
    """Everything that an export consists of, by its path in the export's folder."""
    files = {
        "experiment/winner.yaml": experiment(study, trial, settings),
        "provenance.json": provenance(study, trial, program),
    }
    kinds = {k.effect.kind for k in study.recipe.space.knobs}
    if "flag" in kinds or "flags" in study.recipe.target.options:
        files["flags.rsp"] = response_file(study, trial)
    if "macro" in kinds:
        files["config.h"] = header(study, trial)
    if program is not None:
        files["program"] = program
    return files
