"""Does the floor that `doctor --noise` measures hold for the next measurement, and does it see a busy neighbour?

python experiments/noise/run.py [--repeats 6]    (about four minutes)

Writes result.json beside itself.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from optimizer.device import cpu_model, physical_cores

HERE = Path(__file__).parent
WORDS = ("measure.confirm.max_seconds=12",)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=6)
    repeats = parser.parse_args(words).repeats
    runs: dict[str, list[dict[str, Any]]] = {"alone": [], "beside a busy process": []}
    with tempfile.TemporaryDirectory(prefix="noise-") as folder:
        for _ in range(repeats):  # interleaved: what drifts, drifts for both
            runs["alone"].append(measured(Path(folder)))
            with busy():
                runs["beside a busy process"].append(measured(Path(folder)))
    result = {
        "processor": f"{cpu_model()}, {physical_cores()} cores",
        "load": round(os.getloadavg()[1], 1),
        **{name: summed(found) for name, found in runs.items()},
    }
    text = json.dumps(result, indent=1)
    print(text)
    (HERE / "result.json").write_text(text + "\n", encoding="utf-8")
    return 0


def measured(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "optimizer", "doctor", "--noise", "--json", *WORDS]
    own = (f"noise_file={folder / 'noise.json'}", f"build_cache.folder={folder / 'builds'}")
    done = subprocess.run([*command, *own], cwd=folder, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@contextmanager
def busy() -> Iterator[None]:
    """A process that keeps one processor busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def summed(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """within: ratios of a program over itself that lie within the floor of the run before."""
    pairs = list(pairwise(found))
    within = sum(abs(after["ratio"] - 1) * 100 <= before["floor_pct"] for before, after in pairs)
    return {
        "ratio": [round(f["ratio"], 4) for f in found],
        "floor_pct": [round(f["floor_pct"], 2) for f in found],
        "median floor_pct": round(median(f["floor_pct"] for f in found), 2),
        "load_pct": [round(f["load_pct"], 1) for f in found],
        "rounds": [f["rounds"] for f in found],
        "within": f"{within} of {len(pairs)}",
    }


if __name__ == "__main__":
    raise SystemExit(main())
