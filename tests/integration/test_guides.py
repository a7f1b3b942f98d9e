"""The examples in the guides to HTTP and to the Python client do what the guides say."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import PROJECT, CommandLine, StartWorker, free_port, wait_until
from tests.support.scraping import Scraper

GUIDES = PROJECT / "docs" / "guides"
TOKEN = "a-token"
STORE = "redis://127.0.0.1:6379/0"


def examples(guide: str, language: str) -> list[str]:
    text = (GUIDES / guide).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_examples_work(
    store_url: str,
    command: CommandLine,
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    start_worker()
    command.environment["IMPORTS_HTTP_TOKEN"] = TOKEN
    with command.running("serve", "--port", port):
        wait_until(lambda: Scraper(port).probe("/readyz") == 200, "the server is ready")
        script = "\n".join(("set -eu", *examples("http.md", "bash")))
        environment = {**os.environ, "URL": f"http://127.0.0.1:{port}", "TOKEN": TOKEN}
        done = subprocess.run(
            ["/bin/bash", "-c", script],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("importId") >= 4
    assert '"importId": "move-0001"' in done.stdout
    assert "event: batch.completed" in done.stdout
    assert done.stdout.rstrip().endswith("}")
    assert '"completed": true' in done.stdout

    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for example in examples("client.md", "python"):
        exec(compile(example.replace(STORE, store_url), "client.md", "exec"), {})  # noqa: S102
    said = capsys.readouterr().out
    assert "\n0 userPoolId is required\n" in said
    assert "batch.completed" in said
    first, failed, *_ = said.splitlines()
    assert first.startswith("succeeded ")
    assert failed == "[]"
