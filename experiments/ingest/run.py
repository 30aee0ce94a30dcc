"""How long does it take to ingest 1,000 benchmark files, with MLflow and without? Prints one JSON object.

    python experiments/ingest/run.py [FILES]

The files are those of tests/data/chimera and tests/data/benchmarks, again and again; each ends with another number of
line breaks, so that no two are the same study. Each measurement is the command as people start it, in a new process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from itertools import cycle
from pathlib import Path

from optimizer.device import cpu_model, physical_cores

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "tests" / "data"
FILES = 1000


def made(folder: Path, count: int) -> None:
    """`count` files, of which a few are of no known kind, as in the folders that they come from."""
    sources = [p for name in ("chimera", "benchmarks") for p in sorted((DATA / name).iterdir()) if p.is_file()]
    folder.mkdir()
    for number, source in zip(range(count), cycle(sources), strict=False):
        ending = b"\n" * (1 + number // len(sources))
        (folder / f"{number:04d}_{source.name}").write_bytes(source.read_bytes() + ending)


def timed(words: Sequence[str], cwd: Path) -> tuple[dict[str, float], str]:
    """CPU and wall-clock seconds of a command with all that it started; what it printed."""
    before, start_s = os.times(), time.monotonic()
    command = [sys.executable, "-m", "optimizer", "ingest", *words, "--json"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    spent, after = time.monotonic() - start_s, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"cpu_s": round(cpu, 2), "wall_s": round(spent, 2)}, done.stdout


def main(words: Sequence[str]) -> None:
    count = int(words[0]) if words else FILES
    with tempfile.TemporaryDirectory(prefix="ingest-") as place:
        folder = Path(place)
        made(folder / "files", count)
        timings = {}
        timings["journals alone"], told = timed(["files", "tracking=none", "studies_dir=none"], folder)
        timings["the same files again"], _ = timed(["files", "tracking=none", "studies_dir=none"], folder)
        made(folder / "one", 2)  # one of them of no known kind
        timings["one file, with a new MLflow store"], _ = timed(["one", "studies_dir=studies"], folder)
        timings["journals and MLflow, a store that is there"], _ = timed(["files", "studies_dir=studies"], folder)
        timings["the same files again, with MLflow"], _ = timed(["files", "studies_dir=studies"], folder)
        files = json.loads(told)["files"]
        store_bytes = (folder / "studies" / "mlflow.db").stat().st_size
    result = {
        "files": count,
        "studies": sum(f["study"] is not None for f in files),
        "trials": sum(f["trials"] for f in files),
        "store_bytes": store_bytes,
        **timings,
        "processor": f"{cpu_model()}, {physical_cores()} cores",
        "load": round(os.getloadavg()[0], 1),
        "date": date.today().isoformat(),
    }
    print(json.dumps(result, indent=1))
    if count == FILES:
        (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
