"""Chromium without a window."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service


class NoBrowserError(Exception):
    """Chromium or its driver is not installed."""


@contextmanager
def open_browser(profile: Path, *flags: str) -> Iterator[Chrome]:
    """Run Chromium without a window, with an empty profile of its own.

    Raises NoBrowserError if Chromium or its driver is not installed.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        raise NoBrowserError("Chromium with chromedriver is not installed")
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--window-size=1600,900",
        *flags,
    ):
        options.add_argument(flag)
    with Chrome(options=options, service=Service(driver)) as browser:
        yield browser
