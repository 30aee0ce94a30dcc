"""What does a single study say? Its comparison, knobs, limits, front, failures and effort, as sections. Pure."""

from collections.abc import Iterator, Mapping

from optimizer.journal import Study
from optimizer.metrics import METRICS
from optimizer.report.blocks import Block, Bullets, Cell, Code, Section, table_of
from optimizer.report.data import Link, links
from optimizer.report.importance import MOST
from optimizer.report.noise import noise_warnings
from optimizer.report.savings import savings
from optimizer.report.verdict import floor_text, leader
from optimizer.stats import quantile
from optimizer.text import changes, duration, first_words, quantity, value_text
from optimizer.trial import Failed, Measured, Trial, metrics_of, quality_loss_pct, samples_of

SHOWN = 10  # rows of a table
SHOWN_FACTS = ("system", "cores", "memory_bytes", "governor", "turbo", "smt", "cpus", "nice", "virtual", "isolation")


def study_sections(study: Study, shares: Mapping[str, float]) -> list[Section]:
    """A study whose baseline was not measured has few. `shares`: the importance of its knobs."""
    found: list[Section | None] = []
    if study.baseline is not None:
        best = leader(study)
        found += [_comparison(study, best), _changed(study, best), _limits(study, best)]
        found += [_front(study), _importance(study, shares)]
    found += [_failures(study), _warnings(study), _effort(study), _saved(study), _place(study)]
    return [s for s in found if s is not None]


def _comparison(study: Study, best: Trial) -> Section:
    """Every metric that the catalogue knows, baseline against best."""
    baseline = study.trials[0]
    mine, theirs = metrics_of(best), metrics_of(baseline)
    rows: list[list[str | Cell]] = []
    for name in [n for n in METRICS if n in theirs or n in mine]:
        cells = [_shown(study, t, name, v.get(name)) for t, v in ((baseline, theirs), (best, mine))]
        rows.append([name, *cells, _ratio(mine, theirs, name)])
        if name == "latency_s":
            rows += list(_tails(study, best, baseline))
    if (loss := quality_loss_pct(best, baseline)) is not None:
        rows.append(["quality_loss_pct", "0.0 %", Cell(f"{loss:.2f} %", loss, (Link(study.name, best.number),)), ""])
    header = ("metric", "number 0", f"number {best.number}", "ratio")
    return Section(f"Trial {best.number} against the baseline (number 0)", (table_of(header, rows),))


def _tails(study: Study, best: Trial, baseline: Trial) -> Iterator[list[str | Cell]]:
    for name, share in (("p95", 0.95), ("p99", 0.99)):
        values = [(t, samples_of(t).get("latency_s", ())) for t in (baseline, best)]
        cells = [_shown(study, t, "latency_s", quantile(s, share) if len(s) > 1 else None) for t, s in values]
        yield [f"latency_s {name}", *cells, ""]


def _shown(study: Study, trial: Trial, metric: str, value: float | None) -> Cell:
    return Cell("") if value is None else Cell(quantity(metric, value), value, (Link(study.name, trial.number),))


def _ratio(mine: dict[str, float], theirs: dict[str, float], name: str) -> Cell:
    a, b = mine.get(name), theirs.get(name)
    return Cell(f"{a / b:.3f}", a / b) if a is not None and b else Cell("")


def _changed(study: Study, best: Trial) -> Section | None:
    baseline = study.trials[0].point
    names = [k.name for k in study.recipe.space.knobs if best.point.get(k.name) != baseline.get(k.name)]
    if not names:
        return None
    cells = [[n, *(value_text(p[n]) if n in p else "not active" for p in (baseline, best.point))] for n in names]
    blocks: list[Block] = [table_of(("knob", "number 0", f"number {best.number}"), cells)]
    if best.artifact and best.artifact.command:
        blocks += ["Built by:", Code(" ".join(best.artifact.command))]
    return Section("What it does otherwise", tuple(blocks))


def _limits(study: Study, best: Trial) -> Section | None:
    goal, baseline = study.recipe.goal, study.trials[0]
    if not goal.limits:
        return None
    mine, theirs = samples_of(best), samples_of(baseline)
    rows: list[list[str | Cell]] = []
    for limit in goal.limits:
        value, base = (limit.of(s[limit.metric]) if s.get(limit.metric) else None for s in (mine, theirs))
        holds = "holds" if limit.violation(value, base) == 0 else "**broken**"
        cells = [_shown(study, baseline, limit.metric, base), _shown(study, best, limit.metric, value)]
        rows.append([limit.formula(base), *cells, holds])
    return Section("Limits", (table_of(("limit", "number 0", f"number {best.number}", ""), rows),))


