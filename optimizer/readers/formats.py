"""Which kind of benchmark file is this, and what is in it? A new kind is one line here and its file."""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.errors import MALFORMED
from optimizer.objective import Objective
from optimizer.readers import chimera_csv, chimera_json, chimera_markdown
from optimizer.readers.benchmark import Benchmark, Content
from optimizer.readers.google_benchmark import google_benchmark, is_google_benchmark
from optimizer.readers.hyperfine import hyperfine, is_hyperfine
from optimizer.readers.kernel_tuner import kernel_tuner_trials
from optimizer.readers.llama_bench import is_llama_bench, llama_bench
from optimizer.readers.optimum_benchmark import is_optimum_benchmark, optimum_benchmark
from optimizer.readers.pytest_benchmark import is_pytest_benchmark, pytest_benchmark
from optimizer.readers.t4 import t4_trials
from optimizer.space import Json


class UnknownFileError(Exception):
    """No reader knows it. The message says what it looks like."""


class DamagedFileError(Exception):
    """A file that can't be read, or that looks like a known kind and is not. The message says why."""


@dataclass(frozen=True)
class Format:
    what: str
    known: Callable[[Content], bool]
    read: Callable[[Content], Benchmark]


def _is_kernel_tuner(content: Content) -> bool:
    return isinstance(content.document, dict) and {"cache", "tune_params"} <= content.document.keys()


def _kernel_tuner(content: Content) -> Benchmark:
    told = content.document
    size = told.get("problem_size")
    work = f"kernel {told.get('kernel_name', 'without a name')}" + (f", problem size {size}" if size else "")
    trials = tuple(kernel_tuner_trials(told))
    return Benchmark("kernel-tuner", work, trials, Objective("latency_s"), str(told.get("device_name", "not stated")))


def _is_t4(content: Content) -> bool:
    return (
        isinstance(content.document, dict)
        and {"results", "schema_version"} <= content.document.keys()
        and isinstance(content.document["results"], list)
        and all("configuration" in r for r in content.document["results"][:1])
    )


def _t4(content: Content) -> Benchmark:
    results = content.document["results"]
    first = str(results[0].get("timestamp", "")) if results else ""
    work = f"kernel of {content.name.split('.')[0].rsplit('-', 1)[0]}"  # the format names neither kernel nor device
    return Benchmark("t4", work, tuple(t4_trials(content.document)), Objective("latency_s"), measured_at=first)


FORMATS: Sequence[Format] = (
    Format("Chimera: backends of a model", chimera_json.is_backends, chimera_json.backends),
    Format("Chimera: answers to prompts", chimera_json.is_prompts, chimera_json.prompts),
    Format("Chimera: report of backends", chimera_markdown.is_report, chimera_markdown.report),
    Format("Chimera: grid of options", chimera_csv.is_grid, chimera_csv.grid),
    Format("Chimera: answers to prompts, CSV", chimera_csv.is_prompts, chimera_csv.prompts),
    Format("Chimera: means of a grid", chimera_csv.is_means, chimera_csv.means),
    Format("Kernel Tuner cache", _is_kernel_tuner, _kernel_tuner),
    Format("T4 results", _is_t4, _t4),
    Format("optimum-benchmark", is_optimum_benchmark, optimum_benchmark),
    Format("Google Benchmark", is_google_benchmark, google_benchmark),
    Format("pytest-benchmark", is_pytest_benchmark, pytest_benchmark),
    Format("hyperfine", is_hyperfine, hyperfine),
    Format("llama-bench", is_llama_bench, llama_bench),
    Format("Chimera: single kernels", chimera_json.is_kernels, chimera_json.kernels),
)
"""Asked in this order: the last asks least of a file."""


def read_file(path: Path, raw: bytes) -> tuple[Format, Benchmark]:
    """Raises UnknownFileError or DamagedFileError."""
    content = _content(path, raw)
    found = next((f for f in FORMATS if _knows(f, content)), None)
    if found is None:
        raise UnknownFileError(_looks_like(content))
    try:
        benchmark = found.read(content)
    except (*MALFORMED, csv.Error) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DamagedFileError(f"it looks like {found.what}, but {why}") from None
    if not benchmark.trials:
        raise DamagedFileError(f"it looks like {found.what} and holds no result")
    return found, benchmark


def _knows(form: Format, content: Content) -> bool:
    try:
        return form.known(content)
    except (*MALFORMED, csv.Error):
        return False


def _content(path: Path, raw: bytes) -> Content:
    try:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedFileError(f"its compression is damaged ({error})") from None
    except UnicodeDecodeError:
        raise UnknownFileError("it is no text") from None
    document = _json(text)
    if document is None and {".json", ".jsonl"} & set(path.suffixes):
        raise DamagedFileError("it is called JSON and is none" if text.strip() else "it is empty")
    return Content(path, text, document)


def _json(text: str) -> Json:
    """A document, or a list of the lines' documents. A cache that a stopped tuner left open is closed."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    for candidate in (text, text.rstrip().rstrip(",") + "}}"):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        return None


def _looks_like(content: Content) -> str:
    document = content.document
    if isinstance(document, dict):
        keys = ", ".join(list(map(str, document))[:6])
        return f"JSON of an unknown kind (keys: {keys})" if document else "JSON without anything in it"
    if isinstance(document, list):
        return "a JSON list of an unknown kind"
    if header := chimera_csv.header(content):
        return (
            f"a table of an unknown kind (columns: {', '.join(header[:6])})"
            if len(header) > 2
            else "text of an unknown kind"
        )
    return "text of an unknown kind"
