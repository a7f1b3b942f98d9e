"""Programs forked from a process that has imported their modules, which saves half a second each.

Each is a separate process with its own environment, arguments and standard streams, as if its
command had been called. It never outlives this process.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from pkgutil import walk_packages
from typing import Final

from worker import cli

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "aiobotocore.session",
        "celery.app.control",
        "celery.app.events",
        "celery.app.log",
        "celery.apps.worker",
        "celery.backends.redis",
        "celery.bin.celery",
        "celery.concurrency.thread",
        "celery.worker.components",
        "celery.worker.consumer",
        "celery.worker.strategy",
        "kombu.transport.redis",
        "worker.celery",
        *(module.name for module in walk_packages(cli.__path__, f"{cli.__name__}.")),
        "worker.doors.consumer",
        "worker.doors.tasks",
        "worker.remote_control",
        "tests.support.preloaded",
    ]
)

_ASKING: Final = threading.Lock()
"""Serializes access to exit codes, as each child's can be read only once.

If two threads read an exit code or start a child at the same time, one of them reads nothing, which
multiprocessing takes for an exit code of 255.
"""


@dataclass(frozen=True, slots=True)
class Streams:
    """The files of a process's standard streams; output is appended."""

    output: Path
    errors: Path
    input: Path = Path(os.devnull)


class ForkedProcess:
    """Runs a function without arguments, given as "module:name", with a command's arguments.

    Its interface is that of `subprocess.Popen`, as far as tests use it.
    """

    def __init__(
        self,
        main: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        streams: Streams,
        directory: Path | None = None,
    ) -> None:
        self._process: BaseProcess = _CONTEXT.Process(
            target=_live,
            args=(main, list(arguments), dict(environment), streams, directory),
            daemon=True,
        )
        with _ASKING:
            self._process.start()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; negative for a signal, None while the process runs."""
        with _ASKING:
            return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, None while the process runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process ends, `timeout` seconds at most; return the exit code."""
        wait([self._process.sentinel], timeout)
        code = self.returncode
        if code is None:
            raise TimeoutError(f"the process has not ended after {timeout} s")
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal; do nothing if the process has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)


def _live(
    main: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    streams: Streams,
    directory: Path | None,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if directory is not None:
        os.chdir(directory)
    _open(streams)
    sys.argv[:] = arguments
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, _, name = main.partition(":")
    getattr(import_module(module), name)()


def _open(streams: Streams) -> None:
    """Open the standard streams as Python does at startup."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, path, mode in (
        (0, streams.input, os.O_RDONLY),
        (1, streams.output, flags),
        (2, streams.errors, flags),
    ):
        opened = os.open(path, mode, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    sys.stdin = open(0, encoding=encoding, closefd=False)  # noqa: SIM115 - open until the process ends
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", buffering=1, encoding=encoding, errors="backslashreplace", closefd=False
    )


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
