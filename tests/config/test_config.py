"""From files and words to the objects of a search, and every wrong word told with its remedy."""

from datetime import date
from pathlib import Path

import pytest

from optimizer.config import Setup, composed, load, nested
from optimizer.errors import ConfigError
from optimizer.objective import Bound, Direction, Limit, Objective
from optimizer.resources import conf_dir
from optimizer.space import Choice, Effect, Int, Point
from optimizer.targets.native import NativeTarget

TODAY = date(2026, 11, 24)


def setup(*words: str, folders: list[Path] | None = None) -> Setup:
    return load(list(words), folders or [], TODAY)


def error_of(*words: str, folders: list[Path] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        setup(*words, folders=folders).strategy()
    return str(caught.value)


# --- what is understood


def test_a_knob_can_be_pinned_or_given_another_domain_and_keeps_the_rest() -> None:
    made = setup("target=gemm_cpu", "space.TILE_M=choice(64, 128)", "space.opt_level=2", "space.loop_order=mkn")
    knobs = made.recipe.space.by_name
    assert knobs["TILE_M"].domain == Choice((64, 128), ordered=True)
    assert knobs["opt_level"].domain == Choice((2,))
    assert knobs["opt_level"].effect == Effect("flag", template=("-O{value}",))
    assert knobs["loop_order"].effect.word("mkn") == "2"
    baseline = made.recipe.start[0]
    assert (baseline["TILE_M"], baseline["opt_level"]) == (64, 2), "the baseline keeps to what is searched"
    assert isinstance(made.made.target, NativeTarget)
    assert "-O2" in made.made.target.command(baseline)


def test_conditions_survive_a_pinned_knob() -> None:
    made = setup("target=decoder_cpu", "space.group_size=32")
    assert "group_size" not in made.recipe.start[0], "weight_bits is 32 in the baseline"
    assert made.recipe.space.by_name["group_size"].when is not None


def test_spaces_are_combined() -> None:
    made = setup("target=decoder_cpu", "space=[gxx,quantization,shapes]")
    names = {k.name for k in made.recipe.space.knobs}
    assert {"opt_level", "weight_bits", "batch"} <= names
    assert "pruning" not in names
    assert made.settings.spaces == ("gxx", "quantization", "shapes")


def test_constraints_of_every_file_hold_together_and_can_be_added_and_taken_away() -> None:
    made = setup("target=synthetic", "space.constraints.mine=unroll < 4", "space.constraints.more='batch <= 8'")
    assert [c.name for c in made.recipe.space.constraints] == ["budget", "mine", "more"]
    assert setup("target=synthetic", "space.constraints.budget=null").recipe.space.constraints == ()


def test_a_budget_that_is_given_stands_alone() -> None:
    assert setup("target=synthetic").budget.seconds == 120
    given = setup("target=synthetic", "budget.trials=7").budget
    assert (given.trials, given.seconds) == (7, None)
    both = setup("target=synthetic", "budget.trials=7", "budget.seconds=9").budget
    assert (both.trials, both.seconds) == (7, 9)
    assert setup("target=synthetic", "budget.patience=7").budget.seconds is None


def test_objectives_and_limits() -> None:
    goal = setup("target=decoder_cpu").recipe.goal
    assert goal.objectives == (Objective("tokens_per_s", Direction.MAXIMIZE),)
    assert goal.limits[0] == Limit("perplexity", Bound.MAX_DEGRADATION_PCT, 2.0, Direction.MINIMIZE)
    several = setup(
        "target=synthetic",
        "objective=latency_and_memory",
        "objective.limits.latency_s={max: 0.5, statistic: p95}",
        "objective.limits.goodness={min_improvement: 1, direction: maximize}",
        "objective.metrics.latency_s={direction: minimize, statistic: p99}",
    ).recipe.goal
    assert several.objectives[0] == Objective("latency_s", statistic="p99")
    assert [o.metric for o in several.objectives] == ["latency_s", "peak_memory_bytes"]
    assert several.limits == (
        Limit("latency_s", Bound.MAX, 0.5, Direction.MINIMIZE, "p95"),
        Limit("goodness", Bound.MIN_IMPROVEMENT, 1.0, Direction.MAXIMIZE),
    )
    none = setup("target=decoder_cpu", "~objective.limits.perplexity", "objective.limits.latency_s=null").recipe.goal
    assert none.limits == ()


def test_the_baseline_can_be_chosen() -> None:
    made = setup("target=synthetic", "baseline.unroll=4", "baseline.opt=c")
    assert (made.recipe.start[0]["unroll"], made.recipe.start[0]["opt"]) == (4, "c")


def test_known_good_points_follow_the_baseline_and_those_outside_the_space_are_left_out() -> None:
    made = setup(
        "target=synthetic", "known_good=[{unroll: 4}, {unroll: 99}, {bits: 8, group: 32}, {nobody: 1, fast: true}]"
    )
    assert [dict(p).get("unroll") for p in made.recipe.start] == [1, 4, 1, 1]
    assert made.recipe.start[2]["group"] == 32
    assert made.recipe.start[3]["fast"] is True


def test_a_study_without_a_name_gets_one_that_does_not_exist(tmp_path: Path) -> None:
    words = ["target=synthetic", f"studies_dir={tmp_path}"]
    assert setup(*words).study == "synthetic-2026-11-24"
    (tmp_path / "synthetic-2026-11-24").mkdir()
    assert setup(*words).study == "synthetic-2026-11-24-2"
    assert setup(*words, "study=mine").journal == tmp_path / "mine" / "journal.jsonl"


def test_the_store_lies_beside_the_studies(tmp_path: Path) -> None:
    tracking = setup("target=synthetic", f"studies_dir={tmp_path}").tracking
    assert tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking.experiment == "synthetic"
    other = setup("target=synthetic", "tracking.uri=http://localhost:5000", "tracking.experiment=mine").tracking
    assert (other.uri, other.experiment) == ("http://localhost:5000", "mine")
    assert setup("target=synthetic", "tracking=none").tracking.name == "none"


def test_law_6_budget_name_tracking_and_pool_are_not_in_the_key(tmp_path: Path) -> None:
    key = setup("target=synthetic").recipe.key
    same = ["budget.trials=5", "study=x", "tracking=none", "executor.workers=7", f"studies_dir={tmp_path}"]
    assert setup("target=synthetic", *same).recipe.key == key
    for other in ("seed=1", "strategy=random", "space.unroll=2", "ahead=8", "measure=quick", "objective=throughput"):
        assert setup("target=synthetic", other).recipe.key != key


def test_every_file_of_every_group_composes() -> None:
    for group in ("strategy", "measure", "tracking", "executor", "objective"):
        for path in sorted((conf_dir() / group).glob("*.yaml")):
            composed([f"{group}={path.stem}", "target=synthetic"], [])
    for path in sorted((conf_dir() / "target").glob("*.yaml")):
        composed([f"target={path.stem}"], [])


@pytest.mark.parametrize("target", ["decoder_cpu", "gemm_cpu", "conv_cpu", "mlp_cpu", "synthetic"])
def test_the_baseline_of_every_target_is_a_configuration_of_its_space(target: str) -> None:
    made = setup(f"target={target}")
    assert made.recipe.start[0] in made.recipe.space
    assert made.feasible.count is not None
    if target != "synthetic":
        assert len(made.recipe.start[0]) > 20
        assert made.recipe.start[0].get("opt_level") == 3
        assert made.recipe.start[0].get("march") == "none"


def test_a_folder_of_one_s_own_adds_files(tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "space" / "mine.yaml").write_text(
        "width: {domain: 'range(1, 5)', setting: width, default: 2}\nconstraints: {odd: width % 2 == 1 or width == 2}\n"
    )
    (tmp_path / "target" / "my_target.yaml").write_text(
        "# @package _global_\ndefaults:\n  - synthetic\n  - override /space: [mine]\ntarget: {name: my_target}\n"
    )
    made = setup("target=my_target", folders=[tmp_path])
    assert made.recipe.space.by_name["width"].domain == Int(1, 4)
    assert made.recipe.target.name == "my_target"
    assert made.feasible.count == 3
    assert "Did you mean 'my_target'" in error_of("target=my_targt", folders=[tmp_path])


def test_what_was_typed_can_be_written_down_for_another_search() -> None:
    tree = nested(
        ["target=gemm_cpu", "space=[gxx]", "study=x", "budget.trials=3", "space.TILE_M=choice(64, 128)", "seed=4",
         "target.options.m=512", "space.constraints.mine=TILE_M < 99", "strategy.population=8", "baseline.pack=b"]
    )  # fmt: skip
    assert tree == {
        "domains": {"TILE_M": "choice(64, 128)"},
        "seed": 4,
        "target": {"options": {"m": 512}},
        "space": {"constraints": {"mine": "TILE_M < 99"}},
        "strategy": {"population": 8},
        "baseline": {"pack": "b"},
    }


# --- what is refused, and how


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["target=gem_cpu"], "There is no target 'gem_cpu'. Did you mean 'gemm_cpu'?"),
        (["strategy=gentic"], "There is no strategy 'gentic'. Did you mean 'genetic'?"),
        (["space=[gxx,quantisation]"], "There is no space 'quantisation'. Did you mean 'quantization'?"),
        (["objective=speed"], "There is no objective 'speed'."),
        (["seeed=1"], "There is no setting 'seeed'. Did you mean 'seed'?"),
        (["budget.trails=3"], "There is no setting 'budget.trails'. Did you mean 'budget.trials'?"),
        (["target=synthetic", "target.nois=1"], "There is no setting 'target.nois'. Did you mean 'target.noise'?"),
        (["target=gemm_cpu", "space.TILE_L=3"], "There is no knob TILE_L in this space. Did you mean 'TILE_"),
        (["target=synthetic", "baseline.unrol=3"], "baseline.unrol: there is no such knob. Did you mean 'unroll'?"),
        (["target=synthetic", "baseline.unroll=99"], "outside the knob's domain"),
        (["target=synthetic", "baseline.unroll=range(1,3)"], "a baseline is one value"),
        (["target=synthetic", "baseline.unroll=16", "baseline.batch=128"], "breaks the constraint budget"),
        (["synthetic"], "'synthetic' is not a setting; write KEY=VALUE"),
        (["strategy=tpe,random"], "lists several values; that is for knobs"),
        (["seed=x"], "seed is a whole number of at least 0, not 'x'"),
        (["ahead=0"], "ahead is a whole number of at least 1"),
        (["budget.trials=1.5"], "budget.trials is a whole number or null, not '1.5'"),
        (["budget.trials=0"], "budget.trials must be above 0"),
        (["budget.seconds=soon"], "budget.seconds is a number or null, not 'soon'"),
        (["measure.rel_error=much"], "measure.rel_error is a number"),
        (["measure.give_up_early=7"], "measure.give_up_early is true or false"),
        (["measure.confirm.rounds=3"], "rounds is at least 6"),
        (["measure.max_samples=2"], "max_samples at least as many"),
        (["executor.workers=0"], "executor.workers is a whole number of at least 1"),
        (["device=gpu"], "device=gpu is not known. Did you mean 'cpu'?"),
        (["target=gemm_cpu", "device=cuda"], "target=gemm_cpu does not run on device=cuda; it runs on cpu."),
        (["study=../evil"], "can't be the name of a folder"),
        (["study=.."], "can't be the name of a folder"),
        (["target=synthetic", "space.constraints.none=unroll < 1"], "No configuration satisfies the constraint none"),
        (["target=synthetic", "space.constraints.bad=unroll <"], "is not an expression"),
        (["target=synthetic", "space.constraints.bad=width < 3"], "names width, which this space does not have"),
        (["target=synthetic", "space.constraints.bad=open('x')"], "which an expression may not"),
        (["target=synthetic", "space.unroll=interval(0, 1)", "strategy=grid"], "can't list the values of unroll"),
        (["target=synthetic", "space.unroll=choice("], "is not a setting"),
        (["target=synthetic", "objective.metrics=null"], "names at least one metric"),
        (["target=synthetic", "objective.metrics.latency_s=faster"], "'faster' is not a direction"),
        (["target=synthetic", "objective.limits.latency_s={maxx: 1}"], "Did you mean 'max'"),
        (["target=synthetic", "objective.limits.latency_s={max: often}"], "is a number, not 'often'"),
        (["target=synthetic", "objective.limits.latency_s=3"], "is a mapping"),
        (["target=synthetic", "objective.limits.goodness={max_degradation: 3}"], "Which way is goodness better?"),
        (["target=synthetic", "objective.metrics.latency_s={statistic: p50}"], "the statistic 'p50' is not known"),
        (["target=synthetic", "strategy=genetic", "strategy.population=7"], "must be a multiple of 4"),
        (["target=synthetic", "space=none"], "needs knobs: name files with space=[…]"),
        (["target=replay"], "target=replay needs a record"),
        (["target=replay", "target.file=/nowhere/journal.jsonl"], "no file"),
        (["target=decoder_cpu", "target.model=/nowhere.safetensors"], "there is no file /nowhere.safetensors"),
        (["known_good=[3]", "target=synthetic"], "lists mappings of knobs to values"),
    ],
)  # fmt: skip
def test_every_wrong_word_is_told_with_its_remedy(words: list[str], said: str) -> None:
    assert said in error_of(*words)


