"""Benchmark files as studies: each kind's numbers, checked by hand against the files, and files that are none."""

import gzip
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from optimizer.errors import ConfigError
from optimizer.feasible import Feasible
from optimizer.journal import Study, journal_bytes, read
from optimizer.readers.formats import FORMATS
from optimizer.readers.ingest import files_of, kept, source_of, taken
from optimizer.readers.recording import recording
from optimizer.targets.replay import Replay
from optimizer.trial import Failed, Measured, Reason, Stage, Summary, Trial, metrics_of, samples_of

DATA = Path(__file__).parents[1] / "data"
CHIMERA, OTHERS = DATA / "chimera", DATA / "benchmarks"


def study(path: Path) -> Study:
    found = taken(path)
    assert found.study is not None, found.why
    return found.study


def chimera(name: str) -> Study:
    return study(CHIMERA / name)


def other(name: str) -> Study:
    return study(OTHERS / name)


def at(found: Study, **point: object) -> Trial:
    return next(t for t in found.trials if all(t.point.get(k) == v for k, v in point.items()))


def summary(trial: Trial, metric: str) -> Summary:
    assert isinstance(trial.outcome, Measured)
    return trial.outcome.summaries[metric]


def failure(trial: Trial) -> Failed:
    assert isinstance(trial.outcome, Failed)
    return trial.outcome


def test_backends_of_a_model_with_the_one_that_failed() -> None:
    found = chimera("conv_cuda_bench_20251002-172037.json")
    assert [t.point["backend"] for t in found.trials] == ["eager", "jit", "torch_compile", "onnx", "tensorrt"]
    told = summary(at(found, backend="tensorrt"), "latency_s")
    assert told.n == 10
    assert [told.mean, told.sd, told.low, told.high] == pytest.approx(
        [431.04e-6, 162.728836e-6, 368.4e-6, 918e-6], rel=1e-6
    )
    assert metrics_of(at(found, backend="tensorrt"))["compile_time_s"] == pytest.approx(17.162552)
    broken = failure(at(found, backend="torch_compile"))
    assert (broken.stage, broken.reason) == (Stage.BUILD, Reason.COMPILE)
    assert broken.log.startswith("Cannot find a working triton installation.")
    assert "compile_time_s" not in metrics_of(at(found, backend="eager")), "nothing was compiled: absent, not 0"
    assert found.environment.device == "cuda"
    assert source_of(found)["date"] == "2025-10-02T21:21:05.012820+00:00"


def test_samples_are_not_invented_where_a_file_has_a_summary() -> None:
    for name in ("mlp_bench_20251002-165750.json", "mlp_bench_20251002-165750.md", "kernel_benchmarks.json"):
        for trial in chimera(name).trials:
            assert isinstance(trial.outcome, Measured)
            assert not trial.outcome.samples
            assert len(samples_of(trial)["latency_s"]) == 1, "one number, the mean as it was told"


def test_the_table_of_a_report_says_what_its_data_say_rounded() -> None:
    table, data = (chimera(f"transformer_bench_20251002-170914.{e}") for e in ("md", "json"))
    for mine, theirs in zip(table.trials, data.trials, strict=True):
        assert mine.point == theirs.point
        a, b = summary(mine, "latency_s"), summary(theirs, "latency_s")
        assert [a.mean, a.sd, a.high] == pytest.approx([b.mean, b.sd, b.high], abs=0.51e-6)
        assert a.n is None, "the table does not say of how many runs"
    broken = failure(at(chimera("conv_cuda_bench_20251002-172037.md"), backend="torch_compile"))
    assert broken.log.startswith("Cannot find a working triton")


def test_a_grid_keeps_its_order_its_failures_and_its_empty_fields() -> None:
    found = chimera("gemma3_270m_param_tuning.csv")
    assert len(found.trials) == 36
    assert dict(found.trials[0].point) == {"num_gpu": 999, "num_ctx": 1024, "temperature": 0.2}
    first = metrics_of(found.trials[0])
    assert (first["ttft_s"], first["tokens_per_s"]) == (1.1485114, 278.84860554273496)
    assert (first["load_s"], first["generated_tokens"]) == (0.966329, 410.0)
    late = [t for t in found.trials if isinstance(t.outcome, Failed)]
    assert [t.number for t in late] == [18, 19]
    assert {(failure(t).reason, failure(t).log) for t in late} == {(Reason.TIMEOUT, "timed out")}
    assert not samples_of(late[0])


def test_the_means_of_a_grid_and_prompts() -> None:
    found = chimera("gemma3_param_tuning_summary.csv")
    assert summary(found.trials[0], "tokens_per_s") == Summary(mean=103.15646723891811)
    for name in ("gemma3_1b-it-qat_baseline.json", "gemma3_1b-it-qat_baseline.csv"):
        answers = chimera(name)
        assert answers.recipe.target.options["facts"] == {"model": "gemma3:1b-it-qat"}
        assert metrics_of(answers.trials[0])["ttft_s"] == pytest.approx(2.3189992)
        assert metrics_of(answers.trials[4])["generated_tokens"] == 776


