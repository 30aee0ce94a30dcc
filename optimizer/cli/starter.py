"""Which files does a user begin with, for a program, a C++ kernel or a torch model? A wish in, texts out."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from optimizer.config.command_lines import words_of
from optimizer.errors import ConfigError, nearest
from optimizer.metrics import METRICS, better, unit_of

KINDS = {
    "command": "a program that some commands build and another runs",
    "kernel": "a C++ kernel that includes harness.h",
    "torch": "a torch model, by a function that returns it",
}
STARTERS = Path(__file__).parent / "starters"
COMPILERS = ("g++", "gcc", "clang++", "clang", "c++", "cc", "nvcc")
SAMPLE_BUILD = "g++ program.cpp -o {out}/program"
SAMPLE_ANSWER = "sum 5.111584931e+06"


@dataclass(frozen=True)
class Wish:
    """What the user has said. build: the command, the kernel's source or FILE.py:FUNCTION; "" for a sample of ours.
    measure: wall, json:PATH or regex:PATTERN; unit: of what is read. sources: where the user's own files lie, as seen
    from the folder."""

    kind: str
    name: str
    folder: str
    sources: str = "."
    build: str = ""
    run: str = ""
    metric: str = "latency_s"
    measure: str = "wall"
    unit: str = ""


def files(wish: Wish) -> Mapping[str, str]:
    """The files by their path in the user's folder. Raises ConfigError for what can't be written down."""
    if wish.kind not in KINDS:
        raise ConfigError(f"--kind {wish.kind} is not known.{nearest(wish.kind, KINDS)}")
    if not wish.name.isidentifier():
        raise ConfigError(f"--name {wish.name}: write letters, digits and _, as in my_program.")
    if not wish.metric.isidentifier():
        raise ConfigError(
            f"--metric {wish.metric}: write a metric's name, as latency_s.{nearest(wish.metric, METRICS)}"
        )
    made = {"command": _command, "kernel": _kernel, "torch": _torch}[wish.kind](wish)
    return {**made, f"objective/{wish.name}.yaml": _text("objective.yaml", wish, direction=_direction(wish.metric))}


def _text(file: str, wish: Wish, **values: str) -> str:
    template = Template((STARTERS / file).read_text(encoding="utf-8"))
    return template.substitute(name=wish.name, folder=shlex.quote(wish.folder), metric=wish.metric, **values)


def _direction(metric: str) -> str:
    way = better(metric) or ("higher" if unit_of(metric) == "1/s" else "lower")
    return "minimize" if way == "lower" else "maximize"


def _command(wish: Wish) -> Mapping[str, str]:
    sample = not wish.build and not wish.run
    steps = _steps(SAMPLE_BUILD if sample else wish.build)
    run = _words("{out}/program" if sample else wish.run, "--run")
    if not run:
        raise ConfigError("--run is missing: how is the program run that --build builds? As in --run './program'.")
    if steps and not run[0].startswith("{") and "/" in run[0] and not Path(run[0]).is_absolute():
        run = ["{source}/" + run[0].removeprefix("./"), *run[1:]]  # as it lies in the copy that is built
    rust = any(step[0] == "cargo" for step in steps)
    flagged = [_flagged(step) for step in steps]
    taken = any("{flags}" in word for step in flagged for word in step)
    environment = (
        {} if taken or not steps else dict.fromkeys(["RUSTFLAGS"] if rust else ["CFLAGS", "CXXFLAGS"], "{flags}")
    )
    space = "command_rust_space.yaml" if rust else "command_space.yaml" if steps else "command_run_space.yaml"
    target = _text(
        "command_target.yaml",
        wish,
        text="a program to begin with" if sample else f"the program that is run by {shlex.join(run)}"[:90],
        source=_flow("source" if sample else wish.sources),
        build=_flow(flagged[0] if len(flagged) == 1 else flagged),
        build_environment=_flow(environment),
        program=_flow(run[0] if steps and run[0].startswith(("{out}/", "{source}/")) else None),
        run=_flow(run),
        metrics=_flow(_metrics(wish)),
        check=_flow({"text": SAMPLE_ANSWER, "tolerance": 1e-5} if sample else None),
    )
    made = {f"target/{wish.name}.yaml": target, f"space/{wish.name}.yaml": _text(space, wish)}
    return {**made, "source/program.cpp": (STARTERS / "program.cpp").read_text(encoding="utf-8")} if sample else made


def _steps(text: str) -> list[list[str]]:
    """The commands of a text as one types it: && between them."""
    steps: list[list[str]] = [[]]
    for word in _split(text, "--build"):
        if word == "&&":
            steps.append([])
        else:
            steps[-1].append(word)
    if steps == [[]]:
        return []
    return [list(words_of(list(step), "--build")) for step in steps]


def _words(text: str, option: str) -> list[str]:
    return list(words_of(list(_split(text, option)), option))


def _split(text: str, option: str) -> Sequence[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text}: {error}.") from None


def _flagged(step: Sequence[str]) -> list[str]:
    """The command with {flags} where such a command takes them; as it is where it names them already."""
    name, rest = Path(step[0]).name, list(step[1:])
    if any("{flags}" in word for word in step):
        return list(step)
    if name in COMPILERS:
        return [step[0], "{flags}", *rest]
    if name == "make":
        return [*step, "CFLAGS={flags}", "CXXFLAGS={flags}"]
    if name == "cmake" and "--build" not in rest:
        return [*step, "-DCMAKE_C_FLAGS={flags}", "-DCMAKE_CXX_FLAGS={flags}"]
    return list(step)


def _metrics(wish: Wish) -> Mapping[str, Mapping[str, str]]:
    way, _, where = wish.measure.partition(":")
    if way == "wall":
        usual = ("latency_s", "cpu_time_s", "peak_memory_bytes", "compile_time_s", "binary_bytes")
        if wish.metric not in usual:
            raise ConfigError(
                f"--metric {wish.metric} is not a run's wall time: say where the program prints it, with "
                "--measure json:PATH or --measure 'regex:PATTERN'."
            )
        return {}
    if way not in ("json", "regex") or not where:
        raise ConfigError(f"--measure {wish.measure}: write wall, json:PATH or regex:PATTERN.")
    return {wish.metric: {way: where, **({"unit": wish.unit} if wish.unit else {})}}


def _kernel(wish: Wish) -> Mapping[str, str]:
    source = _placed(wish) if wish.build else "kernel.cpp"
    made = {
        f"target/{wish.name}.yaml": _text(
            "kernel_target.yaml", wish, text=f"the kernel of {Path(source).name}", source=_flow(source)
        ),
        f"space/{wish.name}.yaml": _text("kernel_space.yaml", wish, source=source),
    }
    return made if wish.build else {**made, source: (STARTERS / "kernel.cpp").read_text(encoding="utf-8")}


def _placed(wish: Wish) -> str:
    """The user's file as seen from the folder; a module's name as it is."""
    is_file = "/" in wish.build or wish.build.partition(":")[0].endswith((".py", ".cpp", ".cc", ".cxx"))
    return (Path(wish.sources) / wish.build).as_posix() if is_file else wish.build


def _torch(wish: Wish) -> Mapping[str, str]:
    source = _placed(wish) if wish.build else "net.py:make"
    if ":" not in source:
        raise ConfigError(f"--build {source}: a torch model is named FILE.py:FUNCTION or package.module:FUNCTION.")
    made = {
        f"target/{wish.name}.yaml": _text(
            "torch_target.yaml", wish, text=f"the model that {source} returns", source=_flow(source)
        ),
        f"space/{wish.name}.yaml": _text("torch_space.yaml", wish),
    }
    return made if wish.build else {**made, "net.py": (STARTERS / "net.py.txt").read_text(encoding="utf-8")}


def _flow(value: object) -> str:
    """A value on one line of YAML: JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)
