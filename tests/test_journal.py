"""The record: what is written comes back, a torn line costs nothing, foreign and damaged files are told apart."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simple import MIXED, SPACES, limit, measured, recipe_of, searched, synthetic

from optimizer.errors import ConfigError
from optimizer.journal import Journal, Settings, Tail, line_of, read, trial_document, trial_from
from optimizer.objective import Direction, Goal, Objective
from optimizer.protocols import Ending
from optimizer.recipe import Environment, Recipe, recipe_from
from optimizer.space import Point
from optimizer.stats import Judgement, Verdict
from optimizer.trial import Artifact, Candidate, Check, Failed, Measured, Reason, Stage, Trial

HERE = Environment("a processor", "driver 1", {"g++": "g++ 12.2.0"}, {"cores": 2}, "abc")
SETTINGS = Settings(("target=x",), {"target": "x"}, ("gxx", "shapes"))


def written(path: Path, trials: list[Trial], recipe: Recipe | None = None) -> Path:
    journal_path = path / "study" / "journal.jsonl"
    with Journal.create(journal_path, "study", recipe or recipe_of(), HERE, SETTINGS) as journal:
        for trial in trials:
            journal.on_trial(trial)
    return journal_path


def some_trials(count: int = 12) -> list[Trial]:
    return searched(recipe_of(), synthetic(failing=0.3, noise=0.1), count)[0]


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    trials = some_trials()
    study = read(written(tmp_path, trials))
    assert list(study.trials) == trials
    assert study.recipe.key == recipe_of().key
    assert study.recipe.document() == recipe_of().document()
    assert study.environment == HERE
    assert study.settings == SETTINGS
    assert study.ending is None
    assert study.name == "study"


def test_drift_and_verdict_come_back(tmp_path: Path) -> None:
    path = tmp_path / "s" / "journal.jsonl"
    verdict = Verdict("latency_s", 1.5, 1.4, 1.6, Judgement.BETTER, 1, 10)
    ending = Ending(verdict, (1.4, 1.5, 1.6), interrupted=True, seconds={"total": 3.5})
    trials = some_trials(3)
    with Journal.create(path, "s", recipe_of(), HERE, SETTINGS) as journal:
        for trial in trials:
            journal.on_trial(trial)
        journal.on_drift(2, {"latency_s": (1.0, 2.0)})
        journal.on_end(ending)
    study = read(path)
    assert study.drift == ((2, {"latency_s": (1.0, 2.0)}),)
    assert study.ending == ending
    assert study.winner == study.trials[1]


def test_a_verdict_is_forgotten_when_the_search_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s" / "journal.jsonl"
    trials = some_trials(3)
    with Journal.create(path, "s", recipe_of(), HERE, SETTINGS) as journal:
        journal.on_trial(trials[0])
        journal.on_end(Ending(None))
        journal.on_trial(trials[1])
    assert read(path).ending is None
    assert read(path).winner is None


ARTIFACT = Artifact("k", "c", "/p/program", ("--threads=2",), {"OMP": "x"}, ("g++", "-O3"), "warning: …", {"a": 1.5})
OUTCOMES = [
    Measured(Check({"max_rel_error": 1e-9}, {"perplexity": 3.25}), {"latency_s": (1.0, 2.0), "n": ()}),
    Measured(Check(), {"latency_s": (1e-300, 1.7e308)}, same_as=0),
    *(
        Failed(stage, reason, "log\nwith 'quotes' and ünïcode \u2028", same_as=None)
        for stage in Stage
        for reason in Reason
    ),
    Failed(Stage.VERIFY, Reason.WRONG, "", same_as=3),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=range(len(OUTCOMES)))
@pytest.mark.parametrize("artifact", [None, ARTIFACT])
def test_every_outcome_comes_back(outcome: Measured | Failed, artifact: Artifact | None) -> None:
    point = Point({"s": "x y'z", "i": 3, "f": 0.5, "b": True})
    trial = Trial(Candidate(7, point), outcome, {"build": 1.5}, artifact, 1.7e9, 12.25)
    line = line_of(trial_document(trial))
    assert line.count(b"\n") == 1
    again = trial_from(json.loads(line))
    assert again == trial
    assert again.point.key == point.key


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_recipe_comes_back_with_its_key(space: object) -> None:
    goal = Goal(
        (Objective("tokens_per_s", Direction.MAXIMIZE), Objective("latency_s", statistic="p95")),
        (limit("perplexity", "max_degradation_pct", 2.0), limit("latency_s", "max", 0.5)),
    )
    recipe = recipe_of(space, goal=goal)  # type: ignore[arg-type]
    again = recipe_from(json.loads(json.dumps(recipe.document())))
    assert again.key == recipe.key
    assert again.goal == goal


def test_law_6_the_key_names_what_decides_the_search_and_nothing_else() -> None:
    recipe = recipe_of()
    assert recipe_of(seed=1).key != recipe.key
    assert recipe_of(ahead=5).key != recipe.key
    assert recipe_of(strategy="tpe").key != recipe.key
    words = json.dumps(recipe.document())
    assert not any(word in words for word in ('budget": {', "study", "tracking", "workers"))


@pytest.mark.parametrize("cut", [1, 5, 40, -1])
def test_law_5_a_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    trials = some_trials(6)
    path = written(tmp_path, trials)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    path.write_bytes(whole[: last + cut] if cut > 0 else whole[:-1])
    assert list(read(path).trials) == trials[:5]
    with Journal.resume(path, recipe_of(), HERE) as journal:
        assert list(journal.recorded) == trials[:5]
        journal.on_trial(trials[5])
    assert list(read(path).trials) == trials


def test_a_study_is_not_started_twice(tmp_path: Path) -> None:
    written(tmp_path, some_trials(2))
    with pytest.raises(ConfigError, match=r"exists already.*--resume.*study=NAME"):
        written(tmp_path, [])


def test_two_searches_don_t_write_one_journal(tmp_path: Path) -> None:
    path = written(tmp_path, some_trials(2))
    with (
        Journal.resume(path, recipe_of(), HERE),
        pytest.raises(ConfigError, match="Another search is writing"),
        Journal.resume(path, recipe_of(), HERE),
    ):
        pass
    with Journal.resume(path, recipe_of(), HERE):
        pass


def test_law_6_another_recipe_is_refused_with_the_difference_named(tmp_path: Path) -> None:
    path = written(tmp_path, some_trials(2))
    other = replace(recipe_of(seed=9), device="cuda")
    with pytest.raises(ConfigError, match=r"(?s)seed: 0 → 9.*device: 'cpu' → 'cuda'"):
        Journal.resume(path, other, HERE)
    knobs = tuple(k if k.name != "unroll" else replace(k, default=2) for k in MIXED.knobs)
    narrowed = recipe_of(replace(MIXED, knobs=knobs), start=[MIXED.baseline()])
    with pytest.raises(ConfigError, match=r"space.knobs.unroll.default: 1 → 2"):
        Journal.resume(path, narrowed, HERE)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (replace(HERE, device="another processor"), "device: 'a processor' → 'another processor'"),
        (replace(HERE, driver="driver 2"), "driver"),
        (replace(HERE, compilers={"g++": "g++ 13.1.0"}), r"compilers.g\+\+: 'g\+\+ 12.2.0' → 'g\+\+ 13.1.0'"),
    ],
)
def test_law_6_another_place_is_refused_with_the_difference_named(
    tmp_path: Path, changed: Environment, named: str
) -> None:
    path = written(tmp_path, some_trials(2))
    with pytest.raises(ConfigError, match=named):
        Journal.resume(path, recipe_of(), changed)


def test_law_6_clocks_load_and_commit_are_recorded_and_not_compared(tmp_path: Path) -> None:
    path = written(tmp_path, some_trials(2))
    with Journal.resume(path, recipe_of(), replace(HERE, commit="def", host={"cores": 2, "load_1min": 9.0})):
        pass


@pytest.mark.parametrize(
    "line",
    [
        "{}", "[]", "null", "nonsense", '{"kind": "trial"}', '{"kind": "surprise"}', '{"kind": "trial", "number": 0}',
        '{"kind": "drift", "after": "x", "samples": {}}', '{"kind": "verdict"}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, some_trials(3))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(ConfigError, match=r"line 3 is damaged or foreign.*head -n 2"):
        read(path)


def test_a_line_that_is_missing_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path, some_trials(4))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")
    with pytest.raises(ConfigError, match="trial 2 stands where number 1 is due"):
        read(path)


@pytest.mark.parametrize("text", ["", "{}\n", "hello\n", '{"format": "optimizer-journal"}\n', "\x00\xff\n"])
def test_a_file_that_is_no_journal(tmp_path: Path, text: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"journal\.jsonl"):
        read(path)


def test_a_journal_of_a_later_version_is_not_guessed_at(tmp_path: Path) -> None:
    path = written(tmp_path, [])
    path.write_text(path.read_text().replace('"version":1', '"version":2'))
    with pytest.raises(ConfigError, match=r"version 2; this program reads 1"):
        read(path)


def test_a_missing_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "nothing.jsonl")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2000))
def test_any_damage_is_a_clear_error_or_harmless(damage: bytes, at: int) -> None:
    head = b'{"format":"optimizer-journal","version":1}\n'
    body = b"".join(line_of(trial_document(measured(i, latency_s=1.0))) for i in range(3))
    whole = head + body
    place = min(at, len(whole))
    path = Path(f"/tmp/journal-fuzz-{os.getpid()}.jsonl")
    path.write_bytes(whole[:place] + damage + whole[place + len(damage) :])
    try:
        read(path)
    except ConfigError as error:
        assert "journal-fuzz" in str(error)
    finally:
        path.unlink()


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(ConfigError, match=r"can't be written.*studies_dir"):
        Journal.create(blocker / "s" / "journal.jsonl", "s", recipe_of(), HERE, SETTINGS)


def test_a_full_disk_stops_the_search_and_leaves_whole_lines() -> None:
    trials = some_trials(3)
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space left"):
        journal = object.__new__(Journal)
        journal._file, journal._synced_s, journal.path = full.fileno(), 0.0, Path("/dev/full")
        journal.on_trial(trials[0])


def test_a_number_that_is_not_finite_never_gets_in(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="JSON compliant"),
        Journal.create(tmp_path / "s" / "j.jsonl", "s", recipe_of(), HERE, SETTINGS) as journal,
    ):
        journal.on_trial(measured(0, latency_s=float("inf")))


def test_a_tail_grows_with_the_file(tmp_path: Path) -> None:
    trials = some_trials(5)
    path = tmp_path / "s" / "journal.jsonl"
    with Journal.create(path, "s", recipe_of(), HERE, SETTINGS) as journal:
        tail = Tail(path)
        assert tail.poll().trials == ()
        journal.on_trial(trials[0])
        journal.on_trial(trials[1])
        assert list(tail.poll().trials) == trials[:2]
        assert list(tail.poll().trials) == trials[:2]
        journal.on_trial(trials[2])
        journal.on_end(Ending(None))
        assert list(tail.poll().trials) == trials[:3]
        assert tail.poll().ending == Ending(None)


def test_a_journal_without_a_trial_can_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "s" / "journal.jsonl"
    with Journal.create(path, "s", recipe_of(), HERE, SETTINGS) as journal:
        journal.forget_if_empty()
    assert not path.exists()
    with Journal.create(path, "s", recipe_of(), HERE, SETTINGS) as journal:
        journal.on_trial(some_trials(1)[0])
        journal.forget_if_empty()
    assert path.exists()


def test_kill_9_at_any_moment_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "s" / "journal.jsonl"
    script = textwrap.dedent(f"""
        import sys, os
        sys.path[:0] = [{str(Path(__file__).parent)!r}]
        from pathlib import Path
        from test_journal import HERE, SETTINGS, some_trials
        from simple import recipe_of
        from optimizer.journal import Journal
        trials = some_trials(30)
        with Journal.create(Path({str(path)!r}), "s", recipe_of(), HERE, SETTINGS) as journal:
            for trial in trials:
                journal.on_trial(trial)
                print(trial.number, flush=True)
                if trial.number == 20:
                    os.kill(os.getpid(), 9)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert [t.number for t in read(path).trials] == list(range(21))
    with Journal.resume(path, recipe_of(), HERE) as journal:
        assert len(journal.recorded) == 21
