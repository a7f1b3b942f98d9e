"""Forks workers from a parent that has imported everything: they are up in half a second."""

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

GRACE_SECONDS: Final = 10.0
STANDS_STILL: Final = "stands still at its boundary"
"""What a worker says before it stops itself."""

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "aiobotocore.session",
        "celery.apps.worker",
        "celery.backends.redis",
        "celery.bin.celery",
        "celery.concurrency.thread",
        "celery.worker.consumer",
        "kombu.transport.redis",
        "worker.celery",
        "worker.tasks",
    ]
)


_ASKING: Final = threading.Lock()
"""How a child ended can be read once. Who asks, or starts another, at the same moment as somebody
else reads nothing, and multiprocessing takes that for an exit code of 255."""


class ForkedWorker:
    """A Celery worker of the application in module `app`; it never outlives this process."""

    def __init__(self, app: str, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        self._process: BaseProcess = _CONTEXT.Process(
            target=_live, args=(app, dict(environment), str(log)), daemon=True
        )
        with _ASKING:
            self._process.start()

    @property
    def log(self) -> str:
        """Everything that the worker has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """How it ended: a signal's number is negative; None while it lives."""
        with _ASKING:
            return self._process.exitcode

    @property
    def was_killed(self) -> bool:
        """Whether it ended by SIGKILL."""
        return self.exit_code == -signal.SIGKILL

    @property
    def stands_still(self) -> bool:
        """Whether it has stopped itself."""
        return STANDS_STILL in self.log

    def wake(self) -> None:
        """Let it go on where it stood still."""
        assert self._process.pid
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it where it stands, and see it end."""
        self._process.kill()
        wait([self._process.sentinel], GRACE_SECONDS)


def _live(app: str, environment: Mapping[str, str], log: str) -> None:
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    application = importlib.import_module(app).app
    # Without the second in which a worker waits for what others tell of themselves.
    application.worker_main(["worker", "--without-mingle", f"--hostname={Path(log).stem}@%h"])


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
