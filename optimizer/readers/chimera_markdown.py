"""What is in the Markdown reports that Chimera's benchmarks write beside their JSON?

A table with a row a backend, rounded to microseconds; the same run as the JSON file of the same name. The number of
runs and the model's shapes are not in it.
"""

import re

from optimizer.objective import Objective
from optimizer.readers.benchmark import MS, Benchmark, Content, failed, measured
from optimizer.trial import Stage, Summary, Trial

TITLE = "# Compilation Benchmark Report"
FACT = re.compile(r"(?:^|-\s)\s*(Generated|Model|Device|DType):\s*(.+?)\s*(?=\||$|- [A-Z]\w+:)", re.MULTILINE)
COLUMNS = ("Backend", "Success", "Compile Time (s)", "Mean (ms)", "Std (ms)", "Min (ms)", "Max (ms)", "Notes")


def is_report(content: Content) -> bool:
    return content.text.lstrip().startswith(TITLE)


def report(content: Content) -> Benchmark:
    facts = dict(FACT.findall(content.text))
    rows = [_cells(line) for line in content.text.splitlines() if line.startswith("| ")]
    rows = [r for r in rows if r[0] not in (COLUMNS[0], "---")]
    if COLUMNS[2] not in content.text or not rows:
        raise ValueError("a report without its table")
    trials = [_trial(i, row) for i, row in enumerate(rows)]
    work = f"{facts['Model']}, dtype {facts['DType']} (shapes not stated)"
    return Benchmark(
        "chimera-report", work, tuple(trials), Objective("latency_s"), facts["Device"], measured_at=facts["Generated"]
    )


def _cells(line: str) -> list[str]:
    cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
    last = len(COLUMNS) - 1
    return [*cells[:last], "|".join(cells[last:])]


def _trial(i: int, row: list[str]) -> Trial:
    name, success, compile_s, mean, sd, low, high, notes = row
    point = {"backend": name}
    if success != "yes":
        return failed(i, point, Stage.BUILD, notes.removeprefix("error="))
    words = [w for w in notes.split("; ") if w and not w.startswith("graph_preview=")]
    compiled = float(compile_s)
    told = Summary(float(mean) * MS, float(sd) * MS, float(low) * MS, float(high) * MS)
    facts = {"compile_time_s": compiled} if compiled > 0 else {}  # 0.0000: nothing was compiled
    return measured(i, point, {}, {"latency_s": told}, arguments=words, facts=facts)
