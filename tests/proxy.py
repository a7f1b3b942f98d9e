"""A TCP proxy between a worker and a server, for network faults.

It runs on its own thread. Every method may be called from any thread.
"""

import asyncio
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Self

BLOCK_BYTES: Final = 65536


class Proxy:
    """Forwards bytes between its own port and `port` on this machine, until a fault is set."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._flowing = asyncio.Event()
        self._refusing = False
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.accepted = 0
        """How many connections it has accepted so far."""

        self.delay_seconds = 0.0
        """How long each block takes in each direction; may be changed at any time."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The server's URL through the proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many connections are open through it."""
        return len(self._open) // 2

    def stall(self) -> None:
        """Forward nothing more, without any error: a network that drops everything.

        New connections are accepted, and stall as well. What arrives meanwhile is forwarded later.
        """
        self._do(self._flowing.clear)

    def flow(self) -> None:
        """Forward everything again, and accept connections."""
        self._do(self._let_flow)

    def forget(self) -> None:
        """Never again forward anything on the open connections, like a lost NAT entry.

        Neither side sees an error. New connections work.
        """
        self._do(lambda: self._forgotten.update(self._open))

    def cut(self, rng: random.Random | None = None, share: float = 1.0) -> None:
        """Reset every connection, or each with probability `share`; new ones work."""
        self._do(lambda: self._cut(rng or random.Random(), share))

    def refuse(self) -> None:
        """Reset every connection, and each new one at once."""
        self._do(self._refuse)

    def _let_flow(self) -> None:
        self._refusing = False
        self._flowing.set()

    def _refuse(self) -> None:
        self._refusing = True
        self._cut(random.Random(), 1.0)

    def _cut(self, rng: random.Random, share: float) -> None:
        for writer in list(self._open):
            if rng.random() < share:
                writer.transport.abort()

    async def _listen(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._refusing:
                writer.transport.abort()
            else:
                await self._pass_both_ways(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _pass_both_ways(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        behind, out = await asyncio.open_connection("127.0.0.1", self._target)
        self._open |= {writer, out}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, out))
                both.create_task(self._pass(behind, writer))
        finally:
            self._open -= {writer, out}
            self._forgotten -= {writer, out}
            writer.transport.abort()
            out.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Forward one direction; when it ends, so does the other."""
        with suppress(OSError):
            while block := await source.read(BLOCK_BYTES):
                await self._flowing.wait()
                await asyncio.sleep(self.delay_seconds)
                if sink not in self._forgotten:
                    sink.write(block)
                    await sink.drain()
        sink.close()

    def _do(self, function: Callable[[], Any]) -> None:
        async def call() -> None:
            function()

        self._run(call())

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)
