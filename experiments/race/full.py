"""The whole race: our strategies and everybody's, in batches, and with what is known from other devices.

    python experiments/race/full.py [--out FOLDER] [--only own,peers,slow,batches,transfer]

Runs what is missing (`python -m optimizer race` goes on from FOLDER/runs.jsonl), then writes result/ (result.json,
table.md, the curves) and the tables of the README beside this file. All of it takes hours on two cores; the slow peers
are repeated less often, as PARTS says. Needs the extra `race`.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimizer.cli.race import kept_runs, table
from optimizer.race import Run, Standings, geometric_mean, standings
from optimizer.readers.recording import key_of
from optimizer.report.curves import draw

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
Floats = NDArray[np.float64]

BUDGET = 200
CHECKPOINTS = (25, 50, 100, 200)

KERNEL_TUNER = (
    "random_sample", "minimize", "basinhopping", "diff_evo", "genetic_algorithm", "greedy_mls", "ordered_greedy_mls",
    "greedy_ils", "mls", "dual_annealing", "pso", "simulated_annealing", "firefly_algorithm", "hybrid_vndx",
    "adaptive_tabu_greywolf", "nsga2", "nsga3", "bayes_opt", "bayes_opt_repaired",
)  # fmt: skip


def files(*names: str, of: str) -> tuple[str, ...]:
    return tuple(f"experiments/race/{of}.py:{name}" for name in names)


PARTS: Mapping[str, Sequence[tuple[int, Sequence[str]]]] = {
    "own": [(20, ("auto", "genetic", "tpe", "random"))],
    "peers": [
        (20, files(*KERNEL_TUNER, of="kernel_tuner_peers")),
        (20, files("genetic", of="deap_peers")),
        (20, files("nsga2", "tpe_categorical", of="optuna_peers")),
    ],
    "slow": [
        (8, files("tpe_constrained", of="optuna_peers")),
        (5, files("tpe_ordinal", "cmaes", "gp", of="optuna_peers")),
        (2, files("gp_constrained", of="optuna_peers")),  # 0.4 to 0.7 s a point: hours
    ],
    "batches": [(10, ("auto@4", "auto@16"))],
    "transfer": [(8, files("siblings", "sibling", "misled", "shuffled", of="transfer"))],
}
"""Part → repeats and strategies. What asks for seconds is repeated less often."""

DRAWN = (
    "auto", "genetic", "tpe", "random", *files("bayes_opt_repaired", "hybrid_vndx", of="kernel_tuner_peers"),
    *files("tpe_categorical", of="optuna_peers"),
)  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("--out", type=Path, default=ROOT / "race")
    words.add_argument("--only", default=",".join(PARTS), help="parts to run; none: only the summary")
    given = words.parse_args()
    for part in filter(None, given.only.split(",")):
        for repeats, strategies in PARTS[part]:
            run(strategies, repeats, given.out)
    write(given.out)


def run(strategies: Sequence[str], repeats: int, out: Path) -> None:
    data = sorted(map(str, (HERE / "data").glob("*.json.gz")))
    if any("transfer.py:" in name for name in strategies):
        data = [d for d in data if related(key_of(Path(d)), [key_of(Path(o)) for o in data])]
    words = [
        "--strategies",
        ",".join(strategies),
        "--budget",
        str(BUDGET),
        "--repeats",
        str(repeats),
        "--out",
        str(out),
    ]
    subprocess.run(
        [sys.executable, "-m", "optimizer", "race", *data, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


def write(out: Path) -> None:
    wanted = {name: repeats for part in PARTS.values() for repeats, names in part for name in names}
    runs = [r for r in kept_runs(out / "runs.jsonl") if r.strategy in wanted and len(r.curve) == BUDGET]
    runs = [r for r in runs if r.seed < wanted[r.strategy]]
    found = dict(sorted(standings(runs).items()))
    everywhere = [n for n in wanted if all(n in by for by in found.values())]
    known = [n for n in wanted if any(n in by for by in found.values())]
    result = HERE / "result"
    result.mkdir(exist_ok=True)
    document = {space: {n: by[n].document() for n in known if n in by} for space, by in found.items()}
    (result / "result.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (result / "table.md").write_text(short(table(found, everywhere, CHECKPOINTS)), encoding="utf-8")
    parts = {
        "overall": overall(found, everywhere),
        "against": against(found, everywhere, runs),
        "devices": devices(found, known),
    }
    text = (HERE / "README.md").read_text(encoding="utf-8")
    for part, lines in parts.items():
        before, _, rest = text.partition(f"<!-- {part} -->\n")
        text = f"{before}<!-- {part} -->\n{short(lines)}<!-- end -->{rest.partition('<!-- end -->')[2]}"
    (HERE / "README.md").write_text(text, encoding="utf-8")
    draw(found, [n for n in DRAWN if n in everywhere], result)
    print(f"Written: {result}, and the tables of {HERE / 'README.md'}.")


def related(space: str, spaces: Sequence[str]) -> bool:
    """Whether the same kernel was recorded on another device."""
    return sum(s.partition("-")[0] == space.partition("-")[0] for s in spaces) > 1


def short(text: str) -> str:
    for file, name in (("kernel_tuner_peers", "kt"), ("optuna_peers", "optuna"), ("deap_peers", "deap")):
        text = text.replace(f"experiments/race/{file}.py:", f"{name}:")
    return text.replace("experiments/race/transfer.py:", "auto + ")


def overall(found: Standings, known: Sequence[str]) -> str:
    """Every strategy, the best at 50 evaluations first."""
    lines = ["| strategy | repeats | at 25 | at 50 | at 100 | at 200 | ask ms |", "|" + " --- |" * 7]
    ranked = sorted(known, key=lambda n: geometric_mean(found, n, 50) or np.inf)
    for name in ranked:
        means = [f"{geometric_mean(found, name, n):.3f}" for n in CHECKPOINTS]
        ask_ms = np.median([by[name].ask_ms for by in found.values()])
        repeats = min(by[name].repeats for by in found.values())
        lines.append(f"| {name} | {repeats} | {' | '.join(means)} | {ask_ms:.1f} |")
    return "\n".join(lines) + "\n"


def against(found: Standings, known: Sequence[str], runs: Sequence[Run]) -> str:
    """`auto` against the best of all peers on each space, and the interval of the difference of their means."""
    peers = [n for n in known if "_peers.py:" in n]
    lines = [
        "| space | evaluations | auto | best peer | which | difference (95%) | auto is |",
        "|" + " --- |" * 7,
    ]
    curves = {(r.space, r.strategy, r.seed): r.curve for r in runs}
    for space, by in found.items():
        for n in (50, 100):
            best = min(peers, key=lambda p: by[p].mean[n - 1])
            ours, theirs = (
                np.array([c[n - 1] for (s, name, _), c in curves.items() if s == space and name == which])
                for which in ("auto", best)
            )
            low, high = difference(ours, theirs)
            told = "ahead" if high < 0 else "behind" if low > 0 else "not told apart"
            means = f"{ours.mean():.3f} | {theirs.mean():.3f} | {best}"
            lines.append(f"| {space} | {n} | {means} | {low:+.3f} to {high:+.3f} | {told} |")
    return "\n".join(lines) + "\n"


def difference(a: Floats, b: Floats) -> tuple[float, float]:
    """A bootstrapped 95% interval of the difference of two means (percentiles)."""
    rng = np.random.default_rng(0)
    drawn = [rng.choice(x, (2000, len(x))).mean(axis=1) for x in (a, b)]
    low, high = np.quantile(drawn[0] - drawn[1], (0.025, 0.975))
    return float(low), float(high)


def devices(found: Standings, known: Sequence[str]) -> str:
    """What a prior from the other devices is worth, kernel by kernel, where there are other devices."""
    names = [n for n in ("auto", *files("siblings", "sibling", "misled", "shuffled", of="transfer")) if n in known]
    kin = {space: by for space, by in found.items() if related(space, list(found)) and all(n in by for n in names)}
    if not kin:
        return ""
    lines = [f"| space | evaluations | {' | '.join(names)} |", "|" + " --- |" * (len(names) + 2)]
    for space, by in kin.items():
        for n in (10, 25, 50):
            means = [f"{by[name].mean[n - 1]:.3f}" for name in names]
            lines.append(f"| {space} | {n} | {' | '.join(means)} |")
    for n in (10, 25, 50, 100):
        means = [f"**{geometric_mean(kin, name, n):.3f}**" for name in names]
        lines.append(f"| **geometric mean** | {n} | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
