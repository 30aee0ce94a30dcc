"""Do the programs that exported files are for read the winner in them? A line of the table for each kind of export.

Hashes tell that a file is as it was exported; this tells what a compiler, a shell, CMake or a server on this machine
makes of it. Where such a program is not here, that is said: what can't be checked is never counted as kept.
"""

import json
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from optimizer.config import composed
from optimizer.config.reopened import COMPILED, macros_in, words_in
from optimizer.errors import ConfigError
from optimizer.export.cmake import CMAKE
from optimizer.export.env import ENV, variables
from optimizer.export.exported import Exported
from optimizer.export.flags import FLAGS
from optimizer.export.header import HEADER
from optimizer.export.llama_server import ARGUMENTS
from optimizer.export.modelfile import MODELFILE
from optimizer.export.plain import PLAIN
from optimizer.export.serving import settings
from optimizer.export.shipment import Shipment
from optimizer.export.vllm import CONFIG
from optimizer.export.words import flags_of, macro_words
from optimizer.journal import Settings, Study
from optimizer.process import Done, run_tool
from optimizer.text import value_text
from optimizer.trial import Candidate, Check, Measured, Trial

PATIENCE_S = 120.0  # for a program to say what it reads: vLLM imports torch first
SPEED_ELSEWHERE = "how fast it serves: the ratio is that of target={kind}"


@dataclass(frozen=True)
class Read:
    """What became of one kind of file. `how`: what was checked; `broken`: what is read otherwise; `unchecked`: what
    can't be told here, "" for nothing."""

    how: str = ""
    broken: tuple[str, ...] = ()
    unchecked: str = ""


Reader = Callable[[Exported, Shipment, Path], Read]


def read_all(exported: Exported, folder: Path) -> Mapping[str, Read]:
    """By kind, in the order of the export; `folder`: an empty one to work in."""
    shipment = _shipment(exported)
    kinds = [str(kind) for kind in exported.document["formats"]]
    found = {}
    for kind in kinds:
        place = folder / kind
        place.mkdir(parents=True)
        known = READERS.get(kind)
        found[kind] = known(exported, shipment, place) if known else Read(unchecked="more than its hash")
    return found


def _shipment(exported: Exported) -> Shipment:
    """What was exported, as its exporters saw it, but for what was measured and built."""
    points = (exported.baseline, exported.point)
    trials = tuple(Trial(Candidate(i, p), Measured(Check(), {})) for i, p in enumerate(points))
    study = Study(exported.study, exported.recipe, exported.environment, trials, settings=Settings())
    return Shipment(study, trials[1], exported.target)


def _differs(name: str, found: object, wanted: object) -> tuple[str, ...]:
    return () if found == wanted else (f"{name} says {found}, and the winner is {wanted}",)


def _flags(exported: Exported, shipment: Shipment, folder: Path) -> Read:
    broken = _differs(FLAGS, words_in(exported.folder / FLAGS), flags_of(shipment))
    return Read(_compiled(exported, "its words are the winner's"), broken)


def _header(exported: Exported, shipment: Shipment, folder: Path) -> Read:
    wanted = macro_words(shipment.space, exported.point)
    broken = _differs(HEADER, sorted(macros_in(exported.folder / HEADER)), sorted(wanted))
    return Read(_compiled(exported, "its macros are the winner's"), broken)


def _compiled(exported: Exported, how: str) -> str:
    return f"{how}, and the winner was compiled with it" if exported.target.get("kind") in COMPILED else how


def _cmake(exported: Exported, shipment: Shipment, folder: Path) -> Read:
    """A project of one empty program that links the winner is configured and built."""
    cuda = shipment.kind == "cuda"
    needed = ["cmake", *(["nvcc"] if cuda else [])]
    if missing := [name for name in needed if shutil.which(name) is None]:
        return Read(unchecked=f"what CMake makes of it: {', '.join(missing)} is not installed")
    language, source = ("CUDA", "x.cu") if cuda else ("CXX", "x.cpp")
    (folder / source).write_text("int main() { return 0; }\n", encoding="utf-8")
    (folder / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.20)\nproject(x {language})\n"
        f"include([[{exported.folder.resolve() / CMAKE}]])\n"
        f"add_executable(x {source})\ntarget_link_libraries(x PRIVATE optimizer::winner)\n",
        encoding="utf-8",
    )
    words = ["-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", "-DCMAKE_BUILD_TYPE="]
    compiler = str(exported.point.get("compiler", ""))
    words += [f"-DCMAKE_CXX_COMPILER={compiler}"] if compiler and not cuda else []
    for command in (["cmake", "-S", ".", "-B", "build", *words], ["cmake", "--build", "build"]):
        done = _run(command, folder)
        if done.status != 0:
            return Read(broken=(f"CMake can't build with {CMAKE}: {_end(done)}",))
    (entry,) = json.loads((folder / "build/compile_commands.json").read_text(encoding="utf-8"))
    told, path = shlex.split(entry["command"]), str(exported.folder.resolve() / FLAGS)
    read = f"@{path}" in told or f"--options-file={path}" in told
    return Read("CMake compiled a program with it", () if read else (f"CMake does not pass {FLAGS} on: {told}",))


def _env(exported: Exported, shipment: Shipment, folder: Path) -> Read:
    script = 'set -a; . "$1"; env'
    done = _run(["/usr/bin/env", "-i", "/bin/sh", "-c", script, "sh", str(exported.folder.resolve() / ENV)], folder)
    if done.status != 0:
        return Read(broken=(f"a shell can't read {ENV}: {_end(done)}",))
    told = set(done.output.splitlines())
    missing = [f"{name}={value}" for name, value in variables(shipment).items() if f"{name}={value}" not in told]
    return Read("a shell read it", (f"a shell that reads {ENV} does not set {', '.join(missing)}",) if missing else ())


