"""The requests stream: the entry point for producers without Celery. No crash loses an entry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from config.names import TRACEPARENT_HEADER, TRACESTATE_HEADER
from worker.domain.traces import TraceContext, read_trace
from worker.store.connection import translated
from worker.store.keys import CONSUMER_GROUP, REQUESTS

READ_AT_ONCE: Final = 200
STALE_CONSUMER_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the stream. `text` is its field `request`, empty if there is none.

    `trace` comes from its fields `traceparent` and `tracestate`.
    """

    id: str
    text: str
    trace: TraceContext | None = None


class RequestsStream:
    """Reads the stream as one consumer of the group. `done` deletes entries.

    All methods raise StoreUnavailableError if the store can't be reached.
    """

    def __init__(self, redis: "Redis", consumer: str) -> None:
        self._redis = redis
        self._stream = REQUESTS.on(redis)
        self._consumer = consumer

    @translated
    async def open(self) -> None:
        """Create the stream and the group if they are missing; delete consumers that are long gone.

        A consumer is not deleted when it leaves, because an entry that was just delivered to it
        would be deleted with it. After an hour, other consumers have taken over its entries.
        """
        await self._create_group()
        for consumer in await self._redis.xinfo_consumers(self._stream, CONSUMER_GROUP):
            if consumer["pending"] == 0 and consumer["idle"] > STALE_CONSUMER_MS:
                await self._redis.xgroup_delconsumer(self._stream, CONSUMER_GROUP, consumer["name"])

    @translated
    async def read(self, block_ms: int) -> list[Entry]:
        """Return new entries, waiting up to `block_ms` for the first."""
        try:
            reply = await self._redis.xreadgroup(
                CONSUMER_GROUP,
                self._consumer,
                {self._stream: ">"},
                count=READ_AT_ONCE,
                block=block_ms,
            )
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            await self._create_group()  # the store was emptied meanwhile
            return []
        return [entry for _, entries in _streams(reply) for entry in _entries(entries)]

    @translated
    async def take_over(self, idle_ms: int) -> list[Entry]:
        """Return entries that another consumer read at least `idle_ms` ago and never finished."""
        reply = await self._redis.xautoclaim(
            self._stream, CONSUMER_GROUP, self._consumer, min_idle_time=idle_ms, count=READ_AT_ONCE
        )
        return _entries(reply[1])

    @translated
    async def done(self, entries: Sequence[Entry]) -> None:
        """Acknowledge and delete entries."""
        ids = [entry.id for entry in entries]
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xack(self._stream, CONSUMER_GROUP, *ids)
            pipeline.xdel(self._stream, *ids)
            await pipeline.execute()

    async def _create_group(self) -> None:
        try:
            await self._redis.xgroup_create(self._stream, CONSUMER_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


def _streams(reply: Any) -> Any:
    """Return the (name, entries) pairs of an XREADGROUP reply, in RESP2 or RESP3."""
    if isinstance(reply, dict):
        return [(name, [e for page in pages for e in page]) for name, pages in reply.items()]
    return reply or []


def _entries(raw: Any) -> list[Entry]:
    return [_entry(entry_id, fields or {}) for entry_id, fields in raw]


def _entry(entry_id: str, fields: Mapping[str, str]) -> Entry:
    trace = read_trace(fields.get(TRACEPARENT_HEADER), fields.get(TRACESTATE_HEADER))
    return Entry(entry_id, fields.get("request", ""), trace)
