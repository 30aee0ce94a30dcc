"""The search command: settings in, a search, its result for people or as JSON out."""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from itertools import islice
from pathlib import Path

from optimizer.cli import INTERRUPTED
from optimizer.cli.allocation import sent
from optimizer.cli.per_device import per_device
from optimizer.config import Composed, Setup, composed
from optimizer.config.allocation import asks_for_allocation, without_executor, words_outside
from optimizer.config.objects import setup_of
from optimizer.errors import ConfigError
from optimizer.journal import JOURNAL, Study, read
from optimizer.report.savings import savings
from optimizer.report.verdict import leader, load_warning, passed_over, verdict_line
from optimizer.session import Outcome
from optimizer.space import Json
from optimizer.stats import Judgement
from optimizer.text import changes, duration
from optimizer.trial import Failed, Trial, metrics_of

SHOWN = 5


def command(
    words: Sequence[str],
    folders: Sequence[Path],
    *,
    dry_run: bool,
    resume: bool,
    as_json: bool,
    print_config: bool,
    each_device: bool,
) -> None:
    if print_config:
        _print_config(_resumed(words) if resume else words, folders)
        return
    goes_on = resume and not each_device  # else each device's study looks whether it does
    asked: Sequence[str] = _resumed(words) if goes_on else words
    made = composed(asked, folders)
    if asks_for_allocation(made):
        if not dry_run:
            flags = {"--resume": resume, "--json": as_json, "--per-device": each_device}
            outside = composed(words, folders) if goes_on else made  # the search inside goes on by itself
            sent(outside, folders, [flag for flag, given in flags.items() if given])
        asked = ["executor=local", *words_outside(made)]  # a plan needs no machines
        made = composed(asked, folders)

    def one(words: Sequence[str], resume: bool) -> None:
        each = composed(_resumed(words) if resume else words, folders)
        _searched(each, dry_run=dry_run, resume=resume, as_json=as_json)

    if each_device:
        per_device(asked, made, one, resume=resume)
    else:
        _searched(made, dry_run=dry_run, resume=resume, as_json=as_json)


def _searched(made: Composed, *, dry_run: bool, resume: bool, as_json: bool) -> None:
    setup = setup_of(made, date.today())
    if dry_run:
        print(_plan(setup))
        return
    from optimizer.listeners.console import ConsoleListener
    from optimizer.session import run

    screen = ConsoleListener(sys.stderr, setup.budget, setup.feasible.count)
    for missing in setup.made.missing.values():
        screen.say(f"left out: {missing}")
    outcome = run(setup, screen, time.perf_counter, resume=resume)
    if as_json:
        print(json.dumps(document(outcome, setup.journal), allow_nan=False))
    else:
        print(_ending(outcome.study, setup))
    if outcome.study.ending is not None and outcome.study.ending.interrupted:
        raise SystemExit(INTERRUPTED)


def _resumed(words: Sequence[str]) -> list[str]:
    """The words that the study was started with, then those given now."""
    given = dict(w.split("=", 1) for w in words if "=" in w)
    if "study" not in given:
        raise ConfigError("--resume needs the study's name: study=NAME.")
    journal = Path(given.get("studies_dir", "studies")) / given["study"] / JOURNAL
    if not journal.exists():
        raise ConfigError(f"There is no study {given['study']} to resume ({journal}); leave --resume away to start it.")
    return [*without_executor(read(journal).settings.words, words), *words]


def _print_config(words: Sequence[str], folders: Sequence[Path]) -> None:
    from omegaconf import OmegaConf

    made = composed(words, folders)
    domains = {name: domain.document() for name, domain in made.domains.items()}
    tree = {**made.tree, "domains": domains, "baseline": dict(made.baseline)}
    print(OmegaConf.to_yaml(OmegaConf.create(tree)), end="")


def _plan(setup: Setup) -> str:
    """What a search would do."""
    recipe, feasible = setup.recipe, setup.feasible
    count = f"{feasible.count:,}" if feasible.count is not None else "uncountably many"
    lines = [
        f"target      {recipe.target.name} on {setup.made.device_name}",
        f"space       {len(recipe.space.knobs)} knobs, {count} valid configurations",
        f"strategy    {recipe.strategy.name}, seed {recipe.seed}",
        *(f"goal        {line}" for line in recipe.goal.formulas()),
        f"budget      {_budget(setup)}",
        f"time        {_estimate(setup)}",
        f"study       {setup.folder}",
        f"tracking    {'none' if setup.tracking.name == 'none' else setup.tracking.uri}",
        f"recipe      {recipe.key}",
        "",
        "The first configurations:",
    ]
    strategy = setup.strategy()
    for candidate in islice(strategy.ask(SHOWN), SHOWN):
        lines.append(f"{candidate.number:>4}  {changes(candidate.point, recipe.start[0])}")
        lines += [f"      $ {line}" for line in setup.made.preview(candidate.point)]
    lines += [f"left out: {missing}" for missing in setup.made.missing.values()]
    return "\n".join(lines)


