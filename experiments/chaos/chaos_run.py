"""Does a search survive whatever is killed, at any moment, and end as if nothing had been?

python experiments/chaos/chaos_run.py              (about half an hour: 200 kills, with an MLflow server)
python experiments/chaos/chaos_run.py --kills 12   (the short form that the tests run)

Writes result.json beside itself where all 200 were asked for, and prints it. It stops with a failed check where the
resumed search differs from an undisturbed one.
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

from optimizer.device import cpu_model, physical_cores

HERE = Path(__file__).parent
FULL = 200


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=FULL)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        result = run(Path(folder), given.kills, given.seed, server=True)
    text = json.dumps(result, indent=1)
    print(text)
    if given.kills >= FULL:
        (HERE / "result.json").write_text(text + "\n", encoding="utf-8")
    return 0


def run(folder: Path, kills: int, seed: int, *, server: bool) -> dict[str, Any]:
    """Raises AssertionError where anything was lost, repeated or different."""
    start_s = time.monotonic()
    with Chaos(folder / "killed", seed, server=server) as chaos:
        chaos.kill(kills)
        trials = chaos.finish()
        copied = in_mlflow(chaos.uri, trials)
    with Chaos(folder / "undisturbed", seed, server=False) as quiet:
        quiet.budget = len(trials)
        undisturbed = quiet.finish()
    compared(trials, undisturbed)
    return {
        "kills": dict(Counter(kind for kind, _ in chaos.killed)),
        "in": dict(Counter(where for _, where in chaos.killed)),
        "starts of the search": chaos.starts,
        "trials": len(trials),
        "failed trials": sum("failed" in trial for trial in trials),
        "runs in MLflow": copied,
        "seconds": round(time.monotonic() - start_s),
        "seed": seed,
        "processor": f"{cpu_model()}, {physical_cores()} cores",
        "load": os.getloadavg()[1],
    }


if __name__ == "__main__":
    raise SystemExit(main())
