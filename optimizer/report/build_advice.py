"""Where compile time goes: what can be done about it? Rules, each with the figures that it rests on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optimizer.targets.profile import BuildProfile

MUCH = 0.4  # share of a unit's time that is worth an advice
LONG_S = 5.0  # a unit that takes so long is worth splitting


@dataclass(frozen=True, slots=True)
class Advice:
    unit: str
    evidence: str
    text: str


def advice(profiles: Sequence[BuildProfile]) -> list[Advice]:
    found = [item for profile in profiles for item in _of(profile)]
    return [*found, *_linking(profiles)]


def _of(profile: BuildProfile) -> Iterator[Advice]:
    for phase, text in _TEXTS.items():
        share = profile.share(phase)
        if share >= MUCH and profile.unit != "link":
            seconds = share * profile.total_s
            yield Advice(profile.unit, f"{phase}: {seconds:.2f} of {profile.total_s:.2f} s ({100 * share:.0f} %)", text)
    if profile.total_s > LONG_S and profile.compiler in ("g++", "clang++"):
        yield Advice(
            profile.unit,
            f"one unit of {profile.total_s:.1f} s",
            "Split it: the units of target.sources=[…] are compiled beside each other, and one that did not change is "
            "not compiled again.",
        )


_OPTIMISING = (
    "Optimisation is the work itself. Keep the code that knobs change apart from the rest, so that only it is "
    "optimised anew; full unrolling and inlining by force multiply it."
)
_TEXTS = {
    "headers": "Include less: only what is used, forward declarations in place of headers. What no knob touches "
    "belongs into target.support, which is compiled once.",
    "front end": "Templates and constant expressions cost most here: instantiate fewer, or move those that no knob "
    "changes into a unit of target.support.",
    "optimiser and code": _OPTIMISING,
    "optimiser": _OPTIMISING,
    "front end and NVVM": "Fewer headers and templates; NVRTC (space.compiler=nvrtc) starts no processes, and its "
    "--minimal (space.minimal=true) leaves out what small kernels don't need.",
    "ptxas": "The assembler works on what was unrolled: unroll less, or let threads keep less in registers; "
    "space.split_compile=0 lets it work on several functions at once.",
    "the rest": "Time outside the compiler's phases: processes, temporary files, imports. NVRTC in place of nvcc saves "
    "a fixed 0.2 s a build (experiments/compile); a torch model pays its first call here.",
    "C++ compiler": "Inductor waits for g++: more fusion and fewer graph breaks are fewer units.",
    "dynamo (Python to graph)": "Tracing is slow where much Python runs: static shapes (dynamic=false), no "
    "graph breaks.",
    "lowering": "Large graphs lower slowly: compile the block that repeats instead of the whole model.",
}
"""By phase."""


def _linking(profiles: Sequence[BuildProfile]) -> Iterator[Advice]:
    link_s = sum(p.total_s for p in profiles if p.unit == "link")
    total_s = sum(p.total_s for p in profiles)
    if total_s and link_s / total_s >= MUCH:
        yield Advice(
            "link",
            f"{link_s:.2f} of {total_s:.2f} s",
            "A faster linker (-fuse-ld=mold or lld among target.flags), and lto=false while searching other knobs.",
        )
