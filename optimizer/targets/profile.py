"""Where does the time of a build go? The compilers' own accounts, in one form: phases, and the dearest parts of each.

g++ tells by -ftime-report (CPU time), clang++ by -ftime-trace (wall time), NVRTC and nvcc by --time, torch.compile by
its own clocks. What headers cost is told by clang++; for g++ a unit of nothing but the source's includes is parsed.
"""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.errors import ConfigError
from optimizer.space import Point
from optimizer.targets.cuda.compile import FRONTEND, PTXAS, phase_rows
from optimizer.targets.cuda.target import CudaTarget
from optimizer.targets.native import NativeTarget
from optimizer.targets.torch.target import TorchTarget
from optimizer.trial import TrialError

MOST = 6  # parts that are named
_ROW = re.compile(
    r"^ (?P<name>[^:|\n]+?)\s*:\s*(?P<user>[\d.]+)\s*\(\s*\d+%\)\s*(?P<sys>[\d.]+)\s*\(\s*\d+%\)", re.MULTILINE
)
_DIRECTIVE = re.compile(r"\s*#\s*(include|define|if|ifdef|ifndef|endif|else|elif)\b")
_GXX_PHASES = {
    "phase setup": "front end",
    "phase parsing": "front end",
    "phase lang. deferred": "front end",
    "phase opt and generate": "optimiser and code",
    "phase last asm": "optimiser and code",
    "phase finalize": "optimiser and code",
    "phase stream in": "optimiser and code",
    "phase stream out": "optimiser and code",
}
_TORCH = {  # clock → what it holds of; each holds those after it
    "_compile.compile_inner": "dynamo (Python to graph)",
    "OutputGraph.call_user_compiler": "autograd and decompositions",
    "compile_fx_inner": "lowering",
    "GraphLowering.compile_to_module": "code generation",
}
_TORCH_COMPILER = ("async_compile.wait", "PyCodeCache.load_by_key_path")


@dataclass(frozen=True, slots=True)
class Part:
    """seconds: CPU time where the compiler tells that (g++), else wall time."""

    name: str
    seconds: float


@dataclass(frozen=True)
class BuildProfile:
    """unit: what was compiled; phases: of the compiler's time, one after the other; within: the dearest single parts,
    of whichever phase; headers: files by what they cost, each with those that it includes, where the compiler tells."""

    unit: str
    compiler: str
    command: tuple[str, ...]
    phases: tuple[Part, ...]
    within: tuple[Part, ...] = ()
    headers: tuple[Part, ...] = ()

    @property
    def total_s(self) -> float:
        return sum(p.seconds for p in self.phases)

    def share(self, name: str) -> float:
        """Of a phase, 0 to 1."""
        total = self.total_s
        return sum(p.seconds for p in self.phases if p.name == name) / total if total else 0.0


def profiles(target: object, point: Point) -> list[BuildProfile]:
    """One for each translation unit (then the link), kernel or model. Raises TrialError where the point does not
    build, ConfigError where the target builds nothing."""
    if isinstance(target, NativeTarget):
        return native_profiles(target, point)
    if isinstance(target, CudaTarget):
        return [cuda_profile(target, point)]
    if isinstance(target, TorchTarget):
        return [torch_profile(target, point)]
    raise ConfigError("Nothing is compiled for this target: there is no build to profile.")


def native_profiles(target: NativeTarget, point: Point) -> list[BuildProfile]:
    compiler = target.compiler(point)
    clang = "clang" in compiler.name
    flag = "-ftime-trace" if clang else "-ftime-report"
    words = [w for w in target.words(point) if not w.startswith("-flto")]  # it would move all the work to the link
    found, objects = [], []
    with tempfile.TemporaryDirectory(prefix="optimizer-profile-") as name:
        folder = Path(name)
        for source in target.sources:
            output = folder / f"{source.stem}.o"
            command = (compiler.path, *words, f"-I{target.include}", "-c", str(source), "-o", str(output))
            done = target.ran((*command, flag), folder)
            objects.append(str(output))
            if clang:
                found.append(clang_profile(json.loads(output.with_suffix(".json").read_text("utf-8")), source, command))
            else:
                headers_s = _headers_s(target, source, (compiler.path, *words), folder)
                found.append(gxx_profile(done.output, headers_s, source, command))
        done = target.ran(target.linking(point, [*words, *objects]), folder)
        found.append(BuildProfile("link", compiler.name, (), (Part("link", done.cpu_s),)))
    return found


def _headers_s(target: NativeTarget, source: Path, words: Sequence[str], folder: Path) -> float | None:
    """What g++ takes for the lines that include, and nothing else; None where they need what stands between them."""
    text = source.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if _DIRECTIVE.match(line)]
    unit = folder / "headers.cpp"
    unit.write_text("\n".join(line for line in lines if "\\" not in line) + "\n", encoding="utf-8")
    command = (*words, f"-I{target.include}", f"-I{source.parent}", "-fsyntax-only", str(unit))
    try:
        return target.ran(command, folder).cpu_s
    except TrialError:
        return None


