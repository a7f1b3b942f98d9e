"""The Celery entry points on a Redis broker, without kombu's gap.

kombu pops a message from its list, and notes the delivery a moment later. If the worker dies in
between, the message is lost. So Celery does not consume the queue that producers fill. A script
forwards messages to a queue of our own and notes each delivery in the same atomic step. From then
on kombu handles the message: if it is never acknowledged, it comes back after the visibility
timeout.
"""

import asyncio
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final

from redis.asyncio import Redis

from config.names import ADMIT_QUEUE, FINISH_QUEUE, IMPORTS_QUEUE
from worker.store.connection import translated
from worker.store.observer import NOBODY, StoreObserver
from worker.store.scripts import Scripts

PRIORITIES: Final = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""What kombu appends to a queue's name for its priorities, the most urgent first."""

JUNK: Final = "imports.junk"
"""Texts that are no messages, until they are recorded as rejected imports."""

ROOM: Final = 100
"""The most messages that wait for Celery. A message that waits longer than the visibility
timeout is delivered twice."""


CLOSE_SECONDS: Final = 5.0


class ImportsQueue:
    """Forwards messages of the queue `imports`. Methods may raise StoreUnavailableError."""

    def __init__(self, redis: "Redis", observer: StoreObserver = NOBODY) -> None:
        self._redis = redis
        self._scripts = Scripts(redis, {}, observer)
        self._ahead_seconds = 0.0
        self._taking = asyncio.Lock()
        self._is_open = True

    def now(self) -> float:
        """Return the broker's time in seconds since the epoch, estimated from the last `take`."""
        return time.time() + self._ahead_seconds

    async def open(self) -> None:
        """Forward messages again."""
        self._is_open = True

    async def close(self) -> None:
        """Forward no more messages. Returns once no forwarding is in progress, or after a while."""
        self._is_open = False
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS), self._taking:
                pass

    async def take(self) -> tuple[int, bool, Mapping[str, str]]:
        """Forward messages to Celery.

        Returns how many were forwarded, whether more are left, and texts that are no messages, by
        their digests. These texts come again with every call until `forget` removes them. Nothing
        is forwarded while this object is closed.
        """
        async with self._taking:
            if not self._is_open:
                return 0, False, {}
            reply = await self._scripts.call(
                "take_messages",
                queues=[f"{IMPORTS_QUEUE}{priority}" for priority in PRIORITIES],
                into=ADMIT_QUEUE,
                room=ROOM,
                unacked="unacked",
                unacked_index="unacked_index",
                junk=JUNK,
            )
        self._ahead_seconds = float(reply["now"]) - time.time()
        return reply["taken"], reply["left"], reply["junk"]

    @translated
    async def forget(self, digests: Collection[str]) -> None:
        """Remove texts that are no messages, once each has become an import. Safe to repeat."""
        await self._redis.hdel(JUNK, *digests)

    @translated
    async def heads(self) -> tuple[str | None, ...] | None:
        """Return the messages that Celery takes next; None if none waits."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for queue in (ADMIT_QUEUE, FINISH_QUEUE):
                pipeline.lindex(queue, -1)
            heads = tuple(await pipeline.execute())
        return heads if any(heads) else None

    @translated
    async def wait(self, seconds: int) -> None:
        """Wait up to `seconds` for a message. One with a low priority may not end the wait."""
        if not self._is_open:
            await asyncio.sleep(seconds)
            return
        # Moving a message from the tail to the tail changes nothing, but wakes whoever waits for
        # it.
        await self._redis.blmove(IMPORTS_QUEUE, IMPORTS_QUEUE, seconds, src="RIGHT", dest="RIGHT")
