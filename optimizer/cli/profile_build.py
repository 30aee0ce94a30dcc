"""The profile-build command: where the compile time of a target goes, as tables or JSON."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

from optimizer.config import load
from optimizer.errors import ConfigError
from optimizer.report.build_advice import Advice, advice
from optimizer.targets.profile import BuildProfile, Part, profiles
from optimizer.trial import TrialError


def command(target: str, words: Sequence[str], folders: Sequence[Path], *, as_json: bool) -> None:
    """Raises ConfigError where the target can't work here or its baseline does not build."""
    with tempfile.TemporaryDirectory(prefix="optimizer-profile-") as folder:
        own = [f"target={target}", f"studies_dir={folder}", "study=profile", "tracking=none"]
        setup = load([*own, *words], folders, date.today())
        setup.made.prepare()
        try:
            found = profiles(setup.made.target, setup.recipe.start[0])
        except TrialError as error:
            raise ConfigError(
                f"The baseline of {target} does not build ({error.reason}); choose another with baseline.KNOB=VALUE."
                f"\n{error.log}"
            ) from None
    told = advice(found)
    print(json.dumps(_document(target, found, told)) if as_json else _text(found, told))


def _document(target: str, found: Sequence[BuildProfile], told: Sequence[Advice]) -> dict[str, object]:
    units = [{**asdict(profile), "total_s": profile.total_s} for profile in found]
    return {"target": target, "units": units, "advice": [asdict(item) for item in told]}


def _text(found: Sequence[BuildProfile], told: Sequence[Advice]) -> str:
    lines = []
    for profile in found:
        lines.append(f"{profile.unit}, {profile.compiler}: {profile.total_s:.2f} s")
        lines += [_row(part, profile.total_s) for part in profile.phases if len(profile.phases) > 1]
        for title, parts in (("dearest parts", profile.within), ("dearest headers", profile.headers)):
            if parts:
                lines += [f"  {title}", *(f"  {_row(part, profile.total_s)}" for part in parts)]
        lines.append("")
    lines += ["what to do", *(f"  {a.unit}, {a.evidence}\n    {a.text}" for a in told)] if told else []
    return "\n".join(lines).rstrip()


def _row(part: Part, total_s: float) -> str:
    return f"  {part.seconds:8.3f} s  {100 * part.seconds / total_s if total_s else 0:5.1f} %  {part.name}"