def space_file(folder: Path, name: str, text: str) -> None:
    (folder / "space").mkdir(exist_ok=True)
    (folder / "space" / f"{name}.yaml").write_text(text)


def test_a_knob_that_two_files_define_is_an_error(tmp_path: Path) -> None:
    space_file(tmp_path, "one", "a: {domain: 'range(1, 5)', setting: a}\n")
    space_file(tmp_path, "two", "a: {domain: 'range(1, 9)', setting: a}\nb: {domain: '1, 2', setting: b}\n")
    said = error_of("target=synthetic", "space=[one,two]", folders=[tmp_path])
    assert said.startswith("The knob a is defined in both space/one and space/two")


def test_a_constraint_that_two_files_define_is_an_error(tmp_path: Path) -> None:
    space_file(tmp_path, "one", "a: {domain: 'range(1, 5)', setting: a}\nconstraints: {c: a > 1}\n")
    space_file(tmp_path, "two", "b: {domain: 'range(1, 9)', setting: b}\nconstraints: {c: b > 1}\n")
    said = error_of("target=synthetic", "space=[one,two]", folders=[tmp_path])
    assert said.startswith("The constraint c is defined in both")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 3\n", "a knob is a mapping"),
        ("a: {domain: '1, 2'}\n", "acts on exactly one of"),
        ("a: {domain: '1, 2', flag: x, macro: y}\n", "acts on exactly one of"),
        ("a: {setting: a}\n", "needs a domain"),
        ("a: {domain: '1, 2', setting: a, defalt: 1}\n", "Did you mean 'default'"),
        ("a: {domain: '1, 2', setting: a, default: 3}\n", "the default 3 is not in its domain; 2 would be"),
        ("a: {domain: '1, 2', setting: a, default: [1]}\n", "the default is a single value"),
        ("a: {domain: '1, 2', macro: {nme: A}}\n", "macro is a name"),
        ("'a-b': {domain: '1, 2', setting: a}\n", "can't name a knob"),
        ("a: {domain: '1, 2', setting: a}\nconstraints: [a > 1]\n", "maps a name to an expression"),
        ("a: {domain: '1, 2', setting: a, when: a > }\n", "is not an expression"),
    ],
)
def test_a_malformed_space_file_is_told(tmp_path: Path, text: str, said: str) -> None:
    space_file(tmp_path, "mine", text)
    assert said in error_of("target=synthetic", "space=[mine]", folders=[tmp_path])


