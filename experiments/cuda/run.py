"""Does searching find faster CUDA configurations on this GPU, and is what it says true? One JSON result.

For each target: a search from the kernel's textbook tile, confirmed against it; the baseline against itself (A/A),
whose interval must hold 1; telemetry of the winner; and the exported winner, built from its files alone and measured
again.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimizer.device import chosen_gpus
from optimizer.errors import ConfigError

TELEMETRY = (
    "gpu_utilization_pct", "memory_utilization_pct", "gpu_memory_used_bytes", "peak_gpu_memory_bytes", "power_w",
    "energy_j", "temperature_c", "sm_clock_hz", "mem_clock_hz", "throttled_pct",
)  # fmt: skip
RATES = ("latency_s", "tokens_per_s", "achieved_flop_per_s", "achieved_bytes_per_s", "max_rel_error", "perplexity")


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("cuda-study"), help="the folder of studies and exports")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--targets", default="gemm_cuda,decoder_cuda")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cuda:0+1, …")
    parser.add_argument("--seed", type=int, default=0)
    found = parser.parse_args(words)
    try:
        devices = [g.describe() for g in chosen_gpus(found.device, {})] if found.device.startswith("cuda") else []
    except ConfigError as error:
        print(json.dumps({"skipped": str(error)}))
        return 0
    start = time.monotonic()
    study = Study(found.out.resolve(), found.device, found.trials, found.seed)
    result = {
        "device": [d.device for d in devices],
        "driver": devices[0].driver if devices else "",
        "host": dict(devices[0].host) if devices else {},
        "trials": found.trials,
        "seed": found.seed,
        "targets": {name: study.of(name) for name in found.targets.split(",")},
        "seconds": time.monotonic() - start,
    }
    text = json.dumps(result, indent=1, allow_nan=False)
    found.out.mkdir(parents=True, exist_ok=True)
    (found.out / "result.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if all(target["holds"] for target in result["targets"].values()) else 1


class Study:
    """The steps for one target, each a command that a user could type."""

    def __init__(self, out: Path, device: str, trials: int, seed: int) -> None:
        self._out, self._device, self._trials, self._seed = out, device, trials, seed
        self._where = [f"studies_dir={out / 'studies'}", f"device={device}"]

    def of(self, target: str) -> dict[str, Any]:
        words = [f"target={target}", f"seed={self._seed}"]
        searched = self._search(target, *words, f"budget.trials={self._trials}")
        itself = self._search(f"{target}-aa", *words, "budget.trials=1", "tracking=none")
        exported = self._exported(target, better=is_better(searched))
        found = summary(searched, itself, exported)
        return found | {"holds": all(found["checks"].values())}

    def _search(self, study: str, *words: str) -> dict[str, Any]:
        done = self._run("search", f"study={study}", *words, *self._where, "--json")
        document: dict[str, Any] = json.loads(done)
        return document

    def _exported(self, study: str, *, better: bool) -> dict[str, Any]:
        folder = self._out / "export" / study
        force = [] if better else ["--force"]
        self._run("export", study, self._where[0], "--out", str(folder), *force)
        return self._search(f"{study}-again", "--config-dir", str(folder), "experiment=winner", "tracking=none")

    def _run(self, *words: str) -> str:
        command = [sys.executable, "-m", "optimizer", *words]
        print(f"+ {' '.join(command)}", file=sys.stderr)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}\n{done.stdout}")
        return done.stdout


def is_better(document: dict[str, Any]) -> bool:
    return bool(document["verdict"]) and document["verdict"]["verdict"] == "better"


def summary(searched: dict[str, Any], itself: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
    """What is published of one target. `again`: the exported winner measured against the baseline anew."""
    best, baseline = searched["best"], searched["baseline"]
    verdict, aa = searched["verdict"], itself["verdict"]
    return {
        "verdict": verdict,
        "measured": searched["measured"],
        "failed": searched["failed"],
        "baseline": _chosen(baseline["metrics"], RATES),
        "best": {"number": best["number"], "point": best["point"], **_chosen(best["metrics"], RATES)},
        "telemetry": _chosen(best["metrics"], TELEMETRY),
        "aa": {name: aa[name] for name in ("ratio", "low", "high")},
        "exported": again["verdict"],
        "checks": {
            "nothing_wrong": searched["failed"].get("wrong", 0) == 0,
            "aa_holds_one": aa["low"] <= 1.0 <= aa["high"],
            "export_is_measured": again["measured"] == again["trials"],
            "export_repeats_the_proof": not is_better(searched) or is_better(again),
        },
        "seconds": searched["seconds"],
    }


def _chosen(metrics: dict[str, float], names: Sequence[str]) -> dict[str, float]:
    return {name: metrics[name] for name in names if name in metrics}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
