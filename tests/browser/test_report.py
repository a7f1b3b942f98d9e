"""The report of a batch in a real browser: it can be read and printed, and nothing in it runs."""

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from tests.support import CommandLine, members, recording
from tests.support.stores import MakeStore
from worker.domain.outcomes import Envelope
from worker.domain.states import State
from worker.operations.registry import OPERATIONS

HOSTILE = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
READABLE = 4.5
"""The least contrast of text by WCAG 2.2, level AA."""

COLORS = """
const shown = element => element.getClientRects().length > 0;
const holdsText = element => [...element.childNodes].some(
  node => node.nodeType === Node.TEXT_NODE && node.data.trim());
const background = element => {
  for (let each = element; each; each = each.parentElement) {
    const color = getComputedStyle(each).backgroundColor;
    if (color !== "rgba(0, 0, 0, 0)") return color;
  }
};
return [...document.body.querySelectorAll("*")]
  .filter(element => shown(element) && holdsText(element))
  .map(element => {
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    return [element.textContent.trim(), ink, background(element)];
  })
"""


@pytest.fixture
async def report(make_store: MakeStore, command: CommandLine, tmp_path: Path) -> str:
    """The address of the report of a batch that is under way, with a hostile error."""
    store = await make_store()
    await store.announce_batch("b", 5)
    for n in range(4):
        request = OPERATIONS.parse(members(f"d{n}", batchId="b"))
        await store.admit(Envelope(import_id=f"i{n}", task_id=f"i{n}"), request, "us-east-1")
    claims, _ = await store.claim(3)
    for claim in claims:
        await recording.run(store, claim, job_id=f"job-{claim.item.id}")
    (failed, succeeded), _ = await store.claim(2)
    await recording.finish(store, failed, State.FAILED, error=HOSTILE)
    await recording.finish(store, succeeded, State.SUCCEEDED)
    path = tmp_path / "report.html"
    assert command("report", "b", "-o", path).returncode == 0
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_in_both_color_schemes(
    browser: Chrome, report: str, scheme: str
) -> None:
    _emulate(browser, features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.get(report)
    found = browser.execute_script(COLORS)
    assert len(found) > 100
    paper = _luminance(browser.execute_script(COLORS.replace(".map(", ".slice(0, 1).map("))[0][2])
    assert (paper < 0.1) == (scheme == "dark")
    low = [each for each in found if _contrast(each[1], each[2]) < READABLE]
    assert low == []


def test_hostile_text_is_shown_and_does_not_run(browser: Chrome, report: str) -> None:
    browser.get(report)
    assert browser.title == "Batch b: import report"
    assert "<script>document.title" in browser.execute_script("return document.body.innerText")
    assert browser.execute_script("return document.scripts.length + document.images.length") == 0
    loaded = "return performance.getEntriesByType('resource').length"
    assert browser.execute_script(loaded) == 0


@pytest.mark.parametrize("width", [400, 1100])
def test_the_page_fits_its_window_and_no_label_leaves_its_chart(
    browser: Chrome, report: str, width: int
) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(report)
    page = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    needed, available = browser.execute_script(page)
    assert needed <= available
    outside = browser.execute_script("""
      return [...document.querySelectorAll("svg text")].filter(text => {
        const [inner, outer] = [text, text.closest("svg")].map(e => e.getBoundingClientRect());
        return inner.left < outer.left - 1 || inner.right > outer.right + 1
          || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
      }).map(text => text.textContent)
    """)
    assert outside == []


def test_the_page_prints_in_black_on_white_from_a_dark_screen(browser: Chrome, report: str) -> None:
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    _emulate(browser, media="print", features=dark)
    browser.get(report)
    ink, paper = browser.execute_script(
        "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    )
    assert (ink, paper) == ("rgb(0, 0, 0)", "rgb(255, 255, 255)")


def _emulate(browser: Chrome, **media: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def _contrast(ink: str, paper: str) -> float:
    """Return the contrast ratio of two CSS colors, as WCAG defines it."""
    dark, light = sorted((_luminance(ink), _luminance(paper)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    channels = [int(part) / 255 for part in color.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