def _budget(setup: Setup) -> str:
    budget = setup.budget
    parts = []
    if budget.trials is not None:
        parts.append(f"{budget.trials} trials")
    if budget.seconds is not None:
        parts.append(duration(budget.seconds))
    if budget.patience is not None:
        parts.append(f"{budget.patience} trials without a new best")
    return ", or ".join(parts) or "until the space is exhausted"


def _estimate(setup: Setup) -> str:
    """From earlier studies of this target, else from the plan alone."""
    budget, plan = setup.budget, setup.recipe.plan
    proof_s = setup.recipe.confirm.max_seconds
    trials = min((n for n in (budget.trials, setup.feasible.count) if n is not None), default=None)
    a_trial_s = _seconds_a_trial(setup)
    bounds = [] if budget.seconds is None else [budget.seconds]
    if trials is not None:
        bounds.append(trials * (a_trial_s or plan.max_seconds + 2.0))
    if not bounds:
        return "until the space is exhausted"
    source = f"{a_trial_s:.1f} s a trial in earlier studies" if a_trial_s else "no earlier study to go by"
    return f"about {duration(min(bounds) + proof_s)} with the confirmation ({source})"


def _seconds_a_trial(setup: Setup) -> float | None:
    """The median of earlier studies of the target."""
    found = []
    for journal in sorted(setup.studies_dir.glob(f"{setup.recipe.target.name}*/journal.jsonl"))[-3:]:
        try:
            study = read(journal)
        except ConfigError:
            continue
        if study.trials and study.recipe.target.name == setup.recipe.target.name:
            found.append(study.trials[-1].elapsed_s / len(study.trials))
    return sorted(found)[len(found) // 2] if found else None


# --- results


def document(outcome: Outcome, journal: Path) -> Json:
    """The object that --json prints."""
    study, tracking = outcome.study, outcome.tracking
    trials = study.trials
    baseline = study.baseline
    failed = Counter(t.outcome.reason.value for t in trials if isinstance(t.outcome, Failed))
    found = {
        "study": study.name,
        "recipe_key": study.recipe.key,
        "target": study.recipe.target.name,
        "strategy": study.recipe.strategy.name,
        "trials": len(trials),
        "measured": len(trials) - sum(failed.values()),
        "failed": dict(failed),
        "baseline": _trial(baseline) if baseline else None,
        "best": {"number": leader(study).number, **_trial(leader(study))} if baseline else None,
        "verdict": _verdict(study),
        "journal": str(journal),
        "tracking": None
        if tracking is None
        else {"uri": tracking.uri, "experiment_id": tracking.experiment_id, "run_id": tracking.run_id},
        "seconds": dict(study.ending.seconds) if study.ending else {},
        "saved": [asdict(saving) for saving in savings(trials)],
    }
    if tracking is not None:
        found["seconds"]["tracking"] = outcome.tracking_s
    if baseline and len(study.recipe.goal.objectives) > 1:
        front = study.recipe.goal.front(trials, baseline)
        found["front"] = [{"number": t.number, **_trial(t)} for t in front]
    return found


def _trial(trial: Trial) -> dict[str, Mapping[str, Json]]:
    return {"point": dict(trial.point), "metrics": metrics_of(trial)}


def _verdict(study: Study) -> Json:
    verdict = study.ending.verdict if study.ending else None
    if verdict is None:
        return None
    return {
        "metric": verdict.metric,
        "ratio": verdict.ratio,
        "low": verdict.low,
        "high": verdict.high,
        "verdict": verdict.judgement.value,
        "number": verdict.number,
    }


def _ending(study: Study, setup: Setup) -> str:
    """The result for people: the verdict, what the winner does otherwise, and what to do next."""
    lines = [verdict_line(study).replace("**", ""), *passed_over(study)]
    lines += [f"warning: {text}" for text in load_warning(study)]
    if study.baseline is not None:
        best = leader(study)
        if best.number:
            lines.append(f"  {changes(best.point, study.trials[0].point)}")
        lines += [f"  {line}" for line in study.recipe.goal.formulas(study.baseline)[1:]]
    lines.append(f"journal: {setup.journal}")
    where = "" if setup.studies_dir == Path("studies") else f" studies_dir={setup.studies_dir}"
    lines.append(f"next: python -m optimizer report {study.name}{where}")
    verdict = study.ending.verdict if study.ending else None
    if verdict is not None and verdict.judgement is Judgement.BETTER:
        lines.append(f"      python -m optimizer export {study.name}{where}")
    if setup.tracking.name != "none":
        lines.append(f"      python -m optimizer ui{where}")
    return "\n".join(lines)
