"""`search` as scripts and people use it: its words, its JSON, its exit codes, its wrong words."""

import json
from pathlib import Path

import pytest
from commands import QUICK, command, error, lines, search_json

KEYS = {
    "study", "recipe_key", "target", "strategy", "trials", "measured", "failed", "baseline", "best", "verdict",
    "journal", "tracking", "seconds", "saved",
}  # fmt: skip


def test_json_is_one_object_and_agrees_with_the_journal(tmp_path: Path) -> None:
    found = search_json(*QUICK, "study=one", "tracking=none", cwd=tmp_path)
    assert set(found) == KEYS
    trials = [line for line in lines(tmp_path / "studies/one/journal.jsonl") if line.get("kind") == "trial"]
    assert found["trials"] == len(trials) == 12
    assert found["measured"] + sum(found["failed"].values()) == 12
    assert found["journal"] == "studies/one/journal.jsonl"
    assert found["tracking"] is None
    assert set(found["verdict"]) == {"metric", "ratio", "low", "high", "verdict", "number"}
    assert found["verdict"]["number"] == found["best"]["number"]
    assert found["verdict"]["low"] <= found["verdict"]["ratio"] <= found["verdict"]["high"]
    assert found["verdict"]["verdict"] == "better"
    assert found["best"]["metrics"]["latency_s"] < found["baseline"]["metrics"]["latency_s"]
    assert {"latency_s", "throughput_ips", "compile_time_s", "peak_memory_bytes"} <= set(found["baseline"]["metrics"])


def test_the_same_seed_searches_the_same_points(tmp_path: Path) -> None:
    def points(name: str, seed: int) -> list[object]:
        words = (*QUICK, "tracking=none", f"study={name}", f"seed={seed}", "target.noise=0")
        search_json(*words, "strategy=random", cwd=tmp_path)
        return [x["point"] for x in lines(tmp_path / f"studies/{name}/journal.jsonl") if x.get("kind") == "trial"]

    first = points("a", 1)
    assert points("b", 1) == first
    assert points("c", 2) != first


def test_identical_points_are_never_called_better(tmp_path: Path) -> None:
    """A/A: every configuration builds the same thing."""
    words = (*QUICK, "tracking=none", "study=aa", "target.alike=true")
    found = search_json(*words, cwd=tmp_path)
    assert found["verdict"]["verdict"] == "same"
    assert found["best"]["number"] == 0


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    words = (*QUICK, "tracking=none", "study=two", "objective=latency_and_memory", "strategy=nsga2")
    found = search_json(*words, cwd=tmp_path)
    assert set(found) == {*KEYS, "front"}
    values = [(t["metrics"]["latency_s"], t["metrics"]["peak_memory_bytes"]) for t in found["front"]]
    assert values
    for a in values:
        assert not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in values)


def test_what_a_person_sees(tmp_path: Path) -> None:
    done = command("search", *QUICK, "tracking=none", "study=seen", cwd=tmp_path)
    assert "Better: trial" in done.stdout
    assert "next: python -m optimizer report seen" in done.stdout
    assert "trial    0" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr  # no colours into a pipe
    assert "MLflow" not in done.stdout + done.stderr


def test_a_dry_run_shows_the_plan_and_touches_nothing(tmp_path: Path) -> None:
    said = command("search", "--dry-run", "target=gemm_cpu", "budget.trials=50", cwd=tmp_path).stdout
    for part in (
        "valid configurations",
        "50 trials",
        "minimize latency_s",
        "The first configurations",
        "gemm.cpp",
        "-O3",
    ):
        assert part in said
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_can_be_printed_and_used_again(tmp_path: Path) -> None:
    words = ("target=synthetic", "space.unroll=choice(2, 4)", "seed=3", "space.batch=8")
    text = command("search", "--print-config", *words, cwd=tmp_path).stdout
    assert "seed: 3" in text
    assert list(tmp_path.iterdir()) == []


def test_a_domain_on_the_command_line_changes_the_domain_alone(tmp_path: Path) -> None:
    words = (*QUICK, "tracking=none", "study=pinned", "space.unroll=choice(2, 4)", "space.batch=8", "baseline.batch=8")
    command("search", *words, "baseline.unroll=2", "target.failing=0", cwd=tmp_path)
    points = [x["point"] for x in lines(tmp_path / "studies/pinned/journal.jsonl") if x.get("kind") == "trial"]
    assert {p["batch"] for p in points} == {8}
    assert {p["unroll"] for p in points} == {2, 4}


def test_an_existing_study_is_refused_with_advice_and_can_be_resumed(tmp_path: Path) -> None:
    words = (*QUICK, "tracking=none", "study=again")
    search_json(*words, cwd=tmp_path)
    assert "--resume" in error("search", *words, cwd=tmp_path)
    found = search_json("study=again", "--resume", "budget.trials=20", cwd=tmp_path)
    assert found["trials"] == 20
    numbers = [x["number"] for x in lines(tmp_path / "studies/again/journal.jsonl") if x.get("kind") == "trial"]
    assert numbers == list(range(20))


def test_a_study_is_resumed_with_a_setting_of_a_group_that_it_chose(tmp_path: Path) -> None:
    search_json(*QUICK, "strategy=genetic", "strategy.population=8", "tracking=none", "study=bred", cwd=tmp_path)
    found = search_json("study=bred", "--resume", "strategy.population=8", "budget.trials=16", cwd=tmp_path)
    assert found["trials"] == 16


