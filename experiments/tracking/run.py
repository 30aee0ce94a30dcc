"""Does tracking hold at scale: an MLflow server on PostgreSQL, killed for half of a search's trials?

python experiments/tracking/run.py --trials 10000
python experiments/tracking/run.py --trials 300     (the size that the tests run)

Writes result.json beside itself from 1,000 trials on, and prints it.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from postgres import Cluster, programs

from optimizer.device import cpu_model, physical_cores
from optimizer.listeners.tracker import patience

HERE = Path(__file__).parent
KEPT = 1000


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="at least 100")
    parser.add_argument("--build-s", type=float, default=0.1, help="slept for a build, so that sending keeps up")
    given = parser.parse_args(words)
    if given.trials < 100:
        parser.error("--trials must be at least 100")
    if (found := programs()) is None:
        parser.error("PostgreSQL is not installed: apt-get install postgresql")
    sys.path.append(str(HERE.parent / "chaos"))  # whose server this is
    from at_scale import run

    patience()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # its servers end with it
    with tempfile.TemporaryDirectory(prefix="tracking-") as folder, Cluster(found) as cluster:
        result = run(Path(folder), cluster, given.trials, given.build_s)
    result |= {
        "processor": f"{cpu_model()}, {physical_cores()} cores",
        "load": os.getloadavg()[2],
        "date": date.today().isoformat(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.trials >= KEPT:
        (HERE / "result.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
