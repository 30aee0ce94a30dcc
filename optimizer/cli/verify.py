"""The command verify: what an export promised, measured again on this machine."""

import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from optimizer.cli import FAILED
from optimizer.export.exported import Exported, exported_in
from optimizer.production.verify import Finding, Verification, verified
from optimizer.recipe import Confirm

SAID = {
    Finding.KEPT: "Kept",
    Finding.UNDECIDED: "Not shown to be broken",
    Finding.UNPROMISED: "No ratio was promised",
    Finding.BROKEN: "Broken",
}


def command(place: Path, rounds: int | None, seconds: float | None, *, as_json: bool) -> None:
    exported = exported_in(place)
    with tempfile.TemporaryDirectory(prefix="optimizer-verify-") as folder:
        found = verified(exported, Path(folder), time.perf_counter, confirm_of(exported, rounds, seconds))
    print(json.dumps(document(exported, found), ensure_ascii=False) if as_json else text(exported, found))
    if found.finding is Finding.BROKEN:
        raise SystemExit(FAILED)


def confirm_of(exported: Exported, rounds: int | None, seconds: float | None) -> Confirm:
    """As it was proved, but for what was asked otherwise."""
    confirm = exported.recipe.confirm
    return replace(confirm, rounds=rounds or confirm.rounds, max_seconds=seconds or confirm.max_seconds)


def document(exported: Exported, found: Verification) -> dict[str, object]:
    promised = exported.promise.verdict
    return {
        "study": exported.study,
        "finding": found.finding,
        "metric": found.metric,
        "promised": asdict(promised) if promised else None,
        "floor": exported.promise.floor,
        "measured": asdict(found.verdict) if found.verdict else None,
        "why": list(found.why),
        "notes": list(found.notes),
        "errors": dict(found.errors),
        "quality": dict(found.quality),
        "files": {kind: asdict(read) for kind, read in found.reads.items()},
        "load_pct": found.load_pct,
        "environment": (found.environment or exported.environment).document(),
    }


def text(exported: Exported, found: Verification) -> str:
    lines = [f"{SAID[found.finding]}: {exported.folder}, trial {exported.document['number']} of {exported.study}."]
    lines += [f"  broken: {why}" for why in found.why]
    promised, now = exported.promise.verdict, found.verdict
    if promised is not None and exported.promise.floor is not None:
        interval, floor = f"({promised.low:.3f} to {promised.high:.3f})", exported.promise.floor
        lines.append(f"  promised {promised.ratio:.3f}× in {found.metric} {interval}; at least {floor:.3f}×")
    if now is not None:
        lines.append(f"  measured {now.ratio:.3f}× ({now.low:.3f} to {now.high:.3f}, {now.rounds} interleaved rounds)")
    told = {**found.errors, **found.quality}
    if told:
        lines.append("  answers: " + ", ".join(f"{name} {value:.4g}" for name, value in told.items()))
    lines += [f"  {kind}: {read.how}" for kind, read in found.reads.items() if read.how and not read.broken]
    lines += [f"  not checked of {kind}: {read.unchecked}" for kind, read in found.reads.items() if read.unchecked]
    return "\n".join([*lines, *(f"  note: {note}" for note in found.notes)])
