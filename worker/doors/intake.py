"""The loops that take in requests: from a Redis broker, the stream, and a queue of Amazon SQS."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from worker.doors.sqs import SqsDoor
from worker.runtime import Runtime
from worker.store.messages import ImportsQueue
from worker.store.requests import Entry

BLOCK_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 2
FULL_SECONDS: Final = 0.05
LOOK_SECONDS: Final = 5.0

Sleep = Callable[[float], Awaitable[None]]
"""Sleeps for so many seconds, or until the worker stops."""


Step = Callable[[], Awaitable[None]]


class Intake:
    """Takes in requests. `loops` maps names to steps that the conductor repeats.

    A step may be cancelled while it waits; what it has already taken is still admitted. Steps may
    raise StoreUnavailableError.
    """

    def __init__(self, runtime: Runtime, sleep: Sleep) -> None:
        self._admitter = runtime.admitter
        self._requests = runtime.requests
        self._lease_seconds = runtime.settings.lease_seconds
        self._sleep = sleep
        self.unconsumed: object = None
        """The messages that Celery takes next; None if none waits, or if that is unknown."""
        self.loops: dict[str, Step] = {
            "read_requests": self._read_requests,
            "take_over_requests": self._take_over_requests,
        }
        if runtime.messages is not None:
            self.loops["take_messages"] = partial(self._take_messages, runtime.messages)
            self.loops["look_at_queues"] = partial(self._look_at_queues, runtime.messages)
        self._sqs: SqsDoor | None = None
        if runtime.requests_queue is not None:
            seen = runtime.measurements
            self._sqs = SqsDoor(runtime.requests_queue, runtime.admitter, seen, sleep)
            self.loops["take_from_sqs"] = self._sqs.take

    async def open(self) -> None:
        """Create what the loops read."""
        await self._requests.open()

    async def close(self) -> None:
        """Finish with what was taken, after the loops have ended."""
        if self._sqs is not None:
            await self._sqs.close()

    async def _take_messages(self, messages: ImportsQueue) -> None:
        taken, left, junk = await messages.take()
        if junk:
            await asyncio.shield(self._reject_junk(messages, junk))
        elif not left:
            await messages.wait(IDLE_SECONDS)
        elif not taken:
            await self._sleep(FULL_SECONDS)

    async def _reject_junk(self, messages: ImportsQueue, junk: Mapping[str, str]) -> None:
        await self._admitter.reject_messages(list(junk.values()))
        await messages.forget(junk)

    async def _look_at_queues(self, messages: ImportsQueue) -> None:
        self.unconsumed = await messages.heads()
        await self._sleep(LOOK_SECONDS)

    async def _read_requests(self) -> None:
        entries = await self._requests.read(round(BLOCK_SECONDS * 1000))
        await asyncio.shield(self._admit_entries(entries))

    async def _take_over_requests(self) -> None:
        await self._sleep(self._lease_seconds / 2)
        entries = await self._requests.take_over(round(self._lease_seconds * 1000))
        await asyncio.shield(self._admit_entries(entries))

    async def _admit_entries(self, entries: list[Entry]) -> None:
        if entries:
            await self._admitter.admit_entries(
                [(entry.id, entry.text, entry.trace) for entry in entries]
            )
            await self._requests.done(entries)