def _front(study: Study) -> Section | None:
    goal = study.recipe.goal
    if len(goal.objectives) < 2:
        return None
    front = goal.front(study.trials, study.trials[0])
    header = ["number", *(o.metric for o in goal.objectives), "configuration"]
    rows: list[list[str | Cell]] = []
    for trial in front:
        values = [_shown(study, trial, o.metric, o.of(samples_of(trial)[o.metric])) for o in goal.objectives]
        number = Cell(str(trial.number), trial.number, (Link(study.name, trial.number),))
        rows.append([number, *values, changes(trial.point, study.trials[0].point)])
    return Section(f"Pareto front ({len(front)} points)", (table_of(header, rows),))


def _importance(study: Study, shares: Mapping[str, float]) -> Section | None:
    if not shares:
        return None
    told = links(study, [t for t in study.trials if isinstance(t.outcome, Measured)])
    rows = [[Cell(name), Cell(f"{100 * share:.1f} %", share, told)] for name, share in list(shares.items())[:SHOWN]]
    what = study.recipe.goal.first.metric
    text = f"The share of the variation of log {what} that each knob explains (functional ANOVA{_of_how_many(study)})."
    return Section("Knobs that matter", (text, table_of(("knob", "share"), rows)))


def _of_how_many(study: Study) -> str:
    """The forest sees a part of many trials."""
    return f" of {MOST} trials, spread evenly" if len(study.trials) > MOST else ""


def _failures(study: Study) -> Section | None:
    by: dict[str, list[Trial]] = {}
    broken: dict[str, list[Trial]] = {}
    for trial in study.trials:
        if isinstance(trial.outcome, Failed):
            by.setdefault(f"{trial.outcome.reason} ({trial.outcome.stage})", []).append(trial)
        elif study.baseline is not None:
            for metric in study.recipe.goal.violations(trial, study.baseline):
                broken.setdefault(f"breaks the limit on {metric}", []).append(trial)
    if not by and not broken:
        return None
    rows = [
        [Cell(why), Cell(str(len(trials)), len(trials), links(study, trials)), Cell(example(trials[0]))]
        for why, trials in [*_most_first(by), *_most_first(broken)]
    ]
    return Section("Trials that can't win", (table_of(("why", "trials", "for example"), rows),))


def _most_first(by: Mapping[str, list[Trial]]) -> list[tuple[str, list[Trial]]]:
    return sorted(by.items(), key=lambda item: -len(item[1]))


def example(trial: Trial) -> str:
    """Its number and the telling words of its log; "" where it did not fail."""
    return f"{trial.number}: {first_words(trial.outcome.log)}" if isinstance(trial.outcome, Failed) else ""


def _warnings(study: Study) -> Section | None:
    found = noise_warnings(study)
    return Section("Warnings", (Bullets(tuple(found)),)) if found else None


def _effort(study: Study) -> Section:
    trials = study.trials
    failed = sum(isinstance(t.outcome, Failed) for t in trials)
    same = sum(t.outcome.same_as is not None for t in trials)
    text = f"{len(trials)} trials: {len(trials) - failed} measured, {failed} failed."
    if same:
        text += f" {same} had the machine code of an earlier trial and took its result over without a run."
    seconds = study.ending.seconds if study.ending else {}
    rows = [[Cell(stage), Cell(duration(s), s)] for stage, s in seconds.items() if s >= 0.5]
    return Section("Effort", (text, table_of(("stage", "time"), rows)) if rows else (text,))


def _saved(study: Study) -> Section | None:
    """What the search did not have to do."""
    found = savings(study.trials)
    if not found:
        return None
    rows = [[Cell(s.what), Cell(str(s.trials), s.trials), _time(s.seconds), Cell(s.how)] for s in found]
    return Section("What was saved", (table_of(("", "trials", "about", "estimated by"), rows),))


def _time(seconds: float | None) -> Cell:
    return Cell("") if seconds is None else Cell(duration(seconds), seconds)


def _place(study: Study) -> Section:
    environment = study.environment
    facts = environment.host
    rows = [["device", environment.device], ["driver", environment.driver], ["commit", environment.commit]]
    rows += [[name, version] for name, version in environment.compilers.items()]
    rows += [[name, _fact(name, facts[name])] for name in SHOWN_FACTS if facts.get(name) not in (None, "")]
    rows += [["noise", floor_text(study)]]
    packages = facts.get("packages", {})
    rows += [["packages", ", ".join(f"{n} {v}" for n, v in packages.items())]] if packages else []
    return Section("Where it ran", (table_of(("", ""), [r for r in rows if r[1]]),))


def _fact(name: str, value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{what} {how}" for what, how in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return quantity("peak_memory_bytes", float(value)) if name == "memory_bytes" else str(value)  # type: ignore[arg-type]
