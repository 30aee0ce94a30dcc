"""The page: whole in itself, drawn without an error in light and dark, and its numbers are the values'."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import browser, console, needs_chromium, until
from selenium import webdriver
from simple import MIXED, limit, recipe_of, searched, synthetic

from optimizer.journal import Journal, Settings, Study, read
from optimizer.objective import Goal, Objective
from optimizer.protocols import Ending
from optimizer.readers.ingest import files_of, taken
from optimizer.recipe import Environment
from optimizer.report.overview import Overview, overview
from optimizer.report.page.page import inline, page, script_json
from optimizer.report.page.runs import Runs
from optimizer.report.page.trials import study_document
from optimizer.report.pictures.picture import how_many, thinned
from optimizer.stats import Judgement, Verdict
from optimizer.text import quantity
from optimizer.trial import Candidate, Failed, Measured, Reason, Stage, Trial, metrics_of, samples_of

CHIMERA = Path(__file__).parents[1] / "data" / "chimera"
HERE = Environment("a processor", "", {"g++": "g++ 12"}, {"cores": 2}, "abc")
EVIL = "</script><script>window.broken = 1</script> error: <b>"
ROWS = "[...document.querySelectorAll('#performance tbody tr')]"
SPECS = re.compile(r'<script type="application/json" id="specs">(.*?)</script>', re.DOTALL)


def searched_study(folder: Path, trials: int = 60) -> Study:
    """Some trials failed (one with a log that would break out of a script), some break a limit."""
    goal = Goal((Objective("latency_s"),), (limit("peak_memory_bytes", "max_degradation_pct", 10.0),))
    recipe = recipe_of(MIXED, goal=goal)
    found, _ = searched(recipe, synthetic(failing=0.2), trials)
    failed = next(t for t in found if isinstance(t.outcome, Failed))
    found[failed.number] = replace(failed, outcome=Failed(Stage.BUILD, Reason.COMPILE, EVIL))
    best = min((t for t in found if isinstance(t.outcome, Measured)), key=lambda t: samples_of(t)["latency_s"])
    path = folder / "s" / "journal.jsonl"
    with Journal.create(path, "s", recipe, HERE, Settings()) as journal:
        for trial in found:
            journal.on_trial(replace(trial, elapsed_s=trial.number * 1.5))
        journal.on_end(Ending(Verdict("latency_s", 2.0, 1.9, 2.1, Judgement.BETTER, best.number, 10)))
    return read(path)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return searched_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def single(study: Study) -> tuple[Overview, bytes]:
    found = overview([study], study.name)
    ids = {t.number: f"run{t.number}" for t in study.trials}
    return found, page(found, [study], {"s": Runs("http://127.0.0.1:5000/#/experiments/3", "parent", ids)})


@pytest.fixture(scope="module")
def chimera() -> tuple[list[Study], Overview, bytes]:
    studies = [t.study for p in files_of([CHIMERA]) if (t := taken(p)).study is not None]
    kept = [s for s in studies if s is not None]
    found = overview(kept, "chimera")
    return kept, found, page(found, kept, {})


def test_nothing_is_fetched(single: tuple[Overview, bytes], chimera: tuple[list[Study], Overview, bytes]) -> None:
    for content in (single[1], chimera[2]):
        html = re.sub(r"<script>.*?</script>", "", content.decode(), flags=re.DOTALL)
        assert not re.findall(r"""(?:src|href|action)=["'](?!#|data:)[^"']*""", html)
        assert "@import" not in html
        assert len(content) < 1.5e6


def test_text_can_t_break_out(single: tuple[Overview, bytes]) -> None:
    assert "window.broken" in single[1].decode()
    assert "<script>window.broken" not in single[1].decode()
    assert "<" not in script_json([EVIL])
    assert json.loads(script_json([EVIL])) == [EVIL]
    assert inline("**a** <i> `b` trial 3", "S1") == (
        '<strong>a</strong> &lt;i&gt; <code>b</code> <a href="#S1.3">trial 3</a>'
    )


def test_the_same_study_gives_the_same_page(study: Study, single: tuple[Overview, bytes]) -> None:
    again = page(overview([study], study.name), [study], {"s": Runs("http://127.0.0.1:5000/#/experiments/3", "parent", {
        t.number: f"run{t.number}" for t in study.trials})})  # fmt: skip
    assert again == single[1]


def specs(content: bytes) -> dict[str, Any]:
    found = SPECS.search(content.decode())
    assert found
    told = json.loads(found[1])
    assert isinstance(told, dict)
    return told


def test_a_search_has_every_picture(single: tuple[Overview, bytes]) -> None:
    names = set(specs(single[1]))
    assert {"best-over-evaluations", "best-over-time", "front", "failures", "parallel", "importance-latency_s"} <= names
    assert sum(n.startswith("slice-") for n in names) == 6


def test_the_best_so_far_is_the_best(study: Study, single: tuple[Overview, bytes]) -> None:
    points, line = specs(single[1])["best-over-evaluations"]["layer"]
    at = line["data"]["values"][-1]["at"]
    assert study.best is not None
    assert at == f"S1.{study.best.number}"
    assert sum(p["kind"] == "best so far" for p in points["data"]["values"]) == len(line["data"]["values"]) - 1 - (
        points["data"]["values"][0]["kind"] == "baseline"
    )


def test_chimera_s_pictures_show_what_its_findings_say(chimera: tuple[list[Study], Overview, bytes]) -> None:
    drawn = specs(chimera[2])
    assert {"gains", "compile-against-run", "failures", "values-latency_s"} <= set(drawn)
    gains = {row["what"]: row["gain"] for row in drawn["gains"]["layer"][1]["data"]["values"]}
    for name, finding in chimera[1].findings.items():
        for figure, value in finding.test.figures.items():
            if finding.kind == "option" and figure.endswith("_gain"):
                assert gains[f"{name} {figure.removesuffix('_gain')}"] == value
    order = next(v for n, v in drawn.items() if n.endswith("order-ttft_s") and len(v["data"]["values"]) == 36)
    assert sum(row["kind"] == "loaded the model first" for row in order["data"]["values"]) == 12


def test_thinning_keeps_what_must_be_seen_and_says_so() -> None:
    trials = [Trial(Candidate(i, recipe_of().start[0]), Failed(Stage.BUILD, Reason.COMPILE)) for i in range(5000)]
    kept = thinned(trials, {0, 4999}, 300)
    assert len(kept) == 300
    assert kept == thinned(trials, {0, 4999}, 300)
    assert {0, 4999} <= {t.number for t in kept}
    assert [t.number for t in kept] == sorted(t.number for t in kept)
    assert "300 of 5,000" in how_many(300, 5000, "the best")
    assert how_many(5, 5, "the best") == ""


def test_the_table_s_columns_are_the_trials(study: Study) -> None:
    told = study_document(study, "S1", None)
    for column in told["metrics"]:
        if column["name"] in ("gain", "latency_s"):
            continue
        for trial in study.trials:
            value = metrics_of(trial).get(column["name"])
            text = column["texts"][column["at"][trial.number]]
            assert text == ("" if value is None else quantity(column["name"], value))
            assert column["values"][trial.number] == (None if value is None else pytest.approx(value, rel=1e-5))


# --- in Chromium


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    with browser(size=(1280, 16000)) as driver:
        yield driver


def shown(driver: webdriver.Chrome, content: bytes, folder: Path) -> int:
    """Opens the page, waits for all its pictures and returns how many there are."""
    (folder / "report.html").write_bytes(content)
    driver.get("about:blank")
    driver.get((folder / "report.html").as_uri())
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")  # also those far below
    until(driver, "return [...document.querySelectorAll('figure[data-picture]')].every(f => f.dataset.drawn === 'yes')")
    assert console(driver) == []
    count = "return [...document.querySelectorAll('figure')].filter(f => f.querySelector('svg.marks path')).length"
    return int(driver.execute_script(count))


@pytest.mark.extra
@needs_chromium
def test_a_search_s_page_is_drawn_and_its_links_lead_to_trials(
    study: Study, single: tuple[Overview, bytes], chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    assert shown(chromium, single[1], tmp_path) == len(specs(single[1]))
    assert chromium.execute_script("return window.broken") is None
    best = study.best
    assert best is not None
    chromium.execute_script(f"location.hash = 'S1.{best.number}'")
    row = until(chromium, "return document.querySelector('tr.here')?.innerText")
    assert quantity("latency_s", metrics_of(best)["latency_s"]) in row
    href = chromium.execute_script("return document.querySelector('tr.here a').href")
    assert href == f"http://127.0.0.1:5000/#/experiments/3/runs/run{best.number}"
    failed = [t.number for t in study.trials if isinstance(t.outcome, Failed)]
    chromium.execute_script("document.querySelector('[data-picture=failures] a.trials').click()")
    until(chromium, f"return document.querySelectorAll('#rows tbody tr').length === {len(failed)}")
    numbers = "return [...document.querySelectorAll('#rows tbody tr')].map(r => parseInt(r.cells[0].innerText))"
    assert chromium.execute_script(numbers) == failed
    assert console(chromium) == []


@pytest.mark.extra
@needs_chromium
def test_chimera_s_page_is_drawn_and_its_numbers_are_the_values(
    chimera: tuple[list[Study], Overview, bytes], chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    _, found, content = chimera
    assert shown(chromium, content, tmp_path) == len(specs(content))
    cells = (
        "return [...document.querySelectorAll('#performance tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    rows = chromium.execute_script(cells)
    assert len(rows) == len(found.performance)
    for row, want in zip(rows, found.performance, strict=True):
        assert row[:2] == [want.metric, want.group]
        assert row[2] == quantity(want.metric, want.mean)
        assert row[4:7] == [quantity(want.metric, want.median), quantity(want.metric, want.p95), str(want.n)]
    figures = "return [...document.querySelectorAll('#F1 [data-figure]')].map(c => Number(c.dataset.figure))"
    assert chromium.execute_script(figures) == list(found.findings["F1"].test.figures.values())
    sort = "document.querySelectorAll('#performance th button')[2].click();"
    values = f"return {ROWS}.map(r => Number(r.cells[2].dataset.value))"
    assert chromium.execute_script(sort + values) == sorted(r.mean for r in found.performance)


@pytest.mark.extra
@needs_chromium
def test_light_and_dark_follow_the_system_and_the_button(single: tuple[Overview, bytes], tmp_path: Path) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    ink = "return document.querySelector('figure svg.marks text').getAttribute('fill')"
    with browser(dark=True) as driver:
        shown(driver, single[1], tmp_path)
        assert driver.execute_script(paper) == "rgb(20, 23, 28)"
        dark_ink = driver.execute_script(ink)
        driver.execute_script("document.getElementById('theme').click()")
        assert driver.execute_script(paper) == "rgb(255, 255, 255)"
        until(driver, f"return (() => {{ {ink} }})() !== '{dark_ink}'")
        assert console(driver) == []
