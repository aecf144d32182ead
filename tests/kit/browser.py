"""A real Chromium for a test: Debian's, with its own driver; what it asked for and what it complained of are kept."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[2]


class Browser:
    """One window, and what it has done since it was opened."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self._events: list[dict[str, Any]] = []

    def open(self, url: str) -> None:
        """Go to an address."""
        self.driver.get(url)

    def find(self, selector: str) -> WebElement:
        """The first element of a CSS selector, waited for until it is shown."""
        return WebDriverWait(self.driver, 20).until(
            lambda driver: next(
                (one for one in driver.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()), False
            ),
            f"nothing shown is {selector!r}",
        )

    def all(self, selector: str) -> list[WebElement]:
        """Every element of a CSS selector that is there now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script: str) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script)

    def size(self, width: int, height: int) -> None:
        """The window as large as such a screen: a desktop's, a phone's."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def picture(self, path: Path, *, whole: bool = False) -> Path:
        """What is seen now as PNG; `whole`: the page down to its end."""
        if whole:
            height = self.run("return document.documentElement.scrollHeight")
            width = self.run("return document.documentElement.clientWidth")
            self.size(width, min(height, 8000))
        self.driver.save_screenshot(str(path))
        return path

    def complaints(self) -> list[str]:
        """What stood in the console at level warning and above since this was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]

    def requests(self) -> list[str]:
        """Every address that was asked for since the window was opened."""
        self._events += [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event for event in self._events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]


@contextlib.contextmanager
def browser(profile: Path, language: str = "en", width: int = 1440, height: int = 900) -> Iterator[Browser]:
    """A window of its own, with nothing in its memory. `profile`: an empty folder."""
    subprocess.run([ROOT / "scripts/apt", "chromium", "chromium-driver"], check=True, timeout=600)
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for word in (
        "headless=new",
        "no-first-run",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-background-networking",
        "disable-component-update",
        f"lang={language}",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{word}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox does not start for root
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        driver.get("about:blank")
        driver.get_log("performance")  # what the browser's own first page asked for is not this window's
        window = Browser(driver)
        window.size(width, height)
        yield window
    finally:
        driver.quit()