def test_yaml_that_is_none_is_told(tmp_path: Path) -> None:
    space_file(tmp_path, "mine", "a: {domain: [\n")
    assert "mine" in error_of("target=synthetic", "space=[mine]", folders=[tmp_path])


def test_a_missing_config_dir_is_told(tmp_path: Path) -> None:
    assert "there is no such folder" in error_of(folders=[tmp_path / "nothing"])


def test_without_any_compiler_the_message_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    said = error_of("target=gemm_cpu")
    assert "g++ is not installed: install gcc" in said
    assert "optimizer doctor" in said


def test_with_clang_alone_a_target_s_own_space_takes_the_flags_of_clang(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "clang++"
    fake.write_text("#!/bin/sh\necho 'clang version 14'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    made = setup("target=gemm_cpu")
    assert made.settings.spaces == ("clangxx", "gemm")
    assert made.recipe.start[0]["compiler"] == "clang++"
    assert "is not installed: install gcc" in error_of("target=gemm_cpu", "space=[gxx,gemm]")


def test_a_replayed_study_brings_its_space(tmp_path: Path) -> None:
    from simple import MIXED, recipe_of, searched, synthetic

    from optimizer.journal import Journal, Settings
    from optimizer.recipe import Environment

    path = tmp_path / "journal.jsonl"
    trials, _ = searched(recipe_of(), synthetic(), 5)
    with Journal.create(path, "s", recipe_of(), Environment("x"), Settings()) as journal:
        for trial in trials:
            journal.on_trial(trial)
    made = setup("target=replay", f"target.file={path}")
    told = made.recipe.space.document()
    assert told.pop("only"), "the recorded points alone are valid"
    assert told == MIXED.document()
    assert made.recipe.start == (Point(dict(MIXED.baseline())),)


def test_objectives_and_limits_given_whole_replace_the_file_s(tmp_path: Path) -> None:
    words = [
        "target=synthetic",
        "objective.metrics={throughput_ips: maximize}",
        "objective.limits={latency_s: {max: 2}}",
    ]
    goal = load([*words, f"studies_dir={tmp_path}"], (), date(2026, 1, 1)).recipe.goal
    assert [(o.metric, o.direction.value) for o in goal.objectives] == [("throughput_ips", "maximize")]
    assert [(limit.metric, limit.value) for limit in goal.limits] == [("latency_s", 2.0)]