def test_single_kernels() -> None:
    found = chimera("kernel_benchmarks.json")
    told = summary(at(found, kernel="torch"), "latency_s")
    assert [told.mean, told.sd] == pytest.approx([24.61569e-3, 73.1575095e-3], rel=1e-6)
    assert told.n is None


def test_llama_bench() -> None:
    for name in ("llama_bench.json", "llama_bench.jsonl"):
        prompt, answer = other(name).trials
        assert samples_of(prompt)["prefill_tokens_per_s"] == (6863.1, 7147.55, 7136.37, 7115.79, 7237.21)
        assert "tokens_per_s" not in samples_of(prompt), "a prompt's speed is not an answer's"
        assert samples_of(answer)["tokens_per_s"] == (119.03, 120.178, 119.43, 118.307, 117.464)
        assert samples_of(answer)["latency_s"][0] == pytest.approx(1.0753613)
        assert other(name).environment.device == "NVIDIA GeForce RTX 4080"


def test_google_benchmark() -> None:
    found = other("google_benchmark.json")
    assert [t.point["benchmark"] for t in found.trials] == ["sum_list/1000", "sum_list/4000", "skipped", "join_words"]
    first = samples_of(found.trials[0])["latency_s"]
    assert len(first) == 8, "repetitions are readings, aggregates are none"
    assert first[0] == pytest.approx(7.44521401551272e-6)
    assert samples_of(at(found, benchmark="join_words"))["latency_s"][4] == pytest.approx(739.8837025375908e-9)
    assert failure(at(found, benchmark="skipped")).log == "no device"


def test_google_benchmark_with_aggregates_only(tmp_path: Path) -> None:
    document = json.loads((OTHERS / "google_benchmark.json").read_text())
    document["benchmarks"] = [b for b in document["benchmarks"] if b["run_type"] == "aggregate"]
    (tmp_path / "a.json").write_text(json.dumps(document))
    told = summary(study(tmp_path / "a.json").trials[0], "latency_s")
    assert told.n == 8
    assert [told.mean, told.median, told.sd] == pytest.approx(
        [4.837980120763499e-6, 3.8175166399944245e-6, 1.9678454402158088e-6]
    )


def test_pytest_benchmark_with_and_without_its_rounds(tmp_path: Path) -> None:
    found = other("pytest_benchmark.json")
    first = found.trials[0]
    assert first.point["benchmark"] == "test_pb.py::test_sum[100]"
    assert len(samples_of(first)["latency_s"]) == 12
    assert min(samples_of(first)["latency_s"]) == 5.153000529389829e-07
    assert found.environment.device == "Intel(R) Xeon(R) Processor"
    document = json.loads((OTHERS / "pytest_benchmark.json").read_text())
    for entry in document["benchmarks"]:
        del entry["stats"]["data"]
    (tmp_path / "a.json").write_text(json.dumps(document))
    told = summary(study(tmp_path / "a.json").trials[0], "latency_s")
    assert (told.n, told.median) == (12, 5.218500518822111e-07)


def test_hyperfine_in_both_schemas() -> None:
    found = other("hyperfine.json")
    assert [t.point["n"] for t in found.trials] == [1000, 2000, 3000]
    assert samples_of(found.trials[0])["latency_s"][0] == 0.255962921
    assert metrics_of(found.trials[0])["cpu_time_s"] == pytest.approx(0.056681125 + 0.02433925)
    wrong, right = other("hyperfine_failed.json").trials
    assert failure(wrong).log == "3 of 3 runs ended with exit code 1"
    assert isinstance(right.outcome, Measured)
    first, second = other("hyperfine_2.json").trials
    assert samples_of(first)["latency_s"] == (1.0021, 1.0019)
    assert samples_of(first)["peak_memory_bytes"] == (2097152.0, 2101248.0)
    assert failure(second).log == "1 of 2 runs ended with exit code 1"


def test_optimum_benchmark() -> None:
    found = other("optimum_benchmark.json")
    values = samples_of(found.trials[0])
    assert values["ttft_s"] == (0.0211, 0.0208, 0.0209, 0.0212, 0.0208)
    assert values["load_s"] == (0.912345,)
    assert values["tokens_per_s"][0] == pytest.approx(254 / (4.34 / 5))
    assert values["peak_memory_bytes"] == (1231.0e6,), "MB are 10⁶ bytes, the most of all parts"
    assert values["energy_j"][0] == pytest.approx(2.1e-5 * 3.6e6)
    assert found.environment.device == "NVIDIA A10G"


