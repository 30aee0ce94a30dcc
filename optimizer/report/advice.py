"""What should be done? Recommendations that follow from findings by the rules stated here, and from nothing else."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from optimizer.report.finding import Finding
from optimizer.stats import FEWEST

Numbered = Mapping[str, Finding]
"""Findings by the name under which they are shown: F1, D2, …"""


@dataclass(frozen=True)
class Advice:
    """`rule` says when the advice is given, `because` names the findings that it follows from."""

    text: str
    rule: str
    because: tuple[str, ...]


def advice(found: Numbered) -> list[Advice]:
    """In the order of the rules; equal texts are given once, with all their reasons."""
    merged: dict[tuple[str, str], list[str]] = {}
    for rule in RULES:
        for one in rule(found):
            merged.setdefault((one.text, one.rule), []).extend(one.because)
    return [Advice(text, rule, tuple(dict.fromkeys(because))) for (text, rule), because in merged.items()]


def _of(found: Numbered, *kinds: str) -> list[tuple[str, Finding]]:
    return [(n, f) for n, f in found.items() if f.kind in kinds]


def _figure(finding: Finding, name: str) -> float | None:
    value = finding.test.figures.get(name)
    return float(value) if isinstance(value, int | float) else None


def _fastest(found: Numbered) -> Iterator[Advice]:
    rule = "an option whose interval lies above 1 and that nothing spoils is used; the one with the largest lower bound"
    for name, finding in _of(found, "option"):
        spoilt = _spoilt(found, finding)
        sure = [o for o in finding.about["sure"].split(", ") if o and (_figure(finding, f"{o}_gain_low") or 0) > 1]
        clean = [o for o in sure if not any(o in names for names in spoilt.values())]
        study, base = finding.about["study"], finding.about["base"]
        if clean:
            best = max(clean, key=lambda o: _figure(finding, f"{o}_gain_low") or 0)
            after = _figure(finding, f"{best}_earned_back_after")
            when = f" where more than {after:,.0f} inferences follow a compilation" if after else ""
            yield Advice(
                f"Use {best} for {study}: {_figure(finding, f'{best}_gain') or 0:.3g} times as fast as "
                f"{base}, at least "
                f"{_figure(finding, f'{best}_gain_low') or 0:.3g}{when}.",
                rule,
                (name,),
            )
        elif sure:
            reasons = [n for n, names in spoilt.items() if any(o in names for o in sure)]
            yield Advice(
                f"Don't choose {', '.join(sure)} for {study} by these numbers yet: see {', '.join(reasons)}.",
                "a faster option that something spoils is measured again first",
                (name, *reasons),
            )
        elif finding.test.holds:
            yield Advice(f"Stay with {base} for {study}: nothing measured there is faster.", rule, (name,))


def _spoilt(found: Numbered, finding: Finding) -> dict[str, str]:
    """What spoils options of a study: finding's name → the options."""
    kinds = ("wrong-device", "other-precision")
    return {
        n: f.about.get("option", "") for n, f in _of(found, *kinds) if f.about.get("study") == finding.about["study"]
    }


def _warmup(found: Numbered) -> Iterator[Advice]:
    for name, finding in _of(found, "warmup-in-mean", "slow-first"):
        yield Advice(
            f"Measure {finding.about['study']} again with the first runs left out, and keep the single "
            "readings; until then compare "
            "smallest readings or medians, not means.",
            "a mean that holds the warm-up is not compared",
            (name,),
        )


def _cold(found: Numbered) -> Iterator[Advice]:
    for name, finding in _of(found, "cold-load-mistaken"):
        yield Advice(
            f"Don't choose `{finding.about['knob']}` by {finding.about['metric']}.",
            "a knob whose slow value holds all cold loads is not judged by what has the load inside",
            (name,),
        )
    for name, finding in _of(found, "cold-load"):
        context = finding.about.get("context")
        if context:
            yield Advice(
                f"Send a request that is not timed after each change of {context}, and report load_s "
                "apart from ttft_s.",
                "cold loads that follow a change of the context are warmed away",
                (name,),
            )


def _failed(found: Numbered) -> Iterator[Advice]:
    for name, finding in _of(found, "failure"):
        option, of, failed = finding.about["option"], _figure(finding, "of"), _figure(finding, "failed")
        if option and of == failed:
            yield Advice(
                f"Mend or leave out {option}: it never worked there ({finding.about['words'][:80]}).",
                "an option that failed in every run is mended or left out",
                (name,),
            )


def _knobs(found: Numbered) -> Iterator[Advice]:
    blocks = {f.about["study"]: (n, f.about["knob"]) for n, f in _of(found, "blocks")}
    for name, finding in _of(found, "knob"):
        study = finding.about["study"]
        blocked, of = blocks.get(study, ("", ""))
        for knob in filter(None, finding.about["sure"].split(", ")):
            if knob in of.split(", "):
                yield Advice(
                    f"Measure `{knob}` of {study} again in random order before using what it seems to do.",
                    "an effect of a knob that was varied in blocks is measured again",
                    (name, blocked),
                )
        idle = finding.about["idle"]
        first = all(
            finding.about["metric"] == f.about["metric"] for _, f in _of(found, "knob") if f.about["study"] == study
        )
        if idle and (first or finding.about["metric"] != "ttft_s"):
            names = ", ".join(f"`{k}`" for k in idle.split(", "))
            yield Advice(
                f"Leave {names} as they are in {study}: no effect on {finding.about['metric']} is seen.",
                "a knob without a visible effect is not searched further",
                (name,),
            )


def _again(found: Numbered) -> Iterator[Advice]:
    texts: dict[str, tuple[str, str]] = {
        "wrong-device": (
            "Run ONNX Runtime on the GPU (onnxruntime-gpu with CUDAExecutionProvider) before comparing it there.",
            "an option that ran on another device than its neighbours is measured again",
        ),
        "other-precision": (
            "Record the error against the reference beside the speed of whatever computes in a lower precision.",
            "a gain in another precision needs the error that it costs",
        ),
        "unequal-work": (
            "Fix the number of generated tokens and the seed.",
            "answers of different length are made equal before times are compared",
        ),
        "timeouts": (
            "Run what timed out again on a quiet machine, and the run after it.",
            "time-outs are repeated, not interpreted",
        ),
        "too-few": (
            f"Take at least {FEWEST} readings of a configuration.",
            f"fewer than {FEWEST} readings give no interval",
        ),
        "unstated-n": (
            "Write down how many readings a mean is of.",
            "a mean without its number of readings gives no interval",
        ),
        "unnamed-device": (
            "Write down processor, GPU, driver and versions with each run.",
            "studies that don't say where they ran",
        ),
    }
    for kind, (text, rule) in texts.items():
        for name, _ in _of(found, kind):
            yield Advice(text, rule, (name,))
    for name, finding in _of(found, "missing-metrics"):
        yield Advice(
            f"Record {finding.about['metrics']} where they matter.", "metrics that no run has are recorded", (name,)
        )


RULES: Sequence[Callable[[Numbered], Iterator[Advice]]] = (_fastest, _warmup, _cold, _failed, _knobs, _again)
