"""What the report says of the published benchmark files, each figure computed again here from the files themselves."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from optimizer.journal import Study
from optimizer.readers.ingest import files_of, taken
from optimizer.report.data import Link, is_copy
from optimizer.report.finding import Finding
from optimizer.report.overview import Overview, document, overview
from optimizer.report.overview_markdown import findings_markdown, overview_markdown
from optimizer.report.overview_sections import ranges
from optimizer.report.warmup import far_reading
from optimizer.trial import Summary

CHIMERA = Path(__file__).parents[1] / "data" / "chimera"


@pytest.fixture(scope="module")
def studies() -> list[Study]:
    return [t.study for p in files_of([CHIMERA]) if (t := taken(p)).study is not None]


@pytest.fixture(scope="module")
def found(studies: list[Study]) -> Overview:
    return overview(studies, "chimera")


def rows(name: str) -> list[dict[str, str]]:
    with (CHIMERA / name).open(newline="") as file:
        return list(csv.DictReader(file))


def benchmark(name: str, backend: str) -> Mapping[str, Any]:
    told: Mapping[str, Any] = json.loads((CHIMERA / name).read_text())["backends"][backend]["benchmark"]
    return told


def one(found: Mapping[str, Finding], kind: str, **about: str) -> Finding:
    fit = [f for f in found.values() if f.kind == kind and all(f.about.get(k) == v for k, v in about.items())]
    assert len(fit) == 1, f"{len(fit)} findings of kind {kind} about {about}"
    return fit[0]


def test_what_was_measured_once_counts_once(found: Overview) -> None:
    assert (found.data.studies, len(found.data.copies)) == (25, 12)
    assert found.data.copies["gemma3_270m_param_tuning_summary-csv"] == "gemma3_270m_param_tuning-csv"
    assert found.data.copies["mlp_bench_20251002-165750-md"] == "mlp_bench_20251002-165750-json"
    runs = 3 * 36 + 3 * 5 + 3 * 4 + 3 * 5 + 4  # grids, prompts, backends on cpu and cuda, kernels
    assert (found.data.trials, found.data.measured) == (runs, runs - 5)
    assert found.data.failed == {"compile": 3, "timeout": 2}
    assert found.data.first.startswith("2025-10-02T20:58:02")
    assert found.data.last.startswith("2025-10-02T21:21:56")


def test_other_runs_are_no_copies(studies: list[Study]) -> None:
    by = {s.name: s for s in studies}
    assert not is_copy(by["gemma3_270m_param_tuning-csv"], by["gemma3_1b-it-qat_param_tuning-csv"])
    assert not is_copy(by["mlp_bench_20251002-165750-md"], by["mlp_cuda_bench_20251002-171845-json"])


def test_the_table_of_performance(found: Overview) -> None:
    row = next(r for r in found.performance if r.metric == "tokens_per_s" and "gemma3:270m" in r.group and r.n == 34)
    values = [float(r["tokens_s"]) for r in rows("gemma3_270m_param_tuning.csv") if r["tokens_s"]]
    assert row.mean == pytest.approx(sum(values) / 34)
    assert row.median == pytest.approx(median(values))
    assert row.p95 == sorted(values)[32]  # the smallest that 95 % of 34 don't exceed: the 33rd
    assert row.links == tuple(Link("gemma3_270m_param_tuning-csv", n) for n in range(36) if n not in (18, 19))
    compiled = next(r for r in found.performance if r.metric == "compile_time_s" and r.group.startswith("all"))
    assert compiled.n == 18, "three models, three backends on cpu and three that worked on cuda; eager compiles nothing"
    latency = next(r for r in found.performance if r.metric == "latency_s" and r.group.startswith("mlp"))
    assert (latency.n, latency.readings) == (4, 40)
    assert "gpu_utilization_pct" in found.absent
    assert not [r for r in found.performance if r.metric == "gpu_utilization_pct"], "absent is absent"


def test_the_warm_up_inside_the_mean(found: Overview) -> None:
    finding = one(found.spoils, "warmup-in-mean")
    told = json.loads((CHIMERA / "kernel_benchmarks.json").read_text())
    kernels = [told["attention"]["torch"], told["tensor_core"]["512x512x512"], told["fusion"]["baseline_linear_gelu"]]
    assert "3 of 4" in finding.statement
    assert finding.evidence == tuple(Link("kernel_benchmarks-json", n) for n in (0, 1, 2))
    for number, kernel in enumerate(kernels):
        ratio = kernel["std_time_ms"] / kernel["mean_time_ms"]
        assert 2.6 < ratio < 3.0
        assert finding.test.figures[f"sd_over_mean_{number}"] == pytest.approx(ratio)
        assert finding.test.figures[f"n_{number}"] == 10
        others = (10 * kernel["mean_time_ms"] - kernel["max_time_ms"]) / 9 / 1000
        assert finding.test.figures[f"others_s_{number}"] == pytest.approx(others)


def test_a_far_reading_is_recognised_by_its_bound() -> None:
    values = [1.0] * 9 + [11.0]
    mean, sd = 2.0, 3.0  # of ten, divided by n
    assert far_reading(Summary(mean, sd, 1.0, max(values), n=10)) == (10, 1.0)
    assert far_reading(Summary(mean, sd, 1.0, max(values))) == (10, 1.0)
    assert far_reading(Summary(1.0, 0.1, 0.8, 1.2, n=10)) is None
    assert far_reading(Summary(1.0)) is None


@pytest.mark.parametrize(
    ("name", "cold", "of"), [("gemma3_1b-it-qat", 12, 36), ("gemma3_270m", 11, 34), ("gemma3", 8, 36)]
)
def test_cold_loads_that_look_like_slow_configurations(name: str, cold: int, of: int, found: Overview) -> None:
    study, data = f"{name}_param_tuning-csv", rows(f"{name}_param_tuning.csv")
    loads = [float(r["load_s"]) for r in data if r["load_s"]]
    slow = [n for n, r in enumerate(data) if r["load_s"] and float(r["load_s"]) > 5 * median(loads)]
    assert (len(slow), len(loads)) == (cold, of)
    finding = one(found.spoils, "cold-load", study=study)
    assert finding.evidence == tuple(Link(study, n) for n in slow)
    assert finding.about["context"] == "num_ctx"
    assert "the load is inside" in finding.statement
    mistaken = one(found.spoils, "cold-load-mistaken", study=study, knob="temperature", metric="ttft_s")
    mine = [float(r["ttft_s"]) for r in data if r["ttft_s"] and r["temperature"] == "0.2"]
    others = [float(r["ttft_s"]) for r in data if r["ttft_s"] and r["temperature"] != "0.2"]
    assert mistaken.test.figures["seeming_ratio"] == pytest.approx(median(mine) / median(others))
    assert mistaken.test.holds is False


def test_what_is_left_of_the_temperature_where_it_was_measured_warm(found: Overview) -> None:
    """gemma3 alone has warm runs at 0.2: its context of 2048 was loaded already."""
    mistaken = one(found.spoils, "cold-load-mistaken", study="gemma3_param_tuning-csv", metric="ttft_s")
    warm = [r for r in rows("gemma3_param_tuning.csv") if float(r["load_s"]) < 1]
    at = [float(r["ttft_s"]) for r in warm if r["temperature"] == "0.2"]
    others = [float(r["ttft_s"]) for r in warm if r["temperature"] != "0.2"]
    assert (len(at), mistaken.test.figures["warm_at_value"]) == (4, 4)
    assert mistaken.test.figures["warm_ratio"] == pytest.approx(median(at) / median(others))
    low, high = mistaken.test.figures["warm_ratio_low"], mistaken.test.figures["warm_ratio_high"]
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert low < 1 < high


def test_time_outs_and_the_run_after_them(found: Overview) -> None:
    finding = one(found.spoils, "timeouts")
    assert finding.evidence == tuple(Link("gemma3_270m_param_tuning-csv", n) for n in (18, 19, 20))
    assert finding.test.figures["tokens_per_s_20"] == 212.7214459564417


def test_what_ran_elsewhere_or_otherwise(found: Overview) -> None:
    wrong = [f for f in found.spoils.values() if f.kind == "wrong-device"]
    assert {f.evidence for f in wrong} == {
        (Link(f"{m}-json", 3),) for m in
        ("mlp_cuda_bench_20251002-171845", "conv_cuda_bench_20251002-172037", "transformer_cuda_bench_20251002-172126")
    }  # fmt: skip
    assert len([f for f in found.spoils.values() if f.kind == "other-precision"]) == 3
    blocks = [f for f in found.spoils.values() if f.kind == "blocks"]
    assert {f.about["knob"] for f in blocks} == {"num_gpu"}
    assert len(blocks) == 3


def test_backend_against_backend(found: Overview) -> None:
    name = "conv_bench_20251002-170837"
    finding = one(found.findings, "option", study=f"{name}-json")
    eager, onnx = (benchmark(f"{name}.json", b) for b in ("eager", "onnx"))
    ratio = eager["mean_time_ms"] / onnx["mean_time_ms"]
    assert finding.test.figures["onnx_gain"] == pytest.approx(ratio)
    relative = sum((b["std_time_ms"] / b["mean_time_ms"]) ** 2 / 10 for b in (eager, onnx)) ** 0.5
    half = 2.25 * relative  # Student's t at nearly 9.5 degrees of freedom is 2.25
    assert finding.test.figures["onnx_gain_low"] == pytest.approx(ratio * (1 - half), rel=0.02)
    saved = (eager["mean_time_ms"] - onnx["mean_time_ms"]) / 1000
    assert finding.test.figures["onnx_earned_back_after"] == pytest.approx(0.13125709999985702 / saved)
    assert finding.about["sure"] == "onnx"
    assert "torch_compile_earned_back_after" not in finding.test.figures, "what is slower earns nothing back"


def test_a_fusion_that_only_the_warm_up_makes_fast(found: Overview) -> None:
    finding = one(found.findings, "option", study="kernel_benchmarks-json")
    assert finding.test.figures["fused_linear_gelu_gain"] == pytest.approx(0.7616200001393736 / 0.04947000006723101)
    assert finding.test.figures["fused_linear_gelu_gain_of_smallest"] == pytest.approx(0.0419 / 0.0395, rel=1e-4)
    assert finding.test.holds is False
    assert "by their smallest readings 1.06×" in finding.statement


def test_model_against_model(found: Overview) -> None:
    finding = next(
        f
        for f in found.findings.values()
        if f.kind == "model" and f.about["slow"] == "gemma3:1b-it-qat" and "generation" in f.statement
    )
    told = [[r for r in rows(f"gemma3_{m}_param_tuning.csv") if r["tokens_s"]] for m in ("270m", "1b-it-qat")]
    small, large = ({r["config_name"]: r for r in mine if float(r["load_s"]) < 0.5} for mine in told)
    ratios = [float(small[c]["tokens_s"]) / float(large[c]["tokens_s"]) for c in small.keys() & large.keys()]
    assert finding.test.figures["n"] == len(ratios)
    assert finding.test.figures["ratio"] == pytest.approx(median(ratios))
    assert finding.test.holds is True


def test_size_against_time_is_reported_and_not_concluded(found: Overview) -> None:
    finding = one(found.findings, "size", metric="compile_time_s")
    mlp = 256 * 512 + 512 + 512 * 512 + 512 + 512 * 256 + 256
    conv = (3 * 16 + 16 * 32) * 9 + 32 * 3 + 16 + 32 + 3
    assert f"From {conv:,} to {mlp:,} parameters" in finding.statement
    assert finding.test.figures["tensorrt on cuda"] == pytest.approx(40.534541199998785 / 17.162552000001597)
    assert finding.test.holds is None
    assert "transformer" in finding.statement


def test_which_knob_matters(found: Overview) -> None:
    finding = one(found.findings, "knob", study="gemma3_270m_param_tuning-csv", metric="tokens_per_s")
    assert finding.about["sure"] == "num_gpu"
    warm = [r for r in rows("gemma3_270m_param_tuning.csv") if r["load_s"] and float(r["load_s"]) < 0.5]
    levels = {g: median(float(r["tokens_s"]) for r in warm if r["num_gpu"] == g) for g in ("999", "80", "60", "40")}
    assert finding.test.figures["num_gpu_ratio"] == pytest.approx(max(levels.values()) / min(levels.values()))
    nothing = one(found.findings, "knob", study="gemma3_1b-it-qat_param_tuning-csv", metric="tokens_per_s")
    assert nothing.test.holds is False


def test_failures_are_counted_over_studies(found: Overview) -> None:
    finding = one(found.findings, "failure", option="torch_compile")
    assert finding.test.figures == {"failed": 3, "of": 3}
    assert "triton" in finding.statement


def test_every_finding_links_to_trials_that_exist(found: Overview, studies: list[Study]) -> None:
    by = {s.name: s for s in studies}
    for finding in [*found.findings.values(), *found.spoils.values()]:
        assert finding.test.name
        for link in finding.evidence:
            assert 0 <= link.trial < len(by[link.study].trials)
    without = {f.kind for f in [*found.findings.values(), *found.spoils.values()] if not f.evidence}
    assert without <= {"missing-metrics", "unnamed-device", "copies"}


def test_recommendations_follow_from_findings(found: Overview) -> None:
    names = {*found.findings, *found.spoils}
    assert all(a.because and set(a.because) <= names and a.rule for a in found.advice)
    texts = [a.text for a in found.advice]
    assert "Don't choose `temperature` by ttft_s." in texts
    assert any(t.startswith("Use onnx for conv_bench_20251002-170837-json: 5.5 times") for t in texts)
    assert any(t.startswith("Don't choose onnx for mlp_cuda_bench") for t in texts), "it ran on the processor"
    assert any(t.startswith("Mend or leave out torch_compile") for t in texts)
    assert not any("fused" in t for t in texts), "a gain without an interval is no reason"


def test_the_page_and_the_document_say_the_same(found: Overview) -> None:
    text = overview_markdown(found)
    told = json.loads(json.dumps(document(found), allow_nan=False))
    for title in (
        "In short",
        "Data",
        "Performance",
        "What the data say",
        "What spoils the data",
        "Recommendations",
        "Studies",
    ):
        assert text.count(f"\n## {title}\n") == 1
    for name, finding in {**found.findings, **found.spoils}.items():
        assert f"- **{name}** {finding.statement}" in text
        assert {**told["findings"], **told["spoils"]}[name]["statement"] == finding.statement
    assert told["findings"]["F1"]["evidence"][0] == {"study": "mlp_bench_20251002-165750-json", "trial": 0}
    assert "S10:0-17,20-35" in text
    assert overview_markdown(found) == text


def test_the_same_data_say_the_same_again(studies: list[Study], found: Overview) -> None:
    assert document(overview(list(reversed(studies)), "chimera")) == document(found)


def test_a_single_study_has_no_news_of_sets(studies: list[Study]) -> None:
    mine = [s for s in studies if s.name == "kernel_benchmarks-json"]
    text = findings_markdown(overview(mine, "k"))
    assert "The warm-up is inside the mean" in text
    assert "Nothing in the data says" not in text


def test_numbers_are_written_as_ranges() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
