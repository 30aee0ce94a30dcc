"""How long does a report on 10,000 trials and 20 knobs take, and how large is its page? Prints one JSON object."""

import json
import time

from made import KNOBS, study

from optimizer.report.overview import document, overview
from optimizer.report.page.page import page

TRIALS = 10_000


def main() -> None:
    made = study(TRIALS)
    start_s = time.process_time()
    found = overview([made], made.name)
    values_s = time.process_time() - start_s
    content = page(found, [made], {})
    told = json.dumps(document(found), ensure_ascii=False)
    result = {
        "trials": TRIALS,
        "knobs": KNOBS,
        "values_cpu_s": round(values_s, 2),
        "all_cpu_s": round(time.process_time() - start_s, 2),
        "page_bytes": len(content),
        "json_bytes": len(told.encode()),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