def test_a_cache_of_kernel_tuner_and_t4(tmp_path: Path) -> None:
    cache = {"1": {"a": 1, "time": 2.0, "times": [1.0, 3.0]}, "2": {"a": 2, "time": "CompilationFailedConfig"}}
    told = {"device_name": "a GPU", "kernel_name": "k", "tune_params_keys": ["a"], "tune_params": {"a": [1, 2]}}
    (tmp_path / "k.json.gz").write_bytes(gzip.compress(json.dumps({**told, "cache": cache}).encode()))
    found = study(tmp_path / "k.json.gz")
    assert (found.name, found.environment.device) == ("k-json-gz", "a GPU")
    assert metrics_of(found.trials[0])["latency_s"] == 0.002
    assert failure(found.trials[1]).reason is Reason.COMPILE
    result = {"configuration": {"a": 1}, "times": {"runtimes": [2.0]}, "invalidity": "correct", "measurements": []}
    t4 = {"schema_version": "1.0.0", "metadata": {"timeunit": "miliseconds"}, "results": [result]}
    (tmp_path / "t4.json").write_text(json.dumps(t4))
    assert metrics_of(study(tmp_path / "t4.json").trials[0])["latency_s"] == 0.002


def test_every_kind_of_file_is_in_the_data_or_in_a_test_above() -> None:
    read = {taken(p).what for p in files_of([DATA])} - {""}
    assert {f.what for f in FORMATS} - read == {"Kernel Tuner cache", "T4 results"}


def test_provenance_is_kept() -> None:
    path = CHIMERA / "kernel_benchmarks.json"
    source = source_of(study(path))
    assert source["file"] == "kernel_benchmarks.json"
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source["date_from"] == "the file's last change"


@pytest.mark.parametrize("path", [p for p in files_of([DATA]) if taken(p).study], ids=lambda p: p.name)
def test_every_study_survives_its_journal_and_is_replayed(path: Path, tmp_path: Path) -> None:
    found = study(path)
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal_bytes(found))
    again = read(journal)
    assert again == replace(found, recipe=again.recipe)
    assert again.recipe.key == found.recipe.key
    if not any(isinstance(t.outcome, Measured) for t in found.trials):
        return
    record = recording(journal)
    assert Feasible(record.space).count == len({t.point for t in found.trials})
    replayed = Replay(record.trials)
    first = next(t for t in found.trials if isinstance(t.outcome, Measured))
    with replayed.open(replayed.build(first.point)) as runner:
        metrics = runner.run(1)
    assert metrics[found.recipe.goal.first.metric], "a summary answers with its one number"


def test_the_same_file_twice_changes_nothing(tmp_path: Path) -> None:
    files = files_of([CHIMERA])
    first = list(kept(files, tmp_path / "studies"))
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "studies").rglob("*") if p.is_file()}
    second = list(kept(files, tmp_path / "studies"))
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "studies").rglob("*") if p.is_file()}
    assert before == after
    assert [t.state for t in first].count("new") == 25
    assert [t.state for t in second].count("known") == 25
    shutil.copy(CHIMERA / "kernel_benchmarks.json", tmp_path / "another name.json")
    assert next(iter(kept([tmp_path / "another name.json"], tmp_path / "studies"))).state == "known"


def test_a_file_that_has_changed_is_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "kernel_benchmarks.json"
    shutil.copy(CHIMERA / path.name, path)
    list(kept([path], tmp_path / "studies"))
    path.write_text(path.read_text().replace("24.615689999973256", "25.0"))
    again = next(iter(kept([path], tmp_path / "studies")))
    assert again.state == "new"
    assert again.study is not None
    assert again.study.name == f"kernel_benchmarks-json-{again.study.id[:8]}"
    assert len(list((tmp_path / "studies").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "content", "state", "why"),
    [
        ("a.txt", b"hello", "unknown", "text of an unknown kind"),
        ("a.json", b'{"a": 1}', "unknown", "keys: a"),
        ("a.csv", b"x,y,z\n1,2,3\n", "unknown", "columns: x, y, z"),
        ("a.png", b"\x89PNG\xff\xfe", "unknown", "no text"),
        ("b.json", b'{"a": ', "damaged", "called JSON and is none"),
        ("c.json", b"", "damaged", "empty"),
        ("d.json.gz", gzip.compress(b"{}", mtime=0)[:9], "damaged", "compression"),
        ("e.json", b'{"cache": {"a": 3}, "tune_params": {"x": [1]}}', "damaged", "looks like Kernel Tuner cache"),
        ("f.csv", b"num_gpu,num_ctx,temperature,ttft_s,tokens_s\n1,2,0.1,oops,3\n", "damaged", "no number"),
        ("g.csv", b"prompt,ttft_s,tokens_s\nhello,1\n", "damaged", "line 2"),
        ("h.json", b'{"machine_info": {}, "benchmarks": []}', "damaged", "no result"),
    ],
)
def test_files_that_are_none_are_told_apart(name: str, content: bytes, state: str, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = taken(tmp_path / name)
    assert (found.state, found.study) == (state, None)
    assert why in found.why


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        files_of([tmp_path / "missing"])


def test_a_device_is_named_where_the_file_names_none() -> None:
    named = taken(CHIMERA / "kernel_benchmarks.json", "RTX 4080 laptop").study
    assert named is not None
    assert named.environment.device == "RTX 4080 laptop"
    kept_name = taken(OTHERS / "llama_bench.json", "another").study
    assert kept_name is not None
    assert kept_name.environment.device == "NVIDIA GeForce RTX 4080"