def gxx_profile(report: str, headers_s: float | None, source: Path, command: tuple[str, ...]) -> BuildProfile:
    """Of the table that -ftime-report prints."""
    rows = {m["name"].strip(): float(m["user"]) + float(m["sys"]) for m in _ROW.finditer(report)}
    phases: dict[str, float] = defaultdict(float)
    for name, phase in _GXX_PHASES.items():
        phases[phase] += rows.get(name, 0.0)
    front_s, back = phases["front end"], Part("optimiser and code", phases["optimiser and code"])
    if headers_s is None:
        parts: tuple[Part, ...] = (Part("front end", front_s), back)
    else:
        headers_s = min(headers_s, front_s)
        parts = (Part("headers", headers_s), Part("front end", front_s - headers_s), back)
    single = {n: s for n, s in rows.items() if not n.startswith(("phase ", "callgraph ", "TOTAL", "|"))}
    return BuildProfile(source.name, "g++", command, parts, _dearest(single))


def clang_profile(trace: Mapping[str, Any], source: Path, command: tuple[str, ...]) -> BuildProfile:
    """Of the events that -ftime-trace writes."""
    events = trace["traceEvents"]
    totals = (e for e in events if e["name"].startswith("Total "))
    total = {e["name"].removeprefix("Total "): e["dur"] / 1e6 for e in totals}
    headers: dict[str, float] = {}
    for event in events:
        if event["name"] == "Source":
            name = event["args"]["detail"]
            headers[name] = max(headers.get(name, 0.0), event["dur"] / 1e6)
    front_s, back_s = total.get("Frontend", 0.0), total.get("Backend", 0.0)
    headers_s, optimiser_s = min(total.get("Source", 0.0), front_s), min(total.get("Optimizer", 0.0), back_s)
    parts = (
        Part("headers", headers_s),
        Part("front end", front_s - headers_s),
        Part("optimiser", optimiser_s),
        Part("code", back_s - optimiser_s),
    )
    single = {n: s for n, s in total.items() if n.endswith("Pass") and "Manager" not in n and "Adaptor" not in n}
    return BuildProfile(source.name, "clang++", command, parts, _dearest(single), _dearest(headers))


def cuda_profile(target: CudaTarget, point: Point) -> BuildProfile:
    """From CUDA C++ to PTX, from PTX to machine code, and what remains: processes, files, headers read twice."""
    artifact = target.build(point, fresh=True)
    rows = dict(phase_rows(artifact.log))
    facts = artifact.facts
    front_s, ptxas_s = facts.get("compile_frontend_s", 0.0), facts.get("compile_ptxas_s", 0.0)
    rest_s = max(0.0, facts["compile_time_s"] - front_s - ptxas_s)
    parts = (Part("front end and NVVM", front_s), Part("ptxas", ptxas_s), Part("the rest", rest_s))
    single = {n: s for n, s in rows.items() if n.startswith((*FRONTEND, *PTXAS))}
    return BuildProfile(target.source.name, artifact.command[0], artifact.command, parts, _dearest(single))


def torch_profile(target: TorchTarget, point: Point) -> BuildProfile:
    """By the clocks of torch.compile; a backend that has none is one phase."""
    artifact = target.build(point, fresh=True)
    notes = json.loads(artifact.log)
    clocks = {str(n): float(s) for n, s in notes.get("times", {}).items()}
    total_s = artifact.facts["compile_time_s"]
    if not clocks:
        return BuildProfile(target.task, str(point.get("backend", "eager")), (), (Part("compile", total_s),))
    return BuildProfile(target.task, "torch.compile", artifact.command, torch_phases(clocks, total_s), _dearest(clocks))


def torch_phases(clocks: Mapping[str, float], total_s: float) -> tuple[Part, ...]:
    """Nested clocks as phases one after the other; what none of them holds is imports, weights and first calls."""
    held = [(phase, clocks[name]) for name, phase in _TORCH.items() if name in clocks]
    compiler_s = max((clocks.get(name, 0.0) for name in _TORCH_COMPILER), default=0.0)
    inner = [seconds for _, seconds in held[1:]] + [compiler_s]
    parts = [Part(phase, max(0.0, s - i)) for (phase, s), i in zip(held, inner, strict=True)]
    outer_s = held[0][1] if held else 0.0
    return (*parts, Part("C++ compiler", compiler_s), Part("the rest", max(0.0, total_s - outer_s)))


def _dearest(seconds: Mapping[str, float]) -> tuple[Part, ...]:
    ordered = sorted(seconds.items(), key=lambda item: -item[1])[:MOST]
    return tuple(Part(name, s) for name, s in ordered if s > 0)