def test_a_plan_of_a_search_in_an_allocation_needs_no_machines_even_where_a_file_asks_for_them(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\n# Sent into an allocation.\ndefaults:\n  - override /executor: slurm\n"
    (tmp_path / "experiment" / "sent.yaml").write_text(text, encoding="utf-8")
    words = (f"--config-dir={tmp_path}", "target=synthetic", "experiment=sent", "budget.trials=5", "tracking=none")
    assert "budget      5 trials" in command("search", *words, "--dry-run", cwd=tmp_path).stdout


def test_resuming_with_another_recipe_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    search_json(*QUICK, "tracking=none", "study=other", cwd=tmp_path)
    assert "seed" in error("search", "study=other", "--resume", "seed=9", cwd=tmp_path)


def test_a_study_without_a_name_gets_one(tmp_path: Path) -> None:
    names = {search_json(*QUICK, "tracking=none", cwd=tmp_path)["study"] for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("synthetic") for name in names)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["target=gem_cpu"], ["gem_cpu", "gemm_cpu"]),
        (["target=synthetic", "strategy=tpa"], ["tpa", "tpe"]),
        (["target=synthetic", "space.unrol=2"], ["unrol", "unroll"]),
        (["target=synthetic", "budgit.trials=2"], ["budgit", "budget"]),
        (["target=synthetic", "budget.trials=many"], ["budget.trials", "many"]),
        (["target=synthetic", "objective=speed"], ["speed"]),
        (["target=synthetic", "space.unroll=choice("], ["unroll"]),
        (["target=synthetic", "space.unroll='choice(2, 4)'"], ["unroll", "quotes"]),
        (["target=synthetic", "space.constraints.none='unroll > 99'"], ["none"]),
        (["target=synthetic", "space=[synthetic,sythetic]"], ["sythetic", "synthetic"]),
        (["target=synthetic", "device=cuda"], ["cuda"]),
        (["target=synthetic", "study=a/b"], ["a/b"]),
        (["target=synthetic", "budget.trials=0"], ["budget.trials"]),
        (["--resume"], ["study=NAME"]),
        (["--resume", "study=none"], ["no study none"]),
        (["nonsense"], ["nonsense"]),
    ],
    ids=str,
)
def test_a_wrong_word_is_told_with_its_remedy(words: list[str], says: list[str], tmp_path: Path) -> None:
    said = error("search", *words, cwd=tmp_path)
    assert all(part in said for part in says), said
    assert list(tmp_path.iterdir()) == []


def test_grid_on_a_continuous_knob_is_unfit(tmp_path: Path) -> None:
    words = ("target=synthetic", "strategy=grid", "space.unroll=interval(1.0, 2.0)")
    assert "grid" in error("search", *words, cwd=tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = error("search", *QUICK, "tracking=none", "studies_dir=file", cwd=tmp_path)
    assert "file" in said


def test_a_foreign_journal_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "studies" / "x" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text('{"some": "thing"}\n')
    assert "journal" in error("search", "study=x", "--resume", cwd=tmp_path)
    assert "journal" in error("report", "x", cwd=tmp_path)
    assert journal.read_text() == '{"some": "thing"}\n'


def test_a_full_disk_is_told_and_costs_nothing_recorded(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: both end in a failing write."""
    limited = ("bash", "-c", 'ulimit -f 24; trap "" XFSZ; exec "$@"', "limited")
    from commands import PROGRAM

    done = command(
        "search", *QUICK, "budget.trials=500", "tracking=none", "study=full",
        cwd=tmp_path, status=1, program=(*limited, *PROGRAM),
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "--resume" in done.stderr
    journal = tmp_path / "studies/full/journal.jsonl"
    kept = [x for x in lines(journal) if x.get("kind") == "trial"]
    assert kept
    found = search_json("study=full", "--resume", f"budget.trials={len(kept) + 5}", cwd=tmp_path)
    assert found["trials"] == len(kept) + 5


def test_no_compiler_is_told_with_how_to_get_one(tmp_path: Path) -> None:
    import sys

    done = command(
        "search", "target=gemm_cpu", cwd=tmp_path, status=2, env={"PATH": "/nonexistent"},
        program=(sys.executable, "-m", "optimizer"),
    )  # fmt: skip
    assert "g++" in done.stderr
    assert "install" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_real_search_compiles_runs_and_proves(tmp_path: Path) -> None:
    """The smallest real one: a matrix product, a few flags, the whole way to an export that reproduces it."""
    words = ("target=gemm_cpu", "measure=quick", "budget.trials=6", "target.options.m=96", "target.options.n=96")
    more = ("target.options.k=96", "tracking=none", "measure.confirm.max_seconds=1")
    found = search_json(*words, *more, "study=real", cwd=tmp_path)
    assert found["trials"] == 6
    metrics = found["baseline"]["metrics"]
    for name in ("compile_time_s", "latency_s", "throughput_ips", "peak_memory_bytes", "cpu_time_s", "max_rel_error"):
        assert metrics[name] >= 0
    assert metrics["achieved_flop_per_s"] * metrics["latency_s"] == pytest.approx(2 * 96**3, rel=0.2)
    command("export", "real", "--force", cwd=tmp_path)
    folder = tmp_path / "exports" / "real"
    assert {p.name for p in folder.rglob("*") if p.is_file()} == {
        "flags.rsp", "config.h", "winner.yaml", "provenance.json", "program",
        "winner.cmake", "CMakePresets.json", "winner.env", "winner.json",
    }  # fmt: skip
    repeated = search_json("--config-dir", str(folder), "experiment=winner", "tracking=none", "study=rep", cwd=tmp_path)
    assert repeated["trials"] == 2
    wanted = json.loads((folder / "provenance.json").read_text())["point"]
    points = [x["point"] for x in lines(tmp_path / "studies/rep/journal.jsonl") if x.get("kind") == "trial"]
    assert wanted in points
