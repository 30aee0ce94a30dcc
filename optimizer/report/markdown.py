"""What does a study say, on one page of Markdown? Pure: a study in, text out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from optimizer.journal import Study
from optimizer.metrics import METRICS
from optimizer.report.importance import MOST, importance
from optimizer.report.savings import savings
from optimizer.stats import Judgement, quantile
from optimizer.text import changes, duration, quantity, value_text
from optimizer.trial import Failed, Trial, metrics_of, quality_loss_pct, samples_of

SHOWN = 10  # rows of a table
DRIFT = 0.05  # change of the baseline that is worth a warning
LOAD_PCT = 5.0  # load by others that is worth a warning


def markdown(study: Study) -> str:
    """The whole report; a study whose baseline was not measured has a short one."""
    sections = [_head(study)]
    if study.baseline is not None:
        best = leader(study)
        sections += [_comparison(study, best), _changed(study, best), _limits(study, best)]
        sections += [_front(study), _importance(study)]
    sections += [_failures(study), _warnings(study), _effort(study), _saved(study), _place(study)]
    return "\n\n".join(s for s in sections if s) + "\n"


def leader(study: Study) -> Trial:
    """The trial that the report is about: the winner, else the best as measured, else number 0."""
    return study.winner or study.best or study.trials[0]


def passed_over(study: Study) -> list[str]:
    """Why trials that looked better in the search are not the winner."""
    told = study.ending.passed_over if study.ending else {}
    return [f"Trial {number} was passed over: measured again, {why}." for number, why in told.items()]


def verdict_line(study: Study) -> str:
    """The result in a sentence or two: what nothing ran for says so first."""
    return _verdict(study) if study.environment.runs else f"**Compile side only, nothing ran.** {_verdict(study)}"


def _verdict(study: Study) -> str:
    if study.baseline is None:
        return "The baseline was not measured, so nothing could be proved."
    verdict = study.ending.verdict if study.ending else None
    if verdict is None:
        return f"**Unconfirmed**: trial {leader(study).number} is the best as measured; no verdict was reached."
    interval = f"(95% interval {verdict.low:.3f} to {verdict.high:.3f}, {verdict.rounds} interleaved rounds)"
    if verdict.judgement is Judgement.BETTER:
        return f"**Better**: trial {verdict.number} gains {verdict.ratio:.3f}× in {verdict.metric} {interval}."
    if verdict.number == 0:
        return f"**Same**: nothing beat the baseline, which against itself measured {verdict.ratio:.3f}× {interval}."
    return (
        f"**Same**: the leading finalist, trial {verdict.number}, can't be told from the baseline: "
        f"{verdict.ratio:.3f}× in {verdict.metric} {interval}."
    )


def _head(study: Study) -> str:
    recipe = study.recipe
    goal = "\n".join(f"- {line}" for line in recipe.goal.formulas(study.baseline))
    return (
        f"# {study.name}\n\n{' '.join([verdict_line(study), *passed_over(study)])}\n\n"
        f"Target `{recipe.target.name}`, strategy `{recipe.strategy.name}`, seed {recipe.seed}, "
        f"recipe `{recipe.key}`, device {study.environment.device}.\n\nGoal:\n\n{goal}"
    )


def _comparison(study: Study, best: Trial) -> str:
    """Every metric that the catalogue knows, baseline against best."""
    baseline = study.trials[0]
    mine, theirs = metrics_of(best), metrics_of(baseline)
    rows = []
    for name in [n for n in METRICS if n in theirs or n in mine]:
        rows.append([name, _shown(name, theirs.get(name)), _shown(name, mine.get(name)), _ratio(mine, theirs, name)])
        if name == "latency_s":
            rows += list(_tails(best, baseline))
    if (loss := quality_loss_pct(best, baseline)) is not None:
        rows.append(["quality_loss_pct", "0.0 %", f"{loss:.2f} %", ""])
    title = f"## Trial {best.number} against the baseline (number 0)"
    return f"{title}\n\n{_table(['metric', 'number 0', f'number {best.number}', 'ratio'], rows)}"


def _tails(best: Trial, baseline: Trial) -> Iterator[list[str]]:
    mine, theirs = (samples_of(t).get("latency_s", ()) for t in (best, baseline))
    for name, share in (("p95", 0.95), ("p99", 0.99)):
        cells = [_shown("latency_s", quantile(s, share)) if len(s) > 1 else "" for s in (theirs, mine)]
        yield [f"latency_s {name}", *cells, ""]


def _shown(metric: str, value: float | None) -> str:
    return "" if value is None else quantity(metric, value)


def _ratio(mine: dict[str, float], theirs: dict[str, float], name: str) -> str:
    a, b = mine.get(name), theirs.get(name)
    return f"{a / b:.3f}" if a is not None and b else ""


def _changed(study: Study, best: Trial) -> str:
    baseline = study.trials[0].point
    names = [k.name for k in study.recipe.space.knobs if best.point.get(k.name) != baseline.get(k.name)]
    if not names:
        return ""
    cells = [[n, *(value_text(p[n]) if n in p else "not active" for p in (baseline, best.point))] for n in names]
    title = "## What it does otherwise"
    table = _table(["knob", "number 0", f"number {best.number}"], cells)
    command = best.artifact.command if best.artifact else ()
    built = f"\n\nBuilt by:\n\n```\n{' '.join(command)}\n```" if command else ""
    return f"{title}\n\n{table}{built}"


def _limits(study: Study, best: Trial) -> str:
    goal, baseline = study.recipe.goal, study.trials[0]
    if not goal.limits:
        return ""
    mine, theirs = samples_of(best), samples_of(baseline)
    rows = []
    for limit in goal.limits:
        value, base = (limit.of(s[limit.metric]) if s.get(limit.metric) else None for s in (mine, theirs))
        holds = "holds" if limit.violation(value, base) == 0 else "**broken**"
        rows.append([limit.formula(base), _shown(limit.metric, base), _shown(limit.metric, value), holds])
    return f"## Limits\n\n{_table(['limit', 'number 0', f'number {best.number}', ''], rows)}"


def _front(study: Study) -> str:
    goal = study.recipe.goal
    if len(goal.objectives) < 2:
        return ""
    front = goal.front(study.trials, study.trials[0])
    header = ["number", *(o.metric for o in goal.objectives), "configuration"]
    rows = []
    for trial in front:
        values = [quantity(o.metric, o.of(samples_of(trial)[o.metric])) for o in goal.objectives]
        rows.append([str(trial.number), *values, changes(trial.point, study.trials[0].point)])
    return f"## Pareto front ({len(front)} points)\n\n{_table(header, rows)}"


def _importance(study: Study) -> str:
    shares = importance(study.recipe.space, study.recipe.goal.first, study.trials)
    if not shares:
        return ""
    rows = [[name, f"{100 * share:.1f} %"] for name, share in list(shares.items())[:SHOWN]]
    what = study.recipe.goal.first.metric
    return (
        f"## Knobs that matter\n\nThe share of the variation of log {what} that each knob "
        f"explains (functional ANOVA{_of_how_many(study)}).\n\n{_table(['knob', 'share'], rows)}"
    )


def _of_how_many(study: Study) -> str:
    """The forest sees a part of many trials."""
    return f" of {MOST} trials, spread evenly" if len(study.trials) > MOST else ""


def _failures(study: Study) -> str:
    failed = [t for t in study.trials if isinstance(t.outcome, Failed)]
    broken: Counter[str] = Counter()
    if study.baseline is not None:
        for trial in study.trials:
            if not isinstance(trial.outcome, Failed):
                broken.update(list(study.recipe.goal.violations(trial, study.baseline)))
    if not failed and not broken:
        return ""
    rows = []
    for (stage, reason), count in Counter((t.outcome.stage, t.outcome.reason) for t in failed).most_common():  # type: ignore[union-attr]
        example = next(t for t in failed if (t.outcome.stage, t.outcome.reason) == (stage, reason))  # type: ignore[union-attr]
        rows.append([f"{reason} ({stage})", str(count), f"{example.number}: {_first_words(example)}"])
    rows += [[f"breaks the limit on {metric}", str(count), ""] for metric, count in broken.most_common()]
    return f"## Trials that can't win\n\n{_table(['why', 'trials', 'for example'], rows)}"


def _first_words(trial: Trial) -> str:
    """The telling line of a log: the first that speaks of an error, else the first that is no command."""
    assert isinstance(trial.outcome, Failed)
    lines = [s for line in trial.outcome.log.splitlines() if (s := line.strip()) and not s.startswith("$ ")]
    told = next((s for s in lines if "error" in s.lower()), lines[0] if lines else "")
    return told[:120].replace("|", "\\|")


def _warnings(study: Study) -> str:
    """What spoils the comparison between trials, and what to do about it."""
    found = [*load_warning(study), *_drift_warnings(study), *_load_warnings(study)]
    return "## Warnings\n\n" + "\n".join(f"- {w}" for w in found) if found else ""


def load_warning(study: Study) -> Iterator[str]:
    """A verdict reached on a busy machine tells of the load as well as of the configuration."""
    if study.ending and study.ending.verdict and study.ending.load_pct > LOAD_PCT:
        yield (
            f"Others used {study.ending.load_pct:.0f} % of the machine while the winner was confirmed. Programs that "
            "use all cores suffer most from that, so the ratio tells of the load too. Confirm again on a quiet machine."
        )


def _drift_warnings(study: Study) -> Iterator[str]:
    metric = study.recipe.goal.first.metric
    if study.baseline is None or not (first := samples_of(study.baseline).get(metric)):
        return
    readings = {after: median(s[metric]) for after, s in study.drift if s.get(metric)}
    far = {after: value / median(first) - 1 for after, value in readings.items()}
    worst = max(far, key=lambda after: abs(far[after]), default=None)
    if worst is not None and abs(far[worst]) > DRIFT:
        yield (
            f"The machine drifted: the baseline's {metric}, read again after trial {worst}, had changed by "
            f"{100 * far[worst]:+.1f} %. Single trials compare that badly; the verdict, measured interleaved, does not."
        )


def _load_warnings(study: Study) -> Iterator[str]:
    loads = [v for t in study.trials for v in samples_of(t).get("foreign_load_pct", ())[:1]]
    busy = sum(v > LOAD_PCT for v in loads)
    if busy > len(loads) / 4:
        yield (
            f"Others used more than {LOAD_PCT:g} % of the machine during {busy} of {len(loads)} trials. Close what "
            "runs beside the search, or give it more time (measure=thorough)."
        )


def _effort(study: Study) -> str:
    trials = study.trials
    failed = sum(isinstance(t.outcome, Failed) for t in trials)
    same = sum(t.outcome.same_as is not None for t in trials)
    text = f"{len(trials)} trials: {len(trials) - failed} measured, {failed} failed."
    if same:
        text += f" {same} had the machine code of an earlier trial and took its result over without a run."
    seconds = study.ending.seconds if study.ending else {}
    rows = [[stage, duration(s)] for stage, s in seconds.items() if s >= 0.5]
    return f"## Effort\n\n{text}" + (f"\n\n{_table(['stage', 'time'], rows)}" if rows else "")


def _saved(study: Study) -> str:
    """What the search did not have to do."""
    found = savings(study.trials)
    if not found:
        return ""
    rows = [[s.what, str(s.trials), "" if s.seconds is None else duration(s.seconds), s.how] for s in found]
    return f"## What was saved\n\n{_table(['', 'trials', 'about', 'estimated by'], rows)}"


def _place(study: Study) -> str:
    environment = study.environment
    facts = environment.host
    rows = [["device", environment.device], ["driver", environment.driver], ["commit", environment.commit]]
    rows += [[name, version] for name, version in environment.compilers.items()]
    rows += [
        [name, _fact(name, facts[name])] for name in ("system", "cores", "memory_bytes", "governor") if facts.get(name)
    ]
    packages = facts.get("packages", {})
    rows += [["packages", ", ".join(f"{n} {v}" for n, v in packages.items())]] if packages else []
    return f"## Where it ran\n\n{_table(['', ''], [r for r in rows if r[1]])}"


def _fact(name: str, value: object) -> str:
    return quantity("peak_memory_bytes", float(value)) if name == "memory_bytes" else str(value)  # type: ignore[arg-type]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
