"""Makes a recording to be kept of a journal: what was built and where is left out, and so is all but the medians.

python -m optimizer search --config-dir experiments/strategies/conf target=gemm_cpu 'space=[gemm_recorded]' \
    strategy=grid target.options.m=192 target.options.n=192 target.options.k=192 measure=quick \
    budget.seconds=3000 study=gemm
python experiments/strategies/record.py studies/gemm/journal.jsonl
"""

import gzip
import json
import sys
from pathlib import Path
from statistics import median

KEPT = ("latency_s", "throughput_ips", "peak_memory_bytes")
OUT = Path(__file__).with_name("gemm_cpu.jsonl.gz")


def main(journal: Path) -> None:
    lines = []
    for line in journal.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "kind" not in record:
            record["settings"] = {"words": [], "choices": {}, "spaces": []}
            record["environment"]["host"] = {}
            record["recipe"]["target"]["options"] = {}
        elif record["kind"] != "trial":
            continue
        else:
            compiled_s = (record["artifact"] or {}).get("facts", {}).get("compile_time_s")
            record["artifact"] = None
            if "samples" in record:
                record["samples"] = {n: [median(v)] for n, v in record["samples"].items() if n in KEPT}
                if compiled_s is not None:
                    record["samples"]["compile_time_s"] = [compiled_s]
        lines.append(json.dumps(record, separators=(",", ":")))
    OUT.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
