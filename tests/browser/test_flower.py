"""Flower, started without options, in a real browser."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from selenium.webdriver import Chrome

from tests.support import (
    BIN,
    PROJECT,
    Producer,
    Sandbox,
    StartWorker,
    environment_for,
    free_port,
    members,
    wait_until,
)
from worker.domain.requests import derive_import_id

CELLS = """
return [...document.querySelectorAll("table tbody tr")].map(
  row => [...row.querySelectorAll("td")].map(cell => cell.innerText.trim()))
"""


@pytest.fixture
def tasks_page(sandbox: Sandbox, store_url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of Flower's task page; Flower has its own port."""
    port = free_port()
    page = f"http://127.0.0.1:{port}/tasks"
    log = (tmp_path / "flower.log").open("wb")
    process = subprocess.Popen(
        [BIN / "celery", "-A", "worker", "flower"],
        cwd=PROJECT,
        env={**os.environ, **environment_for(sandbox, store_url), "FLOWER_PORT": port},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_until(lambda: process.poll() is None and _answers(page), "Flower answers")
        yield page
    finally:
        process.terminate()
        process.wait(90)
        log.close()


def test_each_import_is_one_row_with_target_state_and_result(
    browser: Chrome,
    tasks_page: str,
    start_worker: StartWorker,
    producer: Producer,
    sandbox: Sandbox,
) -> None:
    sandbox.script("drun", duration_seconds=60)
    sandbox.script("dtaken", duration_seconds=60)
    sandbox.script("dbad", outcome="fail", duration_seconds=0.1)
    start_worker()
    running = producer.send(members("drun"))
    wait_until(lambda: running.state == "RUNNING", "the slow import runs")
    waiting = producer.send(members("drun"))
    good, bad = producer.send(members("dgood")), producer.send(members("dbad"))
    batch = producer.send_batch("nightly", [members("dbatch")])
    revoked = producer.send(members("dtaken"))
    wait_until(lambda: revoked.state == "RUNNING", "the one to be revoked runs")
    revoked.revoke()
    producer.add({"importId": "by-stream", **members("dstream")})
    good.get(timeout=20)
    producer.wait_for_event("import.succeeded", appId="dbatch")
    producer.wait_for_event("import.succeeded", appId="dstream")
    producer.wait_for_event("import.failed", appId="dbad")

    def rows() -> dict[str, list[str]]:
        browser.get(tasks_page)
        cells: list[list[str]] = browser.execute_script(
            CELLS
        )  # read at once, since the page redraws itself
        return {row[0]: row[1:4] for row in cells if len(row) > 3}

    job = good.get()["jobId"]
    expected = {
        good.id: ("dgood/staging", "SUCCESS", f"succeeded, job {job}"),
        bad.id: ("dbad/staging", "FAILURE", "ImportFailed('dbad/staging (job "),
        running.id: ("drun/staging", "RUNNING", "job "),
        waiting.id: ("drun/staging", "WAITING", ""),
        revoked.id: ("dtaken/staging", "REVOKED", "job "),
        batch.id: ("batch nightly", "SUCCESS", "{'batchId': 'nightly', 'accepted': 1"),
        "by-stream": ("dstream/staging", "SUCCESS", "succeeded, job "),
        derive_import_id("nightly", 0): ("dbatch/staging", "SUCCESS", "succeeded, job "),
    }

    def as_expected() -> bool:
        seen = rows()
        return seen.keys() == expected.keys() and all(
            (target, state) == tuple(seen[task_id][:2]) and seen[task_id][2].startswith(result)
            for task_id, (target, state, result) in expected.items()
        )

    wait_until(as_expected, f"Flower shows {expected}")


def _answers(page: str) -> bool:
    try:
        with urlopen(page, timeout=2) as answer:  # noqa: S310 - a local http address
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
