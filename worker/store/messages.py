"""The Celery doors on a Redis broker, without kombu's gap.

kombu pops a message from its list, and notes a moment later that it did: who dies in between takes
the message along. So producers' messages are not consumed by Celery where they arrive. A script
hands them on to a queue of our own and notes each as delivered in the same step; from then on all
is kombu's. What is noted and never acknowledged comes back after the visibility time-out.
"""

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Final

from redis.asyncio import Redis

from config.names import ADMIT_QUEUE, FINISH_QUEUE, IMPORTS_QUEUE
from worker.store.connection import translated
from worker.store.scripts import Scripts

PRIORITIES: Final = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""What kombu appends to a queue's name for its priorities, the most urgent first."""

JUNK: Final = "imports.junk"
"""Texts that are no messages, until somebody is done with them."""

ROOM: Final = 100
"""Messages that wait for Celery at most: what waits longer than the time-out is delivered twice."""


class ImportsQueue:
    """Takes messages from the queue `imports`; all methods may raise StoreUnavailableError."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._scripts = Scripts(redis, {})
        self._ahead_seconds = 0.0
        self.is_open = True
        """Whether this worker takes messages; others do meanwhile."""

    def now(self) -> float:
        """Return the broker's time in seconds since the epoch, as of its last answer to `take`."""
        return time.time() + self._ahead_seconds

    async def take(self) -> tuple[int, bool, Mapping[str, str]]:
        """Hand messages on to Celery.

        Returns how many, whether more are there, and texts that are no messages, by their digests:
        again and again, until `forget` is told of them. Nothing while it is not open.
        """
        if not self.is_open:
            return 0, False, {}
        taken, left, now, junk = await self._scripts.call(
            "take_messages",
            queues=[f"{IMPORTS_QUEUE}{priority}" for priority in PRIORITIES],
            into=ADMIT_QUEUE,
            room=ROOM,
            unacked="unacked",
            unacked_index="unacked_index",
            junk=JUNK,
        )
        self._ahead_seconds = float(now) - time.time()
        return taken, bool(left), dict(zip(junk[::2], junk[1::2], strict=True))

    @translated
    async def forget(self, digests: Collection[str]) -> None:
        """Let go of texts that are no messages: each has become an import. Safe to repeat."""
        await self._redis.hdel(JUNK, *digests)

    @translated
    async def heads(self) -> tuple[str | None, ...] | None:
        """Return the messages that Celery takes next, None where none waits."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for queue in (ADMIT_QUEUE, FINISH_QUEUE):
                pipeline.lindex(queue, -1)
            heads = tuple(await pipeline.execute())
        return heads if any(heads) else None

    @translated
    async def wait(self, seconds: int) -> None:
        """Wait until a message comes, at most so long; one of a low priority may not end it."""
        if not self.is_open:
            await asyncio.sleep(seconds)
            return
        # From the tail to the tail: nothing moves, and who waits for it is woken.
        await self._redis.blmove(IMPORTS_QUEUE, IMPORTS_QUEUE, seconds, src="RIGHT", dest="RIGHT")
