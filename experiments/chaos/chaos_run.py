"""Does a search survive whatever is killed, at any moment, and end as if nothing had been?

python experiments/chaos/chaos_run.py              (about half an hour: 200 kills, with an MLflow server)
python experiments/chaos/chaos_run.py --go-on      (the same, after the rounds that rounds.jsonl has already)
python experiments/chaos/chaos_run.py --kills 12   (the short form that the tests run)

A round is a study of its own, with a seed and a strategy of its own. Where all 200 kills were asked for, each round is
appended to rounds.jsonl beside this file as it ends, and result.json sums up those that are there. It stops with a
failed check where a resumed search differs from an undisturbed one.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chaos import Chaos, compared, in_mlflow

from optimizer.device import commit, cpu_model, physical_cores

HERE = Path(__file__).parent
FULL = 200
ROUND = 25  # kills; so many that every kind comes, so few that programs are left to compile
STRATEGIES = ("auto", "genetic", "random", "tpe")
COUNTED = ("starts of the search", "trials", "failed trials", "runs in MLflow", "seconds")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=FULL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--go-on", action="store_true")
    given = parser.parse_args(words)
    whole, record = given.kills >= FULL, HERE / "rounds.jsonl"
    rounds = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()] if given.go_on else []
    if whole and not rounds:
        record.write_text("", encoding="utf-8")
    while (done := sum(sum(r["kills"].values()) for r in rounds)) < given.kills:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            seed = given.seed + len(rounds)
            found = run(Path(folder), min(ROUND, given.kills - done), seed, STRATEGIES[seed % len(STRATEGIES)])
        rounds.append(found)
        print(json.dumps(found), flush=True)
        if whole:
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            (HERE / "result.json").write_text(json.dumps(summed(rounds), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summed(rounds), indent=1))
    return 0


def run(folder: Path, kills: int, seed: int, strategy: str) -> dict[str, Any]:
    """A round. Raises AssertionError where anything was lost, repeated or different."""
    start_s = time.monotonic()
    with Chaos(folder / "killed", seed, strategy, server=True) as chaos:
        chaos.kill(kills)
        trials = chaos.finish()
        copied = in_mlflow(chaos.uri, trials)
    with Chaos(folder / "undisturbed", seed, strategy, server=False) as quiet:
        quiet.budget = len(trials)
        undisturbed = quiet.finish()
    compared(trials, undisturbed)
    return {
        "seed": seed,
        "strategy": strategy,
        "kills": dict(Counter(kind for kind, _ in chaos.killed)),
        "in": dict(Counter(where for _, where in chaos.killed)),
        "starts of the search": chaos.starts,
        "trials": len(trials),
        "failed trials": sum("failed" in trial for trial in trials),
        "runs in MLflow": copied,
        "seconds": round(time.monotonic() - start_s),
        "processor": f"{cpu_model()}, {physical_cores()} cores",
        "load": round(os.getloadavg()[1], 1),
        "commit": commit(),
    }


def summed(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All rounds together."""
    return {
        "rounds": len(rounds),
        **{name: dict(sum((Counter(r[name]) for r in rounds), Counter())) for name in ("kills", "in")},
        **{name: sum(r[name] for r in rounds) for name in COUNTED},
        "strategies": dict(Counter(r["strategy"] for r in rounds)),
        "processor": rounds[-1]["processor"],
        "load": [min(r["load"] for r in rounds), max(r["load"] for r in rounds)],
    }


if __name__ == "__main__":
    raise SystemExit(main())
