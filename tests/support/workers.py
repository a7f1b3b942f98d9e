"""Celery workers: forked by default, or the real command in tests of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tests.support.forking import ForkedProcess, Streams
from tests.support.sandbox import ACCESS_KEY, Sandbox
from tests.support.waiting import WAIT_SECONDS, wait_until

PROJECT: Final = Path(__file__).parent.parent.parent
BIN: Final = Path(sys.executable).parent


class Worker:
    """A Celery worker, configured only by environment variables.

    `app` is the Celery application, and `options` are Celery's. If `is_real`, it is the command
    `celery -A APP worker`. With `program`, that module runs instead of `celery`.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        log: Path,
        app: str = "worker",
        *,
        program: str = "",
        options: Sequence[str] = (),
        is_real: bool = False,
    ) -> None:
        self._log = log
        arguments = ["-A", app, "worker", "--hostname", f"{log.stem}@%h", *options]
        environment = {**os.environ, **environment}
        self.process: subprocess.Popen[bytes] | ForkedProcess
        if program or is_real:
            command = [BIN / "python", "-m", program] if program else [BIN / "celery"]
            self.process = _started([*command, *arguments], environment, log)
        else:
            # This saves the second in which a worker waits for replies of other workers.
            arguments.append("--without-mingle")
            self.process = ForkedProcess(
                "celery.__main__:main", ["celery", *arguments], environment, Streams(log, log)
            )

    @property
    def log(self) -> str:
        """Everything that the worker has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def wait_until_ready(self) -> Self:
        """Wait until the worker is ready."""
        wait_until(lambda: " ready." in self.log or self._died(), "the worker is ready")
        return self

    def stop(self, seconds: float = WAIT_SECONDS) -> int:
        """Ask the worker to stop, as an orchestrator does; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """Kill the worker."""
        self.process.kill()
        self.process.wait(WAIT_SECONDS)

    def _died(self) -> bool:
        assert self.process.poll() is None, f"the worker died:\n{self.log[-3000:]}"
        return False


StartWorker = Callable[..., Worker]
"""Starts a worker against the sandbox; keyword arguments are settings."""


def _started(
    command: Sequence[str | Path], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )


def environment_for(sandbox: Sandbox, store_url: str, **settings: str) -> dict[str, str]:
    """Return the environment of a worker against the sandbox, with short intervals for tests."""
    return {
        "AWS_ENDPOINT_URL_AMPLIFYBACKEND": sandbox.url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "IMPORTS_REDIS_URL": store_url,
        "IMPORTS_START_RATE": "200",
        "IMPORTS_START_BURST": "50",
        "IMPORTS_POLL_RATE": "200",
        "IMPORTS_POLL_BURST": "50",
        "IMPORTS_POLL_MIN_SECONDS": "0.1",
        "IMPORTS_POLL_MAX_SECONDS": "0.5",
        "IMPORTS_SETTLE_SECONDS": "0.2",
        "IMPORTS_LEASE_SECONDS": "2",
        **settings,
    }
