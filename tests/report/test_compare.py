"""Comparisons: the right pairs, ratios computed again by hand, and refusals with their reason."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from simple import MIXED, measured, recipe_of

from optimizer.errors import ConfigError
from optimizer.export.provenance import provenance
from optimizer.export.shipment import Shipment
from optimizer.journal import Study
from optimizer.readers.ingest import taken
from optimizer.recipe import Environment, Part
from optimizer.report.compare import BEST, Side, compare, side_of, side_of_export
from optimizer.trial import metrics_of

DATA = Path(__file__).parents[1] / "data"
CHIMERA = DATA / "chimera"


def side(name: str) -> Side:
    found = taken(CHIMERA / name).study
    assert found is not None
    return side_of(name, [found])


def searched(name: str, *times: float, options: dict[str, str] | None = None, device: str = "here") -> Study:
    """A study of a target whose trials have ten readings around each time."""
    recipe = replace(recipe_of(MIXED), target=Part("gemm", options or {"source": "abc"}))
    trials = tuple(measured(n, latency_s=tuple(t * (1 + k / 1000) for k in range(10))) for n, t in enumerate(times))
    return Study(name, recipe, Environment(device, compilers={"g++": "12"}), trials)


def test_the_same_model_on_two_devices() -> None:
    found = compare(side("conv_bench_20251002-170837.json"), side("conv_cuda_bench_20251002-172037.json"))
    assert [p.what for p in found.pairs] == ["backend=eager", "backend=jit", "backend=onnx", BEST]
    eager = found.pairs[0]
    assert eager.ratio.value == pytest.approx(3.812139999899955 / 0.15366000006906688)
    assert eager.interval
    assert eager.ratio.low < eager.ratio.value < eager.ratio.high
    assert found.unmatched == (1, 1), "torch_compile failed on one side, tensorrt is on the other alone"
    assert found.environment == ("device: 'cpu' → 'cuda'",)
    best = found.pairs[-1]
    assert best.changed == ("backend: 'onnx' → 'eager'",)
    assert any("ran on the processor" in w for w in found.warnings), "what spoils a side is told with the ratio"
    assert any("devices differ" in w for w in found.warnings)


def test_two_models_over_the_configurations_that_both_have() -> None:
    a, b = side("gemma3_270m_param_tuning.csv"), side("gemma3_1b-it-qat_param_tuning.csv")
    found = compare(a, b)
    assert found.metric == "tokens_per_s"
    mine, theirs = ({r.point: r.summaries["tokens_per_s"].mean for r in s.rows} for s in (a, b))
    ratios = [theirs[p] / mine[p] for p in mine]  # type: ignore[operator]
    assert len(ratios) == 34
    assert found.overall is not None
    assert found.overall.value == pytest.approx(median(ratios))
    assert found.unmatched == (0, 2)
    assert "fact model: 'gemma3:270m' → 'gemma3:1b-it-qat'" in found.environment
    assert not any(p.interval for p in found.pairs), "one reading each"
    back = compare(b, a)
    assert back.overall is not None
    assert back.overall.value == pytest.approx(1 / found.overall.value, rel=0.01)


def test_a_study_against_itself_is_one() -> None:
    mine = side("mlp_cuda_bench_20251002-171845.json")
    found = compare(mine, mine)
    assert [p.ratio.value for p in found.pairs] == [1.0] * 4
    assert found.environment == ()


def test_searches_are_compared_by_what_they_end_with() -> None:
    a, b = searched("a", 2.0, 1.0), searched("b", 2.0, 0.5, 0.7, device="there")
    found = compare(side_of("a", [a]), side_of("b", [b]))
    best = next(p for p in found.pairs if p.a_place == "a trial 1" and p.b_place == "b trial 1")
    assert best.ratio.value == pytest.approx(2.0)
    assert best.how.startswith("medians of readings")
    assert "device: 'here' → 'there'" in found.environment


def test_an_export_is_compared_with_a_study() -> None:
    study = searched("a", 2.0, 1.0)
    told = json.loads(provenance(Shipment(study, study.trials[1]), {}, (), "point"))
    found = compare(side_of_export("shipped", told), side_of("b", [searched("b", 2.0, 0.5)]))
    assert found.pairs[-1].ratio.value == pytest.approx(metrics_of(study.trials[1])["latency_s"] / (0.5 * 1.0045))
    assert not found.pairs[-1].interval


def test_other_work_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not run the same work: conv, .* against mlp"):
        compare(side("conv_bench_20251002-170837.json"), side("mlp_bench_20251002-165750.json"))


def test_another_source_of_the_same_target_is_refused_with_the_difference() -> None:
    a, b = searched("a", 1.0), searched("b", 1.0, options={"source": "other"})
    with pytest.raises(ConfigError, match="source: 'abc' → 'other'"):
        compare(side_of("a", [a]), side_of("b", [b]))


def test_a_metric_that_one_side_lacks_is_refused_with_what_it_has() -> None:
    a = side("gemma3_baseline.json")
    with pytest.raises(ConfigError, match=r"has no latency_s.*tokens_per_s"):
        compare(a, a, "latency_s")
    with pytest.raises(ConfigError, match="Neither way is generated_tokens better"):
        compare(a, a, "generated_tokens")


def test_sets_without_a_benchmark_in_common_are_refused() -> None:
    found = taken(CHIMERA / "gemma3_baseline.json").study
    assert found is not None
    some, rest = (replace(found, name=n, trials=t) for n, t in (("a", found.trials[:2]), ("b", found.trials[2:])))
    with pytest.raises(ConfigError, match="no benchmark in common"):
        compare(side_of("a", [some]), side_of("b", [rest]))


def test_what_measured_nothing_and_what_is_no_export_is_refused() -> None:
    failed = taken(DATA / "benchmarks" / "hyperfine_failed.json").study
    assert failed is not None
    with pytest.raises(ConfigError, match="nothing to compare"):
        side_of("x", [replace(failed, trials=failed.trials[:1])])
    with pytest.raises(ConfigError, match="no export"):
        side_of_export("x", {"a": 1})
