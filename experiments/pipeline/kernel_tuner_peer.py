"""Tunes a kernel of ours by Kernel Tuner's C backend: reads what is asked on stdin (JSON), prints the best it found.

The kernel becomes a function that makes its inputs once and returns the milliseconds of one run. Kernel Tuner compiles
it, loads it into its own process, runs it seven times and averages; it compares no answers, which the others do.
"""

import contextlib
import json
import sys
import time
from typing import Any

import numpy as np
from kernel_tuner import tune_kernel

MANY = 1_000_000
ENDLESS = {"genetic_algorithm": {"maxiter": MANY}}  # its 90 generations end before the budget does
SOURCE = """
#include "{source}"
namespace {{
harness::Kernel& made() {{
  static char program[] = "peer";
  static char* words[] = {{program, {options}nullptr}};
  static const harness::Options options({count}, words);
  static const std::unique_ptr<harness::Kernel> kernel = harness::make(options);
  return *kernel;
}}
}}
extern "C" float tuned() {{
  harness::Reading reading;
  harness::Kernel& kernel = made();
  const double start = harness::now_s();
  kernel.run(reading);
  return 1e3 * (harness::now_s() - start);
}}
"""


def main() -> None:
    asked: dict[str, Any] = json.load(sys.stdin)
    words = "".join(f"const_cast<char*>({json.dumps(word)}), " for word in asked["options"])
    source = SOURCE.format(source=asked["source"], options=words, count=1 + len(asked["options"]))
    np.random.seed(asked["seed"])
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        results, _ = tune_kernel(
            "tuned",
            source,
            1,
            [],
            asked["params"],
            lang="C",
            compiler=asked["compiler"],
            compiler_options=[*asked["flags"], *asked["objects"]],
            restrictions=asked["restrictions"],
            strategy=asked["strategy"],
            strategy_options={
                "time_limit": asked["budget_s"],
                "max_fevals": MANY,
                **ENDLESS.get(asked["strategy"], {}),
            },
        )
    took_s = time.perf_counter() - start
    worked = [r for r in results if isinstance(r.get("time"), int | float)]
    best = min(worked, key=lambda r: float(r["time"]))
    point = {name: best[name] for name in asked["params"]}
    tried = len({tuple(r[name] for name in asked["params"]) for r in results})  # there once each time it was asked for
    print(json.dumps({"point": point, "latency_s": best["time"] / 1e3, "evaluations": tried, "took_s": took_s}))


if __name__ == "__main__":
    main()
