"""The store as a whole, for its metrics: read in four round trips, however many lanes there are.

Sinks, if there are any, take one more, and batches, if asked for, a few. Nothing here writes.
`read_overview` raises `redis.exceptions.RedisError` if the store can't be reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from worker.domain.requests import Priority
from worker.store.batchlist import batches_after
from worker.store.batchview import BatchCounts
from worker.store.keys import (
    CONSUMER_GROUP,
    EVENTS,
    IMPORT,
    NAMES,
    POLLS,
    REQUESTS,
    UNFINISHED,
    WAITING,
)
from worker.store.laneview import LANE_REPLIES, LaneView, lane_view, read_lane
from worker.store.records import spellings, values_of
from worker.store.sinkviews import SinkView, read_sinks
from worker.store.views import READ_AT_ONCE

HEADS: Final = 5
"""How many imports of each queue are looked at to find the oldest. Batches take turns, so the
oldest import is among the first."""

BATCHES_READ: Final = 2 * READ_AT_ONCE
"""Of so many of the newest batches, those that are not over are shown."""


@dataclass(frozen=True, slots=True)
class LaneReading:
    """A lane. Times are in seconds; 0 for none.

    `oldest_waiting_seconds` is the age of the oldest import among those that are next to start.
    `poll_lag_seconds` is for how long the most overdue poll has been due.
    """

    view: LaneView
    oldest_waiting_seconds: float
    poll_lag_seconds: float


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group of a stream. `lag` is None if the server does not know it."""

    name: str
    lag: int | None
    pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The store at about one moment.

    `events` is the length of the event stream, and `groups` are its consumer groups. `undelivered`
    requests in the requests stream were not read by a worker, `unadmitted` ones were read but not
    admitted. `unfinished` imports have ended, and their Celery tasks have not. `batches` are the
    newest batches that are not over, as many as were asked for. `sinks` are those that a relay has
    served.
    """

    lanes: tuple[LaneReading, ...]
    events: int
    groups: tuple[Group, ...]
    undelivered: int
    unadmitted: int
    unfinished: int
    batches: tuple[BatchCounts, ...] = ()
    sinks: tuple[SinkView, ...] = ()


async def read_overview(redis: "Redis", batches: int = 0) -> Overview:
    """Read the store, and up to so many of the newest batches that are not over."""
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.smembers(NAMES.on(redis))
        pipeline.xlen(EVENTS.on(redis))
        pipeline.xlen(REQUESTS.on(redis))
        pipeline.zcard(UNFINISHED.on(redis))
        pipeline.xinfo_groups(EVENTS.on(redis))
        pipeline.xinfo_groups(REQUESTS.on(redis))
        *numbers, of_events, of_requests = await pipeline.execute(raise_on_error=False)
    for reply in numbers:
        if isinstance(reply, Exception):
            raise reply
    names, events, requests, unfinished = numbers
    pending = sum(g.pending for g in _groups(of_requests) if g.name == CONSUMER_GROUP)
    return Overview(
        lanes=await _read_lanes(redis, sorted(names)),
        events=events,
        groups=_groups(of_events),
        undelivered=max(0, requests - pending),  # workers delete the entries that they admit
        unadmitted=pending,
        unfinished=unfinished,
        batches=await _read_batches(redis, batches) if batches else (),
        sinks=await read_sinks(redis),
    )


async def read_event_groups(redis: "Redis") -> tuple[int, tuple[Group, ...]]:
    """Return the number of events in the stream, and its consumer groups."""
    key = EVENTS.on(redis)
    events = await redis.xlen(key)
    if not await redis.exists(key):
        return 0, ()
    return events, _groups(await redis.xinfo_groups(key))


def _groups(reply: Any) -> tuple[Group, ...]:
    """Return the groups in a reply to XINFO GROUPS, which fails if there is no stream."""
    if isinstance(reply, ResponseError):
        return ()
    if isinstance(reply, Exception):
        raise reply
    return tuple(Group(g["name"], g.get("lag"), int(g["pending"])) for g in reply)


async def _read_batches(redis: "Redis", most: int) -> tuple[BatchCounts, ...]:
    """Return the newest batches that are not over, of the newest `BATCHES_READ`."""
    left: list[BatchCounts] = []
    read = 0
    async for page in batches_after(redis):
        left += [batch for batch in page if not batch.completed]
        read += READ_AT_ONCE
        if len(left) >= most or read >= BATCHES_READ:
            break
    return tuple(left[:most])


async def _read_lanes(redis: "Redis", names: Sequence[str]) -> tuple[LaneReading, ...]:
    async with redis.pipeline(transaction=False) as pipeline:
        for name in names:
            read_lane(pipeline, name)
            pipeline.zrange(POLLS.on(redis) + name, 0, 0, withscores=True)
            for priority in Priority:
                pipeline.zrange(f"{WAITING.on(redis)}{name}:{priority}", 0, HEADS - 1)
        replies = await pipeline.execute()
    size = LANE_REPLIES + 1 + len(Priority)
    each = [replies[start : start + size] for start in range(0, len(replies), size)]
    heads = [[head for queue in one[LANE_REPLIES + 1 :] for head in queue] for one in each]
    accepted = await _accepted_at(redis, [head for some in heads for head in some])
    return tuple(
        _reading(name, one, [accepted[head] for head in some])
        for name, one, some in zip(names, each, heads, strict=True)
    )


async def _accepted_at(redis: "Redis", ids: Sequence[str]) -> dict[str, float | None]:
    """Return when imports were admitted, in milliseconds; None if a record is gone."""
    names = ["accepted_at_ms"]
    async with redis.pipeline(transaction=False) as pipeline:
        for import_id in ids:
            pipeline.hmget(IMPORT.on(redis) + import_id, *spellings(names))
        found = [values_of(names, values)[0] for values in await pipeline.execute()]
    return {each: float(ms) if ms else None for each, ms in zip(ids, found, strict=True)}


def _reading(name: str, replies: Sequence[Any], accepted: Sequence[float | None]) -> LaneReading:
    view, polls = lane_view(name, replies[:LANE_REPLIES]), replies[LANE_REPLIES]
    due = [float(score) for _, score in polls]
    return LaneReading(
        view,
        oldest_waiting_seconds=_since(view, [ms for ms in accepted if ms is not None]),
        poll_lag_seconds=_since(view, due),
    )


def _since(view: LaneView, moments_ms: Sequence[float]) -> float:
    """Return how long ago the earliest of these moments was; 0 if it is yet to come."""
    return max(0.0, (view.read_at_ms - min(moments_ms)) / 1000) if moments_ms else 0.0
