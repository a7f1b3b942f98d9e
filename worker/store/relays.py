"""What relays read and write: leases on sinks, events for a sink, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis

from worker.store.connection import translated
from worker.store.keys import EVENTS, RELAY_GROUP
from worker.store.observer import NOBODY, StoreObserver
from worker.store.scripts import Reply, Scripts

NEW: Final = ""
"""As `after`: events that were not read before."""

FIRST: Final = "0"
"""As `after`: the oldest of the events that were read before and are not settled."""


class LeaseLostError(Exception):
    """The sink is leased to another relay, or to none."""


@dataclass(frozen=True, slots=True)
class Leases:
    """The sinks that are leased to a relay, and those of them that it should release."""

    held: frozenset[str]
    surplus: frozenset[str]


@dataclass(frozen=True, slots=True)
class Entry:
    """An event for a sink. `was_parked` if it was refused before and is to be sent again."""

    id: str
    text: str
    was_parked: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """What one reading returned. `trimmed` events were lost before the sink had read them."""

    entries: tuple[Entry, ...]
    again: tuple[Entry, ...]
    trimmed: int
    is_disabled: bool


@dataclass(frozen=True, slots=True)
class Parking:
    """An event that the sink refused: why, and after how many attempts."""

    entry: Entry
    reason: str
    attempts: int


@dataclass(slots=True)
class Settlement:
    """What became of events. `error` says why the last failed attempt failed.

    `disabled` says why the sink takes no more events.
    """

    delivered: list[Entry] = field(default_factory=list)
    skipped: list[Entry] = field(default_factory=list)
    parked: list[Parking] = field(default_factory=list)
    error: str = ""
    disabled: str = ""

    def __bool__(self) -> bool:
        return bool(self.delivered or self.skipped or self.parked or self.error or self.disabled)


class RelayStore:
    """The store of one relay. All methods raise StoreUnavailableError if it can't be reached."""

    def __init__(
        self, redis: "Redis", relay: str, lease_ms: int, observer: StoreObserver = NOBODY
    ) -> None:
        self._redis = redis
        self._relay = relay
        self._lease_ms = lease_ms
        self._scripts = Scripts(redis, {}, observer)

    async def hold(self, sinks: Sequence[str]) -> Leases:
        """Report that this relay is alive, and lease it its share of the sinks."""
        reply = await self._scripts.call(
            "hold_sinks", relay=self._relay, sinks=list(sinks), lease_ms=self._lease_ms
        )
        return Leases(frozenset(reply["held"]), frozenset(reply["surplus"]))

    async def release(self, sinks: Sequence[str], *, leaves: bool = False) -> None:
        """End the leases of these sinks; with `leaves`, the relay ends, too."""
        await self._scripts.call(
            "release_sinks", relay=self._relay, sinks=list(sinks), leaves=leaves
        )

    async def read(self, sink: str, start: str, count: int, after: str, resending: int) -> Page:
        """Return up to `count` events for a sink, and up to as many parked ones to send again.

        A sink that is new begins at `start`: `0` for the oldest event, `$` for the next one. The
        first `resending` of the parked ones are also in the page, but not counted.

        Raises:
            LeaseLostError: if this relay no longer has the sink.

        """
        reply = await self._scripts.call(
            "read_events",
            relay=self._relay,
            sink=sink,
            group=RELAY_GROUP + sink,
            start=start,
            count=count,
            after=after,
            resending=resending,
        )
        if not reply["held"]:
            raise LeaseLostError(sink)
        return _page(reply)

    async def settle(self, sink: str, settlement: Settlement, most: int) -> int:
        """Record what became of events; keep `most` parked ones, and return how many were dropped.

        Safe to repeat.
        """
        done = settlement.delivered
        reply = await self._scripts.call(
            "settle_events",
            sink=sink,
            group=RELAY_GROUP + sink,
            delivered=[each.id for each in done if not each.was_parked],
            resent=[each.id for each in done if each.was_parked],
            skipped=[each.id for each in settlement.skipped],
            parked=[
                [p.entry.id, p.entry.text, p.reason, p.attempts, p.entry.was_parked]
                for p in settlement.parked
            ],
            error=settlement.error,
            disabled=settlement.disabled,
            most=most,
        )
        return int(reply["dropped"])

    @translated
    async def wait(self, after: str, block_ms: int) -> str:
        """Wait for an event behind the entry `after`; return the newest entry's id."""
        reply: Any = await self._redis.xread(
            {EVENTS.on(self._redis): after}, count=1, block=block_ms
        )
        if not reply:
            return after
        newest: Any = await self._redis.xrevrange(EVENTS.on(self._redis), count=1)
        return str(newest[0][0]) if newest else after


def _page(reply: Reply) -> Page:
    return Page(
        tuple(Entry(entry_id, text) for entry_id, text in reply["entries"]),
        tuple(Entry(entry_id, text, was_parked=True) for entry_id, text in reply["again"]),
        int(reply["trimmed"]),
        bool(reply["disabled"]),
    )
