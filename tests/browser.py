"""A page in headless Chromium: what it says on its console, what it draws, what stands in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 120.0  # of a busy machine; nothing waits so long elsewhere

needs_chromium = pytest.mark.skipif(
    shutil.which("chromedriver") is None or shutil.which("chromium") is None,
    reason="needs chromium and chromedriver (apt-get install chromium chromium-driver)",
)


@contextmanager
def browser(*, dark: bool = False, size: tuple[int, int] = (1280, 1000)) -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    words = ["--headless=new", "--disable-gpu", "--hide-scrollbars", f"--window-size={size[0]},{size[1]}"]
    if os.geteuid() == 0:
        words.append("--no-sandbox")  # Chromium refuses to start as root with it
    for word in [*words, "--disable-background-networking", "--force-color-profile=srgb"]:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(PATIENCE_S)
        if dark:
            scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        yield driver
    finally:
        driver.quit()


def console(driver: webdriver.Chrome) -> list[str]:
    """Warnings and errors."""
    log = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return [e["message"] for e in log if e["level"] in ("WARNING", "SEVERE")]


def until(driver: webdriver.Chrome, script: str) -> Any:
    """What the script returns, once that is true."""
    return WebDriverWait(driver, PATIENCE_S, 0.2).until(lambda d: d.execute_script(script))
