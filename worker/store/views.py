"""The read side: imports, batches, lanes, events and the server, for people to read.

Nothing here writes or decides, and what is read may change a moment later. Every method raises
`redis.exceptions.RedisError` if the store can't be reached.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Final

from redis.asyncio import Redis

from worker.domain.history import Line, lines_shown_by
from worker.domain.imports import Import
from worker.domain.states import State
from worker.store.batchview import (
    BATCH_REPLIES,
    BatchCounts,
    BatchSettings,
    MemberPage,
    batch_of,
    read_batch,
)
from worker.store.keys import (
    ACCOUNTS,
    BATCH,
    DELAYED,
    EVENTS,
    HELD,
    HISTORY,
    IMPORT,
    LANES,
    LEASES,
    MEMBERS,
    NAMES,
    PARKED,
    POLLS,
    TARGET,
    WAITING,
)
from worker.store.laneview import LANE_REPLIES, LaneView, lane_view, read_lane, seconds_until
from worker.store.records import import_of, is_compact, spellings
from worker.store.serverview import ServerFacts, read_server

READ_AT_ONCE: Final = 500

Event = dict[str, Any]
"""A CloudEvents 1.0 object, as it is in the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where an import stands in its lane. What does not apply is None or ''.

    `ahead` imports start before it. `due_seconds` is the time until its next start, poll or
    reconciliation. `holder` is the import that has its target. `claimed` says that a call is in
    progress. If its batch holds it back, `held` imports of the batch come before it. `batch` is its
    batch.
    """

    lane: LaneView
    ahead: int | None
    due_seconds: float | None
    holder: str
    claimed: bool
    held: int | None = None
    batch: BatchCounts | None = None


class ImportViews:
    """Reads the store. One object serves one event loop."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    async def now(self) -> float:
        """Return the store's time in seconds since the epoch."""
        seconds, microseconds = await self._redis.time()
        return float(seconds + microseconds / 1e6)

    async def accepted_accounts(self) -> frozenset[str]:
        """Return the accounts that workers accept, as names and patterns; none if none said so."""
        accounts: Any = await self._redis.zrange(ACCOUNTS.on(self._redis), 0, -1)
        return frozenset(accounts)

    async def count_known(self, import_ids: Sequence[str]) -> int:
        """Return how many of these ids belong to imports."""
        return len(await self.known_among(import_ids))

    async def known_among(self, import_ids: Sequence[str]) -> list[str]:
        """Return those of these ids that belong to imports."""
        known: list[str] = []
        for start in range(0, len(import_ids), READ_AT_ONCE):
            some = import_ids[start : start + READ_AT_ONCE]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for each in some:
                    pipeline.exists(IMPORT.on(self._redis) + each)
                known += compress(some, await pipeline.execute())
        return known

    async def find(self, import_id: str) -> Import | None:
        """Return an import; None if it is not known (any more)."""
        fields: Any = await self._redis.hgetall(IMPORT.on(self._redis) + import_id)
        return import_of(import_id, fields) if fields else None

    async def history(self, import_id: str) -> tuple[int, list[Line]]:
        """Return the store's time in milliseconds, and the history of an import until then."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.time()
            pipeline.lrange(HISTORY.on(self._redis) + import_id, 0, -1)
            pipeline.hgetall(IMPORT.on(self._redis) + import_id)
            (seconds, microseconds), lines, fields = await pipeline.execute()
        found = [Line.from_json(line) for line in lines]
        if not found and is_compact(fields):
            found = lines_shown_by(import_of(import_id, fields))
        return seconds * 1000 + microseconds // 1000, found

    async def batch(self, batch_id: str) -> BatchCounts | None:
        """Return the counts of a batch; None if it is not known (any more)."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.time()
            read_batch(pipeline, batch_id)
            time, *replies = await pipeline.execute()
        return batch_of(batch_id, replies, time)

    async def members(
        self, batch_id: str, states: Collection[State] | None = None, limit: int = 100
    ) -> list[Import]:
        """Return up to `limit` imports of a batch in these states, in order of admission."""
        found: list[Import] = []
        async for ids in self._member_ids(batch_id):
            if states is not None:
                ids = await self._in_states(ids, states)  # noqa: PLW2901 - the same ids, fewer
            found += await self.imports(ids[: limit - len(found)])
            if len(found) >= limit:
                break
        return found

    async def ids_of(
        self, batch_id: str, states: Collection[State]
    ) -> AsyncGenerator[list[str], None]:
        """Yield the ids of a batch's imports in these states, page by page."""
        async for ids in self._member_ids(batch_id):
            yield await self._in_states(ids, states)

    async def own_members(
        self, batch_id: str, states: Collection[State]
    ) -> AsyncGenerator[list[Import], None]:
        """Yield a batch's imports in these states, page by page, without those of other batches."""
        async for ids in self.ids_of(batch_id, states):
            yield [item for item in await self.imports(ids) if item.batch_id == batch_id]

    async def member_pages(self, batch_id: str) -> AsyncGenerator[MemberPage, None]:
        """Yield all imports of a batch, page by page, in order of admission."""
        async for ids in self._member_ids(batch_id):
            items = await self.imports(ids)
            yield MemberPage(items, expired=len(ids) - len(items))

    async def batch_settings(self, batch_id: str) -> BatchSettings:
        """Return the settings of a batch; the defaults if it is not known (any more)."""
        fields: Any = await self._redis.hgetall(BATCH.on(self._redis) + batch_id)
        percent = fields.get("stop_percent")
        return BatchSettings(
            canary=int(fields.get("canary", 0)),
            stop_percent=None if percent is None else float(percent),
            pauses=int(fields.get("pauses", 0)),
            paused_at_ms=int(float(fields.get("stopped_at_ms", 0))),
        )

    async def whereabouts(self, item: Import) -> Whereabouts:
        """Return where an import that is under way stands."""
        target = f"{item.lane}/{item.target}"
        async with self._redis.pipeline(transaction=True) as pipeline:
            read_lane(pipeline, item.lane)
            pipeline.zrank(f"{WAITING.on(self._redis)}{item.lane}:{item.priority}", item.id)
            pipeline.zscore(DELAYED.on(self._redis) + item.lane, item.id)
            pipeline.zscore(POLLS.on(self._redis) + item.lane, item.id)
            pipeline.zscore(LEASES.on(self._redis) + item.lane, item.id)
            pipeline.zscore(PARKED.on(self._redis) + target, item.id)
            pipeline.hget(TARGET.on(self._redis) + target, "holder")
            pipeline.zrank(HELD.on(self._redis) + item.batch_id, item.id)
            read_batch(pipeline, item.batch_id)
            pipeline.time()
            *replies, time = await pipeline.execute()
        *lane, rank, delayed, poll, lease, parked, holder, held = replies[:-BATCH_REPLIES]
        batch = replies[-BATCH_REPLIES:]
        view = lane_view(item.lane, lane)
        due = delayed if delayed is not None else poll
        return Whereabouts(
            lane=view,
            ahead=rank,
            due_seconds=None if due is None else seconds_until(due, lane[0]),
            holder=(holder or "") if parked is not None else "",
            claimed=lease is not None,
            held=held,
            batch=batch_of(item.batch_id, batch, time),
        )

    async def lanes(self) -> list[LaneView]:
        """Return every lane that was ever used or configured, by name."""
        names: Any = await self._redis.smembers(NAMES.on(self._redis))
        return await self._lanes(names)

    async def lane(self, name: str) -> LaneView | None:
        """Return a lane; None if it was never used or configured."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            read_lane(pipeline, name)
            pipeline.sismember(NAMES.on(self._redis), name)
            *replies, is_known = await pipeline.execute()
        return lane_view(name, replies) if is_known else None

    async def busy_lanes(self) -> list[LaneView]:
        """Return the lanes that have work, by name."""
        names: Any = await self._redis.zrange(LANES.on(self._redis), 0, -1)
        return await self._lanes(names)

    async def undecided(self) -> AsyncGenerator[list[Import], None]:
        """Yield the undecided imports, page by page."""
        lanes: Any = await self._redis.smembers(NAMES.on(self._redis))
        for lane in lanes:
            async for ids in self._polled_ids(lane):
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for import_id in ids:
                        pipeline.hmget(
                            IMPORT.on(self._redis) + import_id, *spellings(["undecided"])
                        )
                    found = map(any, await pipeline.execute())
                yield await self.imports(list(compress(ids, found)))

    async def server(self) -> ServerFacts:
        """Return what the server reports about itself."""
        return await read_server(self._redis)

    async def newest_event_id(self) -> str:
        """Return the entry id of the newest event; `0` if there is none."""
        entries: Any = await self._redis.xrevrange(EVENTS.on(self._redis), count=1)
        return str(entries[0][0]) if entries else "0"

    async def events_backwards(self, from_id: str) -> AsyncGenerator[Event, None]:
        """Yield the events from the entry `from_id` back to the oldest."""
        bound = from_id
        while True:
            entries: Any = await self._redis.xrevrange(
                EVENTS.on(self._redis), max=bound, count=READ_AT_ONCE
            )
            for entry_id, fields in entries:
                yield _event(entry_id, fields)[1]
                bound = f"({entry_id}"
            if not entries:
                return

    async def events(
        self, after_id: str, count: int = READ_AT_ONCE, block_ms: int | None = None
    ) -> list[tuple[str, Event]]:
        """Return up to `count` events behind the entry `after_id`, oldest first.

        With `block_ms`, wait up to that long for one. Keep it well below the socket timeout.
        """
        reply: Any = await self._redis.xread(
            {EVENTS.on(self._redis): after_id}, count=count, block=block_ms
        )
        return [_event(*entry) for entries in _entries_of(reply) for entry in entries]

    async def latest_events(self, after: str, count: int) -> list[tuple[str, Event]]:
        """Return up to `count` of the newest events, newest first, in one round trip.

        `after` is a bound as XREVRANGE takes it: `-` for all, or `(ID` for those behind an entry.
        """
        entries: Any = await self._redis.xrevrange(EVENTS.on(self._redis), min=after, count=count)
        return [_event(*entry) for entry in entries]

    async def _member_ids(self, batch_id: str) -> AsyncIterator[list[str]]:
        start = 0
        while True:
            ids: Any = await self._redis.zrange(
                MEMBERS.on(self._redis) + batch_id, start, start + READ_AT_ONCE - 1
            )
            if not ids:
                return
            yield ids
            start += READ_AT_ONCE

    async def _polled_ids(self, lane: str) -> AsyncIterator[list[str]]:
        cursor: int | None = None
        while cursor != 0:
            reply: Any = await self._redis.zscan(
                POLLS.on(self._redis) + lane, cursor or 0, count=READ_AT_ONCE
            )
            cursor, scored = reply
            yield [import_id for import_id, _ in scored]

    async def _in_states(self, ids: Iterable[str], states: Collection[State]) -> list[str]:
        """Keep the ids of imports in these states; cheaper than reading the whole records."""
        ids = list(ids)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for import_id in ids:
                pipeline.hget(IMPORT.on(self._redis) + import_id, "state")
            found = await pipeline.execute()
        return [import_id for import_id, state in zip(ids, found, strict=True) if state in states]

    async def imports(self, ids: Collection[str]) -> list[Import]:
        """Return these imports, without those that are not known (any more)."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for import_id in ids:
                pipeline.hgetall(IMPORT.on(self._redis) + import_id)
            records = await pipeline.execute()
        return [
            import_of(import_id, fields)
            for import_id, fields in zip(ids, records, strict=True)
            if fields
        ]

    async def _lanes(self, names: Iterable[str]) -> list[LaneView]:
        names = sorted(names)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                read_lane(pipeline, name)
            replies = await pipeline.execute()
        return [
            lane_view(name, replies[index * LANE_REPLIES : (index + 1) * LANE_REPLIES])
            for index, name in enumerate(names)
        ]


def _entries_of(reply: Any) -> list[Any]:
    """Return the lists of entries of an XREAD reply, in RESP2 or RESP3."""
    if isinstance(reply, dict):
        return [page for pages in reply.values() for page in pages]
    return [entries for _, entries in reply or []]


def _event(entry_id: str, fields: Mapping[str, str]) -> tuple[str, Event]:
    return entry_id, json.loads(fields["event"])