def _hydra(exported: Exported, shipment: Shipment, folder: Path) -> Read:
    try:
        tree = composed(["experiment=winner"], [exported.folder]).tree
    except ConfigError as error:
        return Read(unchecked=f"the experiment can't be composed here: {error}")
    (known,) = tree["known_good"]
    return Read("Hydra composed it to the winner", _differs("experiment/winner.yaml", known, dict(exported.point)))


def _json(exported: Exported, shipment: Shipment, folder: Path) -> Read:
    told = json.loads((exported.folder / PLAIN).read_text(encoding="utf-8"))
    broken = _differs(f"{PLAIN}'s point", told["point"], dict(exported.point))
    broken += _differs(f"{PLAIN}'s flags", told["flags"], flags_of(shipment))
    return Read("its point and flags are the winner's", broken)


def _model(exported: Exported, shipment: Shipment, folder: Path) -> Read:
    return Read("its load.py loaded what was measured")


def _program(exported: Exported, shipment: Shipment, folder: Path) -> Read:
    return Read(unchecked="more than its hash: what is measured was compiled anew")


def _llama_server(exported: Exported, shipment: Shipment, folder: Path) -> Read:
    words = shlex.split((exported.folder / ARGUMENTS).read_text(encoding="utf-8"))
    told = dict(zip(words[2::2], words[3::2], strict=True))
    broken = _differs(ARGUMENTS, told, settings(shipment, "llama_server").told)
    return _asked(("llama-server", "--help"), told, "", broken, exported, folder)


def _vllm(exported: Exported, shipment: Shipment, folder: Path) -> Read:
    import yaml

    told = yaml.safe_load((exported.folder / CONFIG).read_text(encoding="utf-8"))
    del told["model"]
    spelt = {name: value_text(value) for name, value in told.items()}
    broken = _differs(CONFIG, spelt, dict(settings(shipment, "vllm").told))
    return _asked(("vllm", "serve", "--help=all"), told, "--", broken, exported, folder)


def _asked(
    command: tuple[str, ...],
    names: Iterable[str],
    dashes: str,
    broken: tuple[str, ...],
    exported: Exported,
    folder: Path,
) -> Read:
    """Whether a server's own help knows the options."""
    elsewhere = SPEED_ELSEWHERE.format(kind=exported.target.get("kind"))
    own = "its words are the winner's"
    if shutil.which(command[0]) is None:
        return Read(own, broken, f"whether {command[0]} knows them, since it is not installed, and {elsewhere}")
    # Into a file: a help of hundreds of options is longer than what is kept of a program's words.
    done = _run(["/bin/sh", "-c", 'exec "$@" > help 2>&1', "sh", *command], folder)
    if done.status != 0:
        return Read(own, broken, f"whether {command[0]} knows them: `{' '.join(command)}` failed; and {elsewhere}")
    told = (folder / "help").read_text(encoding="utf-8", errors="replace")
    known = set(told.replace(",", " ").replace("=", " ").split())
    if unknown := [n for n in names if f"{dashes}{n}" not in known]:
        broken += (f"{command[0]} here has no {', '.join(unknown)}",)
    return Read(f"{own}, and {command[0]} here has these options", broken, elsewhere)


def _modelfile(exported: Exported, shipment: Shipment, folder: Path) -> Read:
    """Ollama makes a model of the file under a name that nobody has, tells its parameters, and removes it: no weights
    are copied for that."""
    wanted = dict(settings(shipment, "modelfile").told)
    lines = (exported.folder / MODELFILE).read_text(encoding="utf-8").splitlines()
    broken = _differs(
        MODELFILE, _parameters(x.removeprefix("PARAMETER ") for x in lines if x[:9] == "PARAMETER"), wanted
    )
    own = "its parameters are the winner's"
    if shutil.which("ollama") is None:
        return Read(own, broken, "what Ollama makes of it: ollama is not installed")
    name = f"optimizer-verify-{uuid4().hex[:12]}"
    made = _run(["ollama", "create", name, "-f", str(exported.folder.resolve() / MODELFILE)], folder)
    if made.status != 0:
        return Read(own, broken, f"what Ollama makes of it: `ollama create` failed: {_end(made)}")
    told = _run(["ollama", "show", name, "--parameters"], folder)
    gone = _run(["ollama", "rm", name], folder)
    found = _parameters(told.output.splitlines())
    broken += _differs("the model that Ollama makes of it", {n: found.get(n) for n in wanted}, wanted)
    return Read(
        f"{own}, and Ollama reads them so", broken, f"the model {name} is left: {_end(gone)}" if gone.status else ""
    )


def _parameters(lines: Iterable[str]) -> dict[str, str]:
    pairs = [line.split(None, 1) for line in lines]
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _run(command: Iterable[str], folder: Path) -> Done:
    return run_tool([*command], PATIENCE_S, folder)


def _end(done: Done) -> str:
    lines = done.output.strip().splitlines()
    return lines[-1] if lines else f"status {done.status}"


READERS: Mapping[str, Reader] = {
    "flags": _flags,
    "header": _header,
    "cmake": _cmake,
    "program": _program,
    "model": _model,
    "env": _env,
    "modelfile": _modelfile,
    "llama-server": _llama_server,
    "vllm": _vllm,
    "hydra": _hydra,
    "json": _json,
}
"""A new kind of export is a line here; a test holds the table to that of the exporters."""
