"""Local workers: `celery -A worker worker` as guarded children, which use an embedded store."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, NoReturn, Self

import worker
from config.settings import Settings, load_settings
from worker.local.errors import WorkersError
from worker.local.guard import GuardedProcess
from worker.local.server import EmbeddedServer

STOP_SECONDS: Final = 15.0
"""How long a worker that is being stopped may take to finish its calls. The outcome of a call that
is cut off is unknown; a worker checks with AWS later."""

MAX_RESTARTS: Final = 5
WATCH_SECONDS: Final = 0.25
RETENTION_SECONDS: Final = 365 * 86400
"""How long records are kept by default. As long as they are kept, running the same file again
imports nothing twice."""

# The worker does not run in the user's directory (see `code_directory`), so relative paths in these
# variables become absolute.
_PATH_VARIABLES: Final = (
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "IMPORTS_LANES_FILE",
)
_SERVICE_VARIABLES: Final = (
    "IMPORTS_BROKER_URL",
    "IMPORTS_RESULT_BACKEND",
    "IMPORTS_SQS_REQUESTS_URL",
)
"""Of the service. Local workers use the embedded store, and take no requests from elsewhere."""
_PORT_VARIABLE: Final = "IMPORTS_METRICS_PORT"
"""Local workers serve no metrics: there are several, and they can't share a port."""


class Workers:
    """A number of workers that use an embedded server, while the `async with` block runs.

    They end before the server does, even if this process is killed. `env` is their environment;
    the URLs of the store are added to it.
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
        # In threads, because a sandbox on this event loop may have to answer their open calls.
        stops = [asyncio.to_thread(process.stop) for process in self._processes]
        await asyncio.gather(*stops)

    async def watch(self, on_restart: Callable[[str], Awaitable[None]]) -> NoReturn:
        """Restart workers that end, and pass to `on_restart` a sentence that says what happened.

        Raises:
            WorkersError: if workers have ended more than `MAX_RESTARTS` times.
            ServerError: if the server has ended.

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
        # No other workers use this broker, so looking for them would waste a second.
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
    """Return the directory that contains the package `worker`.

    Celery looks for the package in the current directory first, and the user's directory may have
    another package of that name.
    """
    return Path(worker.__path__[0]).parent


def store_environment(env: Mapping[str, str], url: str) -> dict[str, str]:
    """Return `env` with `url` for store, broker and result backend, and with absolute paths."""
    paths = {
        name: os.path.abspath(Path(env[name]).expanduser())  # noqa: PTH100 - keeps symbolic links
        for name in _PATH_VARIABLES
        if env.get(name)
    }
    dropped = (*_SERVICE_VARIABLES, _PORT_VARIABLE)
    kept = {name: value for name, value in env.items() if name not in dropped}
    retention = {"IMPORTS_RETENTION_SECONDS": str(RETENTION_SECONDS)}
    return {**retention, **kept, **paths, "IMPORTS_REDIS_URL": url}


def settings_of(url: str) -> Settings:
    """Return the settings for a client of the store at `url`, instead of the environment's store.

    Raises:
        SettingsError: if another setting in the environment is invalid.

    """
    return load_settings().model_copy(
        update={"redis_url": url, "broker_url": "", "result_backend": ""}
    )
