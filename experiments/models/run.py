"""Is a search's winner faster than eager torch, and than every compile backend as it comes?

python experiments/models/run.py                     (mlp, conv, transformer, gemma3_270m; an hour on two quiet cores)
python experiments/models/run.py mlp --seconds 120   (one of them, searched for so long)
python experiments/models/run.py start               (what a worker costs beside loading the model)

A model is searched with --seconds, its winner then meets eager float32 and each backend's default in rounds of A B B A,
in processes started anew every round (optimizer/confirm.py), all at the winner's batch. A study that stands in --folder
is taken as it is, so what was interrupted goes on. Figures go into result.json beside this file, model by model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

from optimizer.config import load
from optimizer.confirm import Entrant, Match
from optimizer.device import cpu_model, physical_cores
from optimizer.executors.local import InlineExecutor
from optimizer.journal import Study, read
from optimizer.measure import LiveMeter, joined
from optimizer.space import Point, Space
from optimizer.stats import estimate, judge
from optimizer.study import Bench
from optimizer.trial import Candidate, Check, Measured, Trial, TrialError, metrics_of

HERE = Path(__file__).parent
RESULT = HERE / "result.json"
MODELS = ("mlp", "conv", "transformer", "gemma3_270m")
RIVALS = ("eager", "compile", "onnxruntime", "openvino")
START = "start"
STARTS = 15


def words_of(model: str, folder: Path) -> list[str]:
    return [f"target={model}", f"studies_dir={folder}", f"study={model}"]


def searched(model: str, folder: Path, seconds: float) -> Study:
    """The study, searched if it has not ended before; its winner is number 0 where none was proved better."""
    journal = folder / model / "journal.jsonl"
    study = read(journal) if journal.is_file() else None
    if study is None or study.ending is None:
        words = [*words_of(model, folder), f"budget.seconds={seconds}", *(["--resume"] if study else [])]
        subprocess.run([sys.executable, "-m", "optimizer", "search", *words], check=True)
        study = read(journal)
    return study


def default_of(backend: str, space: Space, winner: Point) -> Point:
    """A backend as it comes, on the winner's batch."""
    batch = {"batch": winner["batch"]} if "batch" in winner else {}
    return space.baseline({"backend": backend, **batch})


def compared(model: str, folder: Path, seconds: float, rounds: int, rounds_s: float) -> dict[str, Any]:
    study = searched(model, folder, seconds)
    winner = study.winner
    if winner is None or study.baseline is None:
        raise SystemExit(f"{model}: nothing could be measured; see {folder / model}.")
    setup = load(words_of(model, folder), (), date.today())
    setup.made.prepare()
    rivals = {b: default_of(b, study.recipe.space, winner.point) for b in RIVALS}
    clock = time.perf_counter
    recipe, device = setup.recipe, setup.made.device
    bench = Bench(
        setup.made.target, device, InlineExecutor(clock), LiveMeter(device, recipe.plan, recipe.goal, clock), clock
    )
    match = Match(recipe, bench)
    figures: dict[str, Any] = {}
    with closing(bench.executor), device.alone():
        mine = match.entrant(winner)
        if mine is None:
            raise SystemExit(f"{model}: the winner can't be built again.")
        for name, point in rivals.items():
            figures[name] = against(match, mine, point, rounds, rounds_s)
            print(model, name, json.dumps(figures[name]), flush=True)
    quality = {
        n: v for n, v in metrics_of(winner).items() if n in ("quality_loss_pct", "perplexity", "top1_agreement_pct")
    }
    return {
        "winner": dict(winner.point), "trials": len(study.trials), "search_s": seconds, "metric": match.metric,
        "judgement": study.ending.verdict.judgement if study.ending and study.ending.verdict else None,
        "quality": quality, "winner_is_faster_than": figures,
    }  # fmt: skip


def against(match: Match, mine: Entrant, point: Point, rounds: int, seconds: float) -> dict[str, Any]:
    """How many times as fast the winner is, with the interval that a verdict has; or why the rival does not run."""
    bench = match.bench
    try:
        artifact, _ = bench.executor.build(bench.target, point).result()
        rival = Entrant(Trial(Candidate(0, point), Measured(Check(), {}), artifact=artifact), artifact)
        found = match.played(mine, rival, rounds, seconds)
    except TrialError as error:
        return {"failed": str(error)[:200]}
    verdict = judge(found.gains, match.metric, mine.trial.number, match.recipe.confirm.min_gain)
    own, other = (
        estimate(joined(side)[match.metric]).median
        for side in ([r.mine for r in found.rounds], [r.theirs for r in found.rounds])
    )
    return {
        "ratio": verdict.ratio, "interval": [verdict.low, verdict.high], "rounds": len(found.gains),
        match.metric: {"winner": own, "rival": other}, "load_pct_of_others": found.load_pct,
    }  # fmt: skip


def started() -> dict[str, Any]:
    """Seconds from asking for a worker until it is ready, less those in which it loads its model."""
    with tempfile.TemporaryDirectory() as name:
        setup = load(words_of("mlp", Path(name)), (), date.today())
        setup.made.prepare()
        target = setup.made.target
        artifact = target.build(setup.recipe.start[0])
        costs = []
        for _ in range(STARTS + 1):
            start = time.perf_counter()
            with target.open(artifact) as runner:
                costs.append(time.perf_counter() - start - runner.facts["load_s"])
    found = estimate(costs[1:])  # the first finds nothing of the program in the processor's caches
    return {"median_s": found.median, "interval_s": [found.low, found.high], "n": found.n}


def kept(name: str, figures: Mapping[str, Any]) -> None:
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    place = {
        "processor": f"{cpu_model()}, {physical_cores()} cores", "date": date.today().isoformat(),
        "load_1min": os.getloadavg()[0],
    }  # fmt: skip
    known[name] = {**figures, "place": place}
    RESULT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(MODELS)} or {START}; all")
    parser.add_argument("--seconds", type=float, default=600.0, help="of each search")
    parser.add_argument("--rounds", type=int, default=10, help="of the winner against each rival")
    parser.add_argument("--rounds-seconds", type=float, default=120.0, help="after which no further round begins")
    parser.add_argument("--folder", type=Path, default=Path("studies"), help="of the studies")
    asked = parser.parse_args(argv)
    for name in asked.models or (*MODELS, START):
        if name not in (*MODELS, START):
            parser.error(f"there is no model '{name}'; it is one of {', '.join((*MODELS, START))}")
        figures = (
            started()
            if name == START
            else compared(name, asked.folder.resolve(), asked.seconds, asked.rounds, asked.rounds_seconds)
        )
        kept(name, figures)


if __name__ == "__main__":
    main()
