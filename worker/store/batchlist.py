"""Reads the index of batches, newest first. Nothing here writes."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from redis.asyncio import Redis

from worker.domain.imports import Import
from worker.domain.states import UNFINISHED
from worker.store.batchview import BATCH_REPLIES, BatchCounts, batch_of, read_batch
from worker.store.keys import BATCHES, IMPORT, MEMBERS
from worker.store.views import READ_AT_ONCE, ImportViews


async def is_indexed(redis: "Redis", batch_id: str) -> bool:
    """Return whether the index has a batch."""
    return await _rank(redis, batch_id) is not None


async def batches_after(
    redis: "Redis", batch_id: str = ""
) -> AsyncGenerator[list[BatchCounts], None]:
    """Yield the batches that are older than this one, page by page; all batches if it is ''.

    Batches that have expired are left out. Each page continues behind the last batch of the page
    before, so that batches that are created meanwhile shift none.
    """
    start, last = 0, batch_id
    while True:
        rank = await _rank(redis, last) if last else None
        start = start if rank is None else rank + 1
        ids: Any = await redis.zrevrange(BATCHES.on(redis), start, start + READ_AT_ONCE - 1)
        if not ids:
            return
        yield await read_batches(redis, ids)
        start, last = start + len(ids), ids[-1]


async def _rank(redis: "Redis", batch_id: str) -> int | None:
    rank: Any = await redis.zrevrank(BATCHES.on(redis), batch_id)
    return None if rank is None else int(rank)


async def newest_batches(redis: "Redis", count: int) -> list[BatchCounts]:
    """Return up to so many batches, newest first, without those that have expired."""
    ids: Any = await redis.zrevrange(BATCHES.on(redis), 0, count - 1)
    return await read_batches(redis, ids)


async def read_batches(redis: "Redis", ids: Sequence[str]) -> list[BatchCounts]:
    """Return these batches, without those that are not known (any more)."""
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.time()
        for batch_id in ids:
            read_batch(pipeline, batch_id)
        time, *replies = await pipeline.execute()
    found = (
        batch_of(batch_id, replies[n * BATCH_REPLIES : (n + 1) * BATCH_REPLIES], time)
        for n, batch_id in enumerate(ids)
    )
    return [counts for counts in found if counts]


async def an_unfinished_import(redis: "Redis", batch_id: str) -> Import | None:
    """Return the oldest import that has not ended of those that joined a batch last.

    Looks at `READ_AT_ONCE` of them. Returns None if all of these have ended.
    """
    ids: Any = await redis.zrange(MEMBERS.on(redis) + batch_id, -READ_AT_ONCE, -1)
    async with redis.pipeline(transaction=False) as pipeline:
        for import_id in ids:
            pipeline.hmget(IMPORT.on(redis) + import_id, "state", "batch_id")
        found = await pipeline.execute()
    for import_id, (state, of_batch) in zip(ids, found, strict=True):
        if of_batch == batch_id and state in UNFINISHED:
            return await ImportViews(redis).find(import_id)
    return None
