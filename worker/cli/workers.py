"""Local workers: `celery -A worker worker` as guarded children on an embedded store."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, NoReturn, Self

from celery import Celery

import worker
from config.celery import celery_config
from config.settings import Settings, load_settings
from worker.cli.embedded import EmbeddedServer, LocalError
from worker.cli.guard import GuardedProcess

STOP_SECONDS: Final = 15.0
"""How long a worker may finish its calls. One that is cut off is in doubt, and asked about then."""

MAX_RESTARTS: Final = 5
WATCH_SECONDS: Final = 0.25
RETENTION_SECONDS: Final = 365 * 86400
"""How long records are kept, unless the user says otherwise: as long as they are, the same file
imports nothing twice."""

# The worker runs in another directory than the user: see `celery_command`.
_PATH_VARIABLES: Final = (
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "IMPORTS_LANES_FILE",
)
_STORE_VARIABLES: Final = ("IMPORTS_BROKER_URL", "IMPORTS_RESULT_BACKEND")


class WorkersError(LocalError):
    """The workers do not stay alive. The message names their log."""


class Workers:
    """Some workers of an embedded server, while the `async with` block runs.

    They end before the server does, even when this process is killed. `env` is their environment
    without the store.
    """

    def __init__(self, count: int, server: EmbeddedServer, env: Mapping[str, str]) -> None:
        self._server = server
        self._env = store_environment(env, server.url)
        self._log_path = server.directory / "worker.log"
        self._count = count
        self._processes: list[GuardedProcess] = []
        self._restarts = 0

    async def __aenter__(self) -> Self:
        self._processes += [self._started(number) for number in range(1, self._count + 1)]
        return self

    async def __aexit__(self, *_: object) -> None:
        # In threads: calls on the way may be answered by a sandbox on this event loop.
        stops = [asyncio.to_thread(process.stop) for process in self._processes]
        await asyncio.gather(*stops)

    async def watch(self, on_restart: Callable[[str], Awaitable[None]]) -> NoReturn:
        """Start workers again that end by themselves, and tell `on_restart` what happened.

        Raises:
            WorkersError: when that happens too often.
            ServerError: when the server has ended: no worker can go on without it.

        """
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._server.check()
            for index, process in enumerate(self._processes):
                if process.poll() is not None:
                    await on_restart(self._restart(index))

    def _restart(self, index: int) -> str:
        what = f"worker {index + 1} ended with code {self._processes[index].stop()}"
        if self._restarts >= MAX_RESTARTS:
            raise WorkersError(f"{what}, after {MAX_RESTARTS} restarts; see {self._log_path}")
        self._restarts += 1
        self._processes[index] = self._started(index + 1)
        return f"{what}; it was started again ({self._restarts} of {MAX_RESTARTS})"

    def _started(self, number: int) -> GuardedProcess:
        # Nobody else is on this broker: no need to spend a second on looking for others.
        alone = ["--without-mingle", "--without-gossip", "--hostname", f"worker{number}@%h"]
        return GuardedProcess(
            celery_command("worker", *alone),
            log_path=self._log_path,
            env=self._env,
            cwd=code_directory(),
            grace_seconds=STOP_SECONDS,
            outlived_by=[self._server.process],
        )


def celery_command(*arguments: str) -> list[str]:
    """Return the command `celery -A worker …`, to be run in `code_directory()`."""
    return [sys.executable, "-m", "celery", "-A", "worker", *arguments]


def code_directory() -> Path:
    """Return where the package `worker` lies.

    Celery looks for it in the current directory first, where the user may have one of that name.
    """
    return Path(worker.__path__[0]).parent


def store_environment(env: Mapping[str, str], url: str) -> dict[str, str]:
    """Return `env` with the store, broker and result backend at `url`, and with absolute paths."""
    paths = {
        name: os.path.abspath(Path(env[name]).expanduser())  # noqa: PTH100 - keeps symbolic links
        for name in _PATH_VARIABLES
        if env.get(name)
    }
    kept = {name: value for name, value in env.items() if name not in _STORE_VARIABLES}
    retention = {"IMPORTS_RETENTION_SECONDS": str(RETENTION_SECONDS)}
    return {**retention, **kept, **paths, "IMPORTS_REDIS_URL": url}


def settings_of(url: str) -> Settings:
    """Return the settings of a client of the store at `url`, whatever the environment names.

    Raises:
        SettingsError: when another setting of the environment is wrong.

    """
    return load_settings().model_copy(
        update={"redis_url": url, "broker_url": "", "result_backend": ""}
    )


def producer_of(settings: Settings) -> "Celery":
    """Return a Celery application that publishes by these settings."""
    app = Celery("amplify-import-run", set_as_current=False)
    app.conf.update(celery_config(settings))
    return app
