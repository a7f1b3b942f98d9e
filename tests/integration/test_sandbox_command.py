"""`amplify-import sandbox` as a separate process."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

COMMAND = [sys.executable, "-c", "from worker.cli.sandbox import sandbox; sandbox()"]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [*COMMAND, "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            match = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert match
            yield process, match[0]
        finally:
            process.kill()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_sandbox_serves_until_it_is_asked_to_stop(stop: signal.Signals) -> None:
    with running("--scenario", "demo") as (process, url):
        with urllib.request.urlopen(f"{url}/sandbox/health", timeout=5) as response:  # noqa: S310 - http
            assert json.load(response)["status"] == "ok"
        process.send_signal(stop)
        assert process.stdout is not None
        printed = process.stdout.read()
        assert process.wait(timeout=90) == 0
        assert f"AWS_ENDPOINT_URL_AMPLIFYBACKEND={url}" in printed
        assert f"{url}/sandbox/ledger" in printed


def test_a_port_in_use_and_an_unknown_scenario_are_clear_errors() -> None:
    with running() as (_, url):
        port = url.rpartition(":")[2]
        for arguments, code, message in [
            (["--port", port], 3, f"Cannot listen on 127.0.0.1:{port}"),
            (["--scenario", "stormy"], 2, "stormy: cannot be read"),
        ]:
            done = subprocess.run(
                [*COMMAND, *arguments], capture_output=True, text=True, timeout=90, check=False
            )
            assert done.returncode == code
            assert message in done.stderr
            assert "Traceback" not in done.stderr


def test_the_command_lists_the_shipped_scenarios() -> None:
    done = subprocess.run(
        [*COMMAND, "--list-scenarios"], capture_output=True, text=True, timeout=90, check=True
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["calm", "demo", "hostile"]
