"""Finds imports by state, lane, batch, target and age. Nothing here writes.

The ids of all imports that may fit are read first, and sorted. Then records are read until enough
of them fit. An import may move between two queues while they are read, and be missed. So the queues
between which it moves most often, those for calls and for polls, are read at one moment.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Final

from redis.asyncio import Redis

from worker.domain.imports import Import
from worker.domain.requests import Priority
from worker.domain.states import UNFINISHED, State
from worker.store.keys import (
    DELAYED,
    HELD,
    IMPORT,
    LEASES,
    MEMBERS,
    NAMES,
    PARKED,
    POLLS,
    WAITING,
    Key,
)
from worker.store.records import spellings, values_of
from worker.store.views import READ_AT_ONCE, ImportViews

SCANNED_AT_ONCE: Final = 1000

OnRead = Callable[[int], None]
"""Called with the number of ids read so far."""

_FIELDS: Final = (
    *("state", "account", "region", "batch_id", "app_id", "backend_environment_name"),
    *("accepted_at_ms", "undecided"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """Which imports to find. '' and 0 fit all; `accepted_by_ms` is on the store's clock.

    `app_id` alone fits all environments of the app. `undecided` fits only undecided imports.
    """

    states: frozenset[State] = UNFINISHED
    lane: str = ""
    batch_id: str = ""
    app_id: str = ""
    environment: str = ""
    accepted_by_ms: int = 0
    undecided: bool = False

    @property
    def needs_scan(self) -> bool:
        """Whether ended imports are wanted, which only a scan of all records finds."""
        return not self.batch_id and not self.states <= UNFINISHED

    def fits(self, values: Sequence[str | None]) -> bool:
        """Return whether a record fits that has these values of `_FIELDS`."""
        state, account, region, batch_id, app_id, environment, accepted_at_ms, undecided = values
        return (
            state in self.states
            and self.lane in {"", f"{account}/{region}"}
            and self.batch_id in {"", batch_id}
            and self.app_id in {"", app_id}
            and self.environment in {"", environment}
            and (not self.accepted_by_ms or float(accepted_at_ms or 0) <= self.accepted_by_ms)
            and (not self.undecided or bool(undecided))
        )


async def find_imports(
    redis: "Redis", criteria: Criteria, after: str = "", on_read: OnRead = lambda _count: None
) -> AsyncGenerator[Import, None]:
    """Yield the imports that fit, in the order of their ids, from the first one behind `after`."""
    found: set[str] = set()
    async for some in _candidates(redis, criteria):
        found.update(import_id for import_id in some if import_id > after)
        on_read(len(found))
    ids = sorted(found)
    views = ImportViews(redis)
    for start in range(0, len(ids), READ_AT_ONCE):
        page = ids[start : start + READ_AT_ONCE]
        async with redis.pipeline(transaction=False) as pipeline:
            for import_id in page:
                pipeline.hmget(IMPORT.on(redis) + import_id, *spellings(_FIELDS))
            records = await pipeline.execute()
        fits = (criteria.fits(values_of(_FIELDS, found)) for found in records)
        for item in await views.imports(list(compress(page, fits))):
            yield item


async def _candidates(redis: "Redis", criteria: Criteria) -> AsyncIterator[list[str]]:
    """Yield the ids of all imports that may fit, in parts, some of them more than once."""
    if criteria.batch_id:
        async for part in _all_of(redis, MEMBERS.on(redis) + criteria.batch_id):
            yield part
    elif criteria.needs_scan:
        async for names in _keys_of(redis, IMPORT):
            yield [name.removeprefix(IMPORT.on(redis)) for name in names]
    else:
        lanes: Any = [criteria.lane] if criteria.lane else await redis.smembers(NAMES.on(redis))
        is_queued = State.WAITING in criteria.states and not criteria.undecided
        for lane in lanes:
            if is_queued:
                async for part in _queued_in(redis, lane):
                    yield part
            yield await _called_in(redis, lane)
        if is_queued:
            async for part in _held_and_parked(redis):
                yield part


async def _queued_in(redis: "Redis", lane: str) -> AsyncIterator[list[str]]:
    for queue in (DELAYED.on(redis) + lane, *(f"{WAITING.on(redis)}{lane}:{p}" for p in Priority)):
        async for part in _all_of(redis, queue):
            yield part


async def _called_in(redis: "Redis", lane: str) -> list[str]:
    async with redis.pipeline(transaction=True) as pipeline:
        pipeline.zrange(LEASES.on(redis) + lane, 0, -1)
        pipeline.zrange(POLLS.on(redis) + lane, 0, -1)
        leases, polls = await pipeline.execute()
    return [*leases, *polls]


async def _held_and_parked(redis: "Redis") -> AsyncIterator[list[str]]:
    """Yield imports that wait for their batch or target; nothing lists these queues."""
    for kind in (HELD, PARKED):
        async for queues in _keys_of(redis, kind):
            for queue in queues:
                async for part in _all_of(redis, queue):
                    yield part


async def _keys_of(redis: "Redis", kind: Key) -> AsyncIterator[list[str]]:
    cursor: int | None = None
    while cursor != 0:
        reply: Any = await redis.scan(
            cursor or 0, match=f"{kind.on(redis)}*", count=SCANNED_AT_ONCE
        )
        cursor, names = reply
        yield names


async def _all_of(redis: "Redis", key: str) -> AsyncIterator[list[str]]:
    cursor: int | None = None
    while cursor != 0:
        reply: Any = await redis.zscan(key, cursor or 0, count=SCANNED_AT_ONCE)
        cursor, scored = reply
        yield [name for name, _ in scored]
