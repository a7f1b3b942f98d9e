"""The browser of the tests that look at pages."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.support.browser import NoBrowserError, open_browser


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    """Chromium without a window, with an empty profile of its own."""
    try:
        with open_browser(tmp_path / "profile") as browser:
            yield browser
    except NoBrowserError as error:
        pytest.skip(f"NO BROWSER here, no page is looked at: {error}")
