"""Reads what the screen shows, in at most six round trips."""

from dataclasses import dataclass
from typing import Final, Self

from redis.asyncio import Redis

from worker.domain.imports import Import, iso_time
from worker.domain.states import State
from worker.store.batchlist import newest_batches, read_batches
from worker.store.batchview import BatchCounts
from worker.store.laneview import LaneView
from worker.store.views import Event, ImportViews

EVENTS_READ: Final = 500
"""Of the events since the last reading, so many of the newest are looked at."""

FAILURES_KEPT: Final = 500
BATCHES_READ: Final = 500

_FAILURES: Final = frozenset(
    f"import.{state}" for state in (State.FAILED, State.REJECTED, State.TIMED_OUT)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An import that did not succeed. `at` is an ISO 8601 time, the store's, in UTC."""

    import_id: str
    batch_id: str
    target: str
    outcome: str
    reason: str
    at: str

    @classmethod
    def from_event(cls, event: Event) -> Self:
        """Build from the event with which an import ended."""
        data = event["data"]
        return cls(
            import_id=data["importId"],
            batch_id=data["batchId"] or "",
            target=event["subject"],
            outcome=data["outcome"],
            reason=data["error"] or "no reason given",
            at=event["time"],
        )

    @classmethod
    def from_import(cls, item: Import) -> Self:
        """Build from an import that has ended."""
        return cls(
            import_id=item.id,
            batch_id=item.batch_id,
            target=item.target,
            outcome=item.state,
            reason=item.error or "no reason given",
            at=iso_time(item.finished_at_ms) or "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The store at about one moment: `now` in seconds, batches and failures newest first."""

    now: float
    batches: tuple[BatchCounts, ...]
    lanes: tuple[LaneView, ...]
    failures: tuple[Failure, ...]


class Reader:
    """Reads these batches, or without any the newest ones that have not completed.

    A batch that completes while it is watched stays. Failures are those of the batches read.
    """

    def __init__(self, redis: "Redis", batch_ids: tuple[str, ...] = ()) -> None:
        self._redis = redis
        self._views = ImportViews(redis)
        self._batch_ids = batch_ids
        self._began_ms: float | None = None
        self._failures: tuple[Failure, ...] = ()
        self._last_event = "-"

    async def read(self) -> Reading:
        """Read the store. Raises `redis.exceptions.RedisError` if it can't be reached."""
        now = await self._views.now()
        batches = await self._read_batches(now * 1000)
        lanes = await self._views.lanes()
        await self._read_failures()
        return Reading(now=now, batches=batches, lanes=tuple(lanes), failures=self._failures)

    async def _read_batches(self, now_ms: float) -> tuple[BatchCounts, ...]:
        if self._batch_ids:
            return tuple(await read_batches(self._redis, self._batch_ids))
        if self._began_ms is None:
            self._began_ms = now_ms
        found = await newest_batches(self._redis, BATCHES_READ)
        return tuple(
            each for each in found if not each.completed or each.completed_at_ms >= self._began_ms
        )

    async def _read_failures(self) -> None:
        entries = await self._views.latest_events(self._last_event, EVENTS_READ)
        if not entries:
            return
        self._last_event = f"({entries[0][0]}"
        events = (event for _, event in entries if event["type"] in _FAILURES)
        new = tuple(
            failure
            for failure in map(Failure.from_event, events)
            if not self._batch_ids or failure.batch_id in self._batch_ids
        )
        self._failures = (new + self._failures)[:FAILURES_KEPT]
