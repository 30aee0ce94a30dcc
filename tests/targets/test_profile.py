"""Where compile time goes, as the compilers tell it."""

import json
from pathlib import Path

import pytest
from commands import command, error

from optimizer.config.native import found_compilers
from optimizer.report.build_advice import advice
from optimizer.targets.profile import BuildProfile, Part, clang_profile, gxx_profile, torch_phases

REPORT = """
Time variable                                   usr           sys          wall           GGC
 phase parsing                      :   0.50 ( 60%)   0.10 ( 67%)   1.30 ( 63%)    22M ( 71%)
 phase lang. deferred               :   0.20 (  8%)   0.00 ( 17%)   0.20 ( 10%)  4381k ( 13%)
 phase opt and generate             :   0.10 ( 32%)   0.05 ( 17%)   0.50 ( 24%)  3754k ( 11%)
 |name lookup                       :   0.40 ( 16%)   0.00 (  0%)   0.32 ( 16%)  1730k (  5%)
 template instantiation             :   0.25 ( 20%)   0.05 ( 17%)   0.45 ( 22%)  8709k ( 26%)
 TOTAL                              :   0.80          0.15          2.05           32M
"""


def test_the_table_of_gxx() -> None:
    found = gxx_profile(REPORT, 0.6, Path("x.cpp"), ("g++",))
    assert {p.name: round(p.seconds, 6) for p in found.phases} == {
        "headers": 0.6, "front end": 0.2, "optimiser and code": 0.15,
    }  # fmt: skip
    assert found.total_s == pytest.approx(0.95)
    assert [p.name for p in found.within] == ["template instantiation"]
    unknown = gxx_profile(REPORT, None, Path("x.cpp"), ("g++",))
    assert [p.name for p in unknown.phases] == ["front end", "optimiser and code"], "what is not known is not 0"


def test_the_trace_of_clang() -> None:
    events = [("Total Frontend", 700), ("Total Source", 500), ("Total Backend", 300), ("Total Optimizer", 200)]
    trace = {
        "traceEvents": [{"name": name, "dur": 1000 * ms} for name, ms in events]
        + [{"name": "Source", "dur": 400_000, "args": {"detail": "vector"}}]
    }
    found = clang_profile(trace, Path("x.cpp"), ())
    assert {p.name: round(p.seconds, 6) for p in found.phases} == {
        "headers": 0.5, "front end": 0.2, "optimiser": 0.2, "code": 0.1,
    }  # fmt: skip
    assert found.headers == (Part("vector", 0.4),)


def test_nested_clocks_of_torch_become_phases() -> None:
    clocks = {
        "_compile.compile_inner": 10.0, "OutputGraph.call_user_compiler": 9.0, "compile_fx_inner": 8.0,
        "GraphLowering.compile_to_module": 6.0, "async_compile.wait": 5.0,
    }  # fmt: skip
    assert [p.seconds for p in torch_phases(clocks, 12.0)] == [1.0, 1.0, 2.0, 1.0, 5.0, 2.0]


def test_advice_rests_on_figures() -> None:
    heavy = BuildProfile("x.cpp", "g++", (), (Part("headers", 6.0), Part("front end", 1.0)))
    [headers, split] = advice([heavy])
    assert headers.evidence == "headers: 6.00 of 7.00 s (86 %)"
    assert "target.sources" in split.text
    [link] = advice([BuildProfile("x.cpp", "g++", (), ()), BuildProfile("link", "g++", (), (Part("link", 1.0),))])
    assert "-fuse-ld" in link.text
    assert advice([BuildProfile("x.cpp", "g++", (), tuple(Part(str(i), 1.0) for i in range(5)))]) == []


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_a_real_build(compiler: str, tmp_path: Path) -> None:
    if compiler not in found_compilers():
        pytest.skip(f"needs {compiler}")
    space = "space=[gemm]" if compiler == "g++" else "space=[clangxx,gemm]"
    found = json.loads(command("profile-build", "gemm_cpu", space, "--json", cwd=tmp_path).stdout)
    unit, link = found["units"]
    assert unit["compiler"] == compiler and link["unit"] == "link"
    assert {p["name"] for p in unit["phases"]} >= {"headers", "front end"}
    assert unit["total_s"] > 0.1 and all(p["seconds"] >= 0 for p in unit["phases"])
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_what_builds_nothing_says_so(tmp_path: Path) -> None:
    assert "Nothing is compiled" in error("profile-build", "synthetic", cwd=tmp_path)
    assert "Did you mean" in error("profile-build", "gemm_cp", cwd=tmp_path)
