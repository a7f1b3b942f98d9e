"""Commands of services, run natively as a deployment's file defines them."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.workers import BIN


@contextmanager
def running(command: list[str], environment: Mapping[str, str], cwd: Path) -> Iterator[None]:
    """Run a service's command; it must run until the end of the context, and stop when asked."""
    with (cwd / "service.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment},
            cwd=cwd,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
            assert process.poll() is None, (cwd / "service.log").read_text()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait(30)
