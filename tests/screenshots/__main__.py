"""Takes the pictures of the documentation: `make screenshots`.

It needs the Debian packages chromium, chromium-driver, prometheus and tmux. It does not need
Grafana: it sends the queries of the dashboards to Prometheus and draws the answers itself.
"""

import argparse
import asyncio
import io
import re
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from PIL import Image
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.screenshots.dashboards import Prometheus, draw_dashboard
from tests.screenshots.scene import GOING_WELL, GOING_WRONG, SCENARIO, Scene, running_scene
from tests.support import BIN, PROJECT
from tests.support.browser import open_browser
from tests.support.waiting import free_port
from worker.local.sandbox import LocalSandbox
from worker.sandbox.scenario import Credentials

IMAGES: Final = PROJECT / "docs" / "images"
LANE: Final = "acme/us-east-1"
VARIABLES: Final = {"lane": LANE, "batch": f"{GOING_WELL}|{GOING_WRONG}", "instance": ".*"}
COLUMNS, ROWS = 120, 32
COLORS: Final = "white on black"
BACKGROUND, BLACK = "#0c0c0c", "#1a1a1a"  # of the theme


async def _take_all(images: Path, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with LocalSandbox(SCENARIO, SCENARIO.accounts, directory) as sandbox:
            with ExitStack() as stack:
                opened = running_scene(directory, sandbox)
                scene = await asyncio.to_thread(stack.enter_context, opened)
                began = time.monotonic()
                await asyncio.to_thread(scene.submit)
                await asyncio.sleep(seconds * 0.6)
                sandbox.sandbox.set_credentials("initech", Credentials.EXPIRED)
                await asyncio.sleep(seconds * 0.4)
                await asyncio.to_thread(_take, scene, images, time.monotonic() - began)


def _take(scene: Scene, images: Path, seconds: float) -> None:
    prometheus = Prometheus(scene.prometheus, seconds)
    for dashboard in sorted((PROJECT / "config/grafana/dashboards").glob("*.json")):
        picture = images / f"dashboard-{dashboard.stem}.png"
        empty = draw_dashboard(dashboard, prometheus, VARIABLES, picture)
        _say(f"{picture} (without data: {', '.join(empty) or 'none'})")
    with open_browser(scene.directory / "profile", "--hide-scrollbars") as browser:
        browser.set_window_size(2150, 900)
        browser.get(f"{scene.flower}/tasks")
        for _ in range(2):  # the imports that ended or run come first
            browser.find_element(By.XPATH, "//th[normalize-space()='Started']").click()
        _photograph(browser, images / "flower.png")
        report = scene.directory / "report.html"
        subprocess.run(
            [BIN / "amplify-import", "report", GOING_WRONG, "-o", report],
            env=scene.env,
            check=True,
        )
        browser.set_window_size(1000, 1750)
        browser.get(report.as_uri())
        _photograph(browser, images / "report.png")
        page = scene.directory / "watch.html"
        page.write_text(_terminal(scene, "watch"))
        browser.set_window_size(1200, 790)
        browser.get(page.as_uri())
        _photograph(browser, images / "watch.png")
    for picture in images.glob("*.png"):
        _shrink(picture)


def _photograph(browser: Chrome, picture: Path) -> None:
    time.sleep(3)  # until tables are filled and drawn
    assert browser.save_screenshot(str(picture))
    _say(str(picture))


def _terminal(scene: Scene, *arguments: str) -> str:
    """Return what a command draws on a terminal, as a page."""
    tmux = ["tmux", "-L", f"screenshots-{free_port()}", "-f", "/dev/null"]
    size = ["-x", str(COLUMNS), "-y", str(ROWS)]
    command = [str(BIN / "amplify-import"), *arguments]
    env = {**scene.env, "TERM": "xterm"}
    subprocess.run([*tmux, "new-session", "-d", *size, *command], env=env, check=True)
    try:
        time.sleep(6)  # until rates and estimates are known
        capture = [*tmux, "capture-pane", "-e", "-p"]
        drawn = subprocess.run(capture, check=True, capture_output=True, text=True).stdout
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    # The page inverts only colors that are named: white on black, not the defaults.
    named = re.sub(r"(?<=[\[;])39(?=[;m])", "37", drawn)
    named = re.sub(r"(?<=[\[;])49(?=[;m])", "40", named)
    console.print(Text.from_ansi(named, style=COLORS))
    page = console.export_html(inline_styles=True, theme=MONOKAI)
    return page.replace(BACKGROUND, BLACK)


def _shrink(picture: Path) -> None:
    """Store a picture with few colors, in a third of its bytes."""
    with Image.open(picture) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is a command


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where the pictures go")
    parser.add_argument("--seconds", type=float, default=120, help="how long the batches run")
    arguments = parser.parse_args()
    arguments.images.mkdir(exist_ok=True)
    asyncio.run(_take_all(arguments.images, arguments.seconds))


if __name__ == "__main__":
    main()
