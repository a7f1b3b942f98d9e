"""Sinks for people to read: what waits, what was refused, what was lost. And what operators do.

All methods raise `redis.exceptions.RedisError` if the store can't be reached.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from worker.store.keys import EVENTS, PARKED_EVENTS, RELAY_GROUP, RESEND, SINK, SINKS

READ_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkView:
    """A sink. Times are in seconds; None if there is nothing of the kind.

    `relay` is the relay that serves it, '' if none does. `unread` events have not been read for it,
    and `pending` ones have been read and not settled. `lost` events were trimmed off the stream
    before; `dropped` ones were parked, until there were too many. `disabled` says why it gets no
    events, '' if it does.
    """

    name: str
    relay: str
    unread: int
    pending: int
    oldest_seconds: float | None
    delivered: int
    parked: int
    resending: int
    lost: int
    dropped: int
    delivered_seconds_ago: float | None
    error: str
    error_seconds_ago: float | None
    disabled: str


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """A parked event: its id in the store, its text, and why and for how long it is parked."""

    id: str
    text: str
    reason: str
    attempts: int
    seconds: float


async def read_sinks(redis: "Redis") -> tuple[SinkView, ...]:
    """Return every sink that a relay has served, by name. Takes two round trips."""
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.time()
        pipeline.smembers(SINKS.on(redis))
        pipeline.xinfo_stream(EVENTS.on(redis))
        pipeline.xinfo_groups(EVENTS.on(redis))
        replies = await pipeline.execute(raise_on_error=False)
    for reply in replies[:2]:
        if isinstance(reply, Exception):
            raise reply
    (seconds, microseconds), names, stream, groups = replies
    if not names or isinstance(stream, Exception) or isinstance(groups, Exception):
        return ()  # there is no stream yet
    read_to = {group["name"]: group["last-delivered-id"] for group in groups}
    ordered = sorted(names)
    async with redis.pipeline(transaction=False) as pipeline:
        for name in ordered:
            group = RELAY_GROUP + name
            pipeline.hgetall(SINK.on(redis) + name)
            pipeline.xpending(EVENTS.on(redis), group)
            pipeline.xrange(EVENTS.on(redis), min=f"({read_to.get(group, '0-0')}", count=1)
            pipeline.xlen(PARKED_EVENTS.on(redis) + name)
            pipeline.zcard(RESEND.on(redis) + name)
        replies = await pipeline.execute(raise_on_error=False)
    now_ms = seconds * 1000 + microseconds // 1000
    each = (replies[start : start + 5] for start in range(0, len(replies), 5))
    return tuple(_view(name, few, stream, now_ms) for name, few in zip(ordered, each, strict=True))


class SinkControl:
    """What an operator does to a sink."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    async def parked(self, sink: str) -> AsyncGenerator[ParkedEvent, None]:
        """Yield the parked events, oldest first."""
        now, _ = await self._redis.time()
        after = "-"
        while entries := await self._page(sink, after):
            for entry_id, fields in entries:
                yield ParkedEvent(
                    entry_id,
                    fields["event"],
                    fields["reason"],
                    int(fields["attempts"]),
                    max(0.0, now - int(fields["parked_ms"]) / 1000),
                )
                after = f"({entry_id}"

    async def resend(self, sink: str, ids: Sequence[str]) -> None:
        """Send parked events again, behind those that wait. Unknown ids do nothing."""
        scores: dict[str, float] = {each: int(each.partition("-")[0]) for each in ids}
        if scores:
            await self._redis.zadd(RESEND.on(self._redis) + sink, scores)

    async def drop(self, sink: str, ids: Sequence[str]) -> int:
        """Forget parked events; return how many there were."""
        if not ids:
            return 0
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xdel(PARKED_EVENTS.on(self._redis) + sink, *ids)
            pipeline.zrem(RESEND.on(self._redis) + sink, *ids)
            dropped, _ = await pipeline.execute()
        return int(dropped)

    async def enable(self, sink: str) -> bool:
        """Let a disabled sink get events again; return whether it was disabled."""
        return bool(await self._redis.hdel(SINK.on(self._redis) + sink, "disabled"))

    async def forget(self, sink: str) -> bool:
        """Remove all that is known of a sink; return whether anything was.

        If a relay still serves it, the sink begins anew.
        """
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.srem(SINKS.on(self._redis), sink)
            pipeline.delete(
                SINK.on(self._redis) + sink,
                PARKED_EVENTS.on(self._redis) + sink,
                RESEND.on(self._redis) + sink,
            )
            pipeline.xgroup_destroy(EVENTS.on(self._redis), RELAY_GROUP + sink)
            known, *_ = await pipeline.execute(raise_on_error=False)
        if isinstance(known, Exception):
            raise known
        return bool(known)

    async def _page(self, sink: str, after: str) -> Any:
        return await self._redis.xrange(
            PARKED_EVENTS.on(self._redis) + sink, min=after, count=READ_AT_ONCE
        )


def _view(name: str, replies: Sequence[Any], stream: Mapping[str, Any], now_ms: int) -> SinkView:
    state, pending, unread, parked, resending = replies
    if isinstance(pending, Exception):  # there is no group yet
        pending = {"pending": 0, "min": None}
    appended, length = int(stream["entries-added"]), int(stream["length"])
    position = int(state.get("position", appended - length))
    waiting = [pending["min"], *(entry_id for entry_id, _ in unread)]
    oldest = min((_milliseconds(each) for each in waiting if each), default=None)
    is_held = int(state.get("held_till_ms", 0)) >= now_ms
    return SinkView(
        name=name,
        relay=state.get("holder", "") if is_held else "",
        unread=min(length, appended - position),
        pending=pending["pending"],
        oldest_seconds=_ago(oldest, now_ms),
        delivered=int(state.get("delivered", 0)),
        parked=parked,
        resending=resending,
        # those that are trimmed already, and that no relay has noticed yet
        lost=int(state.get("trimmed", 0)) + max(0, appended - length - position),
        dropped=int(state.get("dropped", 0)),
        delivered_seconds_ago=_ago(state.get("delivered_ms"), now_ms),
        error=state.get("error", ""),
        error_seconds_ago=_ago(state.get("error_ms"), now_ms),
        disabled=state.get("disabled", ""),
    )


def _milliseconds(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])


def _ago(moment_ms: int | str | None, now_ms: int) -> float | None:
    return None if moment_ms is None else max(0.0, (now_ms - int(moment_ms)) / 1000)
