"""What does a search look like in MLflow's UI? Takes the pictures of docs/mlflow.md from a real one, in Chromium.

    python experiments/mlflow_ui/screenshots.py [STUDIES_DIR]

A folder that holds no store yet is searched first.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from selenium import webdriver

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # the tests' browser

from browser import PATIENCE_S, browser, until  # noqa: E402

IMAGES = ROOT / "docs" / "images"
TARGET = "gemm_cpu"
SEARCH = [f"target={TARGET}", "strategy=random", "budget.trials=24", "measure=quick", "study=shots"]
SETTLED_S = 4.0  # what moves or is drawn after the text stands
COMPARED = 4

SHOWN = "return document.body.innerText.includes({0})"
CLOSE_ASSISTANT = """
const asked = [...document.querySelectorAll("textarea, input")].find(e => e.placeholder === "Ask a question...");
for (let box = asked; box; box = box.parentElement)
  if (box.innerText.includes("MLflow Assistant") && box.innerText.includes("Beta")) {
    [...box.querySelectorAll("button")].filter(b => b.getBoundingClientRect().top < 60).at(-1).click();
    return true;
  }
return false;
"""


@contextmanager
def served(studies: Path) -> Iterator[str]:
    """`optimizer ui` on this folder's store: its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "optimizer", "ui", f"studies_dir={studies}", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _answers(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _answers(address: str, server: "subprocess.Popen[bytes]") -> None:
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.3)
    raise SystemExit(f"MLflow's server did not answer at {address}.")


def shot(driver: webdriver.Chrome, address: str, text: str, name: str) -> None:
    """The page at this address, once it shows the text."""
    driver.get("about:blank")  # an address that differs behind # alone loads nothing
    driver.get(address)
    until(driver, SHOWN.format(json.dumps(text)))
    time.sleep(SETTLED_S)
    if driver.execute_script(CLOSE_ASSISTANT):
        time.sleep(SETTLED_S)
    save(driver, name)


def save(driver: webdriver.Chrome, name: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    driver.save_screenshot(str(IMAGES / f"{name}.png"))
    print(IMAGES / f"{name}.png")


def pictures(ui: str, store: str) -> None:
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(TARGET)
    if experiment is None:
        raise SystemExit(f"{store} holds no search of {TARGET}.")
    place = experiment.experiment_id
    study = client.search_runs([place], "tags.status = 'study'", max_results=1)[0].info.run_id
    best = client.search_runs([place], "tags.status = 'measured'", order_by=["metrics.objective"], max_results=COMPARED)
    ids = json.dumps([run.info.run_id for run in best]).replace(" ", "")
    table = f"{ui}/#/experiments/{place}/runs?viewStateShareKey=optimizer"
    with browser(size=(1720, 900)) as driver:
        shot(driver, table, "matching runs", "mlflow")
        shot(driver, f"{table}&compareRunsMode=CHART", "objective", "mlflow-charts")
        compared = f'{ui}/#/compare-runs?runs={ids}&experiments=["{place}"]'
        shot(driver, compared, "Parallel Coordinates", "mlflow-compare")
        address = f"{ui}/#/experiments/{place}/runs/{study}/artifacts/report.html"
        shot(driver, address, "report.md", "mlflow-report")
        driver.switch_to.frame(driver.find_element("css selector", "iframe"))
        until(driver, "return document.body.innerText.includes('In short')")
        driver.execute_script(
            "[...document.querySelectorAll('h2')].find(h => h.innerText === 'Pictures').scrollIntoView()"
        )
        driver.switch_to.default_content()
        time.sleep(SETTLED_S)
        save(driver, "mlflow-report-pictures")


def main(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as made:
        studies = Path(words[0] if words else made).resolve()
        if not (studies / "mlflow.db").exists():
            command = [sys.executable, "-m", "optimizer", "search", *SEARCH, f"studies_dir={studies}"]
            subprocess.run(command, check=True)
        with served(studies) as ui:
            pictures(ui, f"sqlite:///{studies / 'mlflow.db'}")


if __name__ == "__main__":
    main(sys.argv[1:])
