"""How long does a report on 10,000 trials and 20 knobs take, and how large is its page? Prints one JSON object."""

import json
import time
from random import Random

from optimizer.journal import Study
from optimizer.objective import Goal, Objective
from optimizer.recipe import Confirm, Environment, Part, Plan, Recipe
from optimizer.report.overview import document, overview
from optimizer.report.page.page import page
from optimizer.space import Choice, Effect, Knob, Point, Space
from optimizer.trial import Artifact, Candidate, Check, Failed, Measured, Reason, Stage, Trial

TRIALS, KNOBS = 10_000, 20


def study(count: int) -> Study:
    """Two knobs matter, the others don't; one trial in fifty fails."""
    random = Random(0)
    values = (1, 2, 4, 8)
    domain, effect = Choice(values, ordered=True), Effect("setting", "x")
    space = Space(tuple(Knob(f"knob{i}", domain, effect, 1) for i in range(KNOBS)))
    trials = []
    for number in range(count):
        chosen = [random.choice(values) for _ in range(KNOBS)]
        point = Point({f"knob{i}": value for i, value in enumerate(chosen)})
        latency_s = 1e-3 * (1 + 1 / chosen[0] + 0.3 * (chosen[1] == 4)) * random.lognormvariate(0, 0.05)
        facts = {"compile_time_s": random.uniform(1, 5), "binary_bytes": 1e5, "perplexity": random.uniform(2, 3)}
        outcome = Measured(Check(), {"latency_s": tuple(latency_s * random.uniform(0.99, 1.01) for _ in range(7))})
        failed = Failed(Stage.BUILD, Reason.COMPILE, "error: no")
        artifact = Artifact("k", str(number), facts=facts)
        ending = failed if number % 50 == 49 else outcome
        candidate = Candidate(number, point)
        trials.append(Trial(candidate, ending, {"build": 3.0}, artifact, 1.7e9 + number, float(number)))
    goal = Goal((Objective("latency_s"), Objective("perplexity")))
    recipe = Recipe(Part("made"), space, Part("random"), goal, Plan(), Confirm(), 0, 4, (trials[0].point,))
    return Study("made", recipe, Environment("made"), tuple(trials), id="made", created_at_s=1.7e9)


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
