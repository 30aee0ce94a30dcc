"""Does anything that is read from outside end in a crash instead of a clear error?

python experiments/fuzz/fuzz_run.py               (about ten minutes: 10^6 inputs)
python experiments/fuzz/fuzz_run.py --inputs 2000 (the short form that the tests run)

Writes result.json beside itself where all 10^6 were asked for, and prints it; what crashed is written to crashes/.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from entrances import Entrance, entrances
from mutation import mutated

from optimizer.device import cpu_model

HERE = Path(__file__).parent
FULL = 1_000_000
LONGEST_S = 20.0  # of one input, on a busy machine
PARTS = 20


@dataclass
class Found:
    """What came of the inputs of one entrance."""

    inputs: int = 0
    taken: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    crashes: dict[str, bytes] = field(default_factory=dict)  # where → an input

    def add(self, other: "Found") -> None:
        self.inputs, self.taken, self.refused = (
            self.inputs + other.inputs, self.taken + other.taken, self.refused + other.refused
        )  # fmt: skip
        self.seconds, self.slowest_s = self.seconds + other.seconds, max(self.slowest_s, other.slowest_s)
        self.crashes = {**other.crashes, **self.crashes}


class TooSlowError(Exception):
    """One input took longer than any may."""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=FULL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="the entrances whose name begins so")
    given = parser.parse_args(words)
    start_s = time.monotonic()
    found: dict[str, Found] = {}
    with ProcessPoolExecutor(2) as pool:
        parts = [pool.submit(part, given.inputs // PARTS, given.seed * PARTS + n, given.only) for n in range(PARTS)]
        for one in parts:
            for name, told in one.result().items():
                found.setdefault(name, Found()).add(told)
    result = _result(found, time.monotonic() - start_s, given.seed)
    print(json.dumps(result, indent=1))
    for name, told in found.items():
        for where, data in told.crashes.items():
            print(f"{name}: {where}\n    {data[:300]!r}", file=sys.stderr)
    if given.inputs >= FULL and not given.only:
        (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if any(told.crashes for told in found.values()) else 0


def part(inputs: int, seed: int, only: str = "") -> dict[str, Found]:
    """So many inputs, in this process, by entrance."""
    signal.signal(signal.SIGALRM, _too_slow)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        warnings.simplefilter("ignore")
        return {
            e.name: fuzzed(e, round(inputs * e.share), Random(f"{seed} {e.name}"))
            for e in entrances(Path(folder))
            if e.name.startswith(only)
        }


def fuzzed(entrance: Entrance, inputs: int, random: Random) -> Found:
    found = Found()
    for _ in range(inputs):
        data = mutated(entrance.seeds, random)
        start_s = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
        try:
            entrance.take(data)
            found.taken += 1
        except entrance.allowed:
            found.refused += 1
        except Exception as error:  # noqa: BLE001 - finding these is what this is for
            found.crashes.setdefault(_where(error), data)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        spent_s = time.perf_counter() - start_s
        found.inputs, found.seconds = found.inputs + 1, found.seconds + spent_s
        found.slowest_s = max(found.slowest_s, spent_s)
    return found


def _where(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "optimizer" in f.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].line}" if frames else "?"
    return f"{type(error).__name__} at {place}: {str(error)[:100]!a}"[:300]


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlowError(f"more than {LONGEST_S:g} s")


def _result(found: dict[str, Found], wall_s: float, seed: int) -> dict[str, Any]:
    return {
        "inputs": sum(f.inputs for f in found.values()),
        "crashes": sum(len(f.crashes) for f in found.values()),
        "seconds": round(wall_s),
        "seed": seed,
        "entrances": {
            name: {
                "inputs": f.inputs,
                "taken": f.taken,
                "refused": f.refused,
                "crashes": len(f.crashes),
                "seconds": round(f.seconds, 1),
                "slowest_ms": round(f.slowest_s * 1e3, 1),
            }
            for name, f in found.items()
        },
        "processor": cpu_model(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
