"""Delivers the events of one sink: at least once, and in order per subject.

A task reads events, a task makes attempts to send them, and a task records what became of them. If
the relay dies, the next one reads again what was not recorded.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from worker.relay.event import Event
from worker.relay.observer import RelayObserver
from worker.relay.pace import LONGEST_SECONDS, Draw, Pace, backoff
from worker.relay.sink import Delivered, Failed, Fault, Gone, Outcome, Sink
from worker.relay.window import Item, Window
from worker.store.cancellation import cancel_all
from worker.store.connection import StoreUnavailableError
from worker.store.relays import FIRST, NEW, Entry, Parking, RelayStore, Settlement

log = structlog.get_logger()

READ_AT_ONCE: Final = 250
IDLE_SECONDS: Final = 2.0
"""How long a relay waits for a hint of new events before it looks for them."""

OUTAGE_SECONDS: Final = 1.0
STOP_SECONDS: Final = 20.0
"""How long attempts in progress may take when the relay stops."""

Wanted = Callable[[Event], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a sink is served. `start` is where a new one begins: `0`, the oldest event, or `$`."""

    name: str
    wanted: Wanted
    start: str
    concurrency: int
    max_attempts: int
    most_parked: int


class Delivery:
    """Delivers to one sink while this relay has its lease.

    `may_send` says whether the relay can still be sure of the lease.
    """

    def __init__(
        self,
        terms: Terms,
        sink: Sink,
        store: RelayStore,
        may_send: Callable[[], bool],
        observer: RelayObserver,
        draw: Draw = random.random,
    ) -> None:
        self._terms = terms
        self._sink = sink
        self._store = store
        self._may_send = may_send
        self._observer = observer
        self._draw = draw
        self._window = Window()
        self._pace = Pace(draw)
        self._attempts: set[asyncio.Task[None]] = set()
        self._resending: set[str] = set()
        self._settlement = Settlement()
        self._is_disabled = False
        self._is_stopping = False
        self._has_finished = False
        self.arrived = asyncio.Event()
        """Set it when there may be new events."""
        self._sendable = asyncio.Event()
        self._settled = asyncio.Event()
        self._has_room = asyncio.Event()
        self._log = log.bind(sink=terms.name)

    async def run(self) -> None:
        """Deliver until `stop` is called.

        Raises:
            LeaseLostError: if the sink is no longer leased to this relay.

        """
        reading = asyncio.create_task(self._read_all())
        sending = asyncio.create_task(self._send_all())
        settling = asyncio.create_task(self._settle_all())
        try:
            done, _ = await asyncio.wait(
                {reading, sending, settling}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await cancel_all([reading, sending])
            await self._finish(settling)
        for task in done:
            task.result()

    def stop(self) -> None:
        """Make no more attempts; `run` returns when those in progress are over and recorded."""
        self._is_stopping = True
        self._sendable.set()

    async def _finish(self, settling: asyncio.Task[None]) -> None:
        """Wait for attempts in progress, and record what became of them; both within a time."""
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=STOP_SECONDS)
        for attempt in self._attempts:
            attempt.cancel()
        self._has_finished = True
        self._settled.set()
        await asyncio.wait({settling}, timeout=STOP_SECONDS)
        await cancel_all([settling])

    async def _read_all(self) -> None:
        after = FIRST
        while True:
            self.arrived.clear()
            self._has_room.clear()
            if not self._window.room and not self._is_disabled:
                await self._has_room.wait()
                continue
            try:
                found = await self._read(after)
            except StoreUnavailableError as error:
                self._log.warning("relay.store_failed", error=str(error))
                await asyncio.sleep(OUTAGE_SECONDS)
                continue
            if after != NEW:
                after = found or NEW
            elif not found:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.arrived.wait(), IDLE_SECONDS)

    async def _read(self, after: str) -> str:
        """Read events; return the id of the last one, '' if there are none."""
        terms = self._terms
        count = max(1, min(READ_AT_ONCE, self._window.room))
        page = await self._store.read(terms.name, terms.start, count, after, len(self._resending))
        if self._is_disabled != page.is_disabled and not self._settlement.disabled:
            self._is_disabled = page.is_disabled
            self._sendable.set()
        if page.trimmed:
            self._log.error("relay.events_lost", events=page.trimmed)
            self._observer.lost(terms.name, page.trimmed)
        again = [entry for entry in page.again if entry.id not in self._resending]
        self._resending.update(entry.id for entry in again)
        for entry in (*page.entries, *again):
            self._take_in(entry)
        return page.entries[-1].id if page.entries else ""

    def _take_in(self, entry: Entry) -> None:
        try:
            event = Event.parse(entry.text)
        except ValueError as error:
            self._park(entry, f"not a CloudEvent: {error}", attempts=0)
            return
        if not entry.was_parked and not self._terms.wanted(event):
            self._settlement.skipped.append(entry)
            self._settled.set()
            return
        item = Item(entry, event, accepted_before=self._pace.accepted)
        self._window.add(item, time.monotonic())
        self._sendable.set()

    async def _send_all(self) -> None:
        while not self._is_stopping:
            self._sendable.clear()
            for items in iter(self._next, []):
                attempt = asyncio.create_task(self._attempt(items))
                self._attempts.add(attempt)
                attempt.add_done_callback(self._attempts.discard)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._sendable.wait(), self._seconds_until_due())

    def _may_begin(self) -> bool:
        """Return whether another attempt may be in progress, whatever the time."""
        most = 1 if self._pace.is_failing else self._terms.concurrency
        return len(self._attempts) < most and not self._is_disabled and self._may_send()

    def _next(self) -> list[Item]:
        """Return the events of the next attempt; none if nothing may be sent now."""
        now = time.monotonic()
        if now < self._pace.blocked_until or not self._may_begin():
            return []
        return self._window.take(now, self._sink.most, self._sink.most_bytes)

    def _seconds_until_due(self) -> float:
        """Return when to look again for something to send, if nothing happens before."""
        due = self._window.next_due
        if due is None or not self._may_begin():
            return IDLE_SECONDS
        return min(IDLE_SECONDS, max(due, self._pace.blocked_until) - time.monotonic())

    async def _attempt(self, items: Sequence[Item]) -> None:
        began_at = time.monotonic()
        try:
            outcomes = await self._sink.send([item.event for item in items])
        except Exception:  # noqa: BLE001 - a defect in one sink's code must not end the relay
            self._log.exception("relay.attempt_failed")
            failed = Failed("an internal error; see the relay's log", Fault.UNCLEAR)
            outcomes = [failed] * len(items)
        now = time.monotonic()
        self._observer.attempted(self._terms.name, now - began_at)
        for item, outcome in zip(items, outcomes, strict=True):
            self._note(item, outcome, began_at, now)
        self._sendable.set()
        self._settled.set()
        self._has_room.set()

    def _note(self, item: Item, outcome: Outcome, began_at: float, now: float) -> None:
        match outcome:
            case Delivered():
                self._pace.succeeded()
                self._window.remove(item, now)
                self._settlement.delivered.append(item.entry)
            case Failed():
                self._note_failure(item, outcome, began_at, now)
            case Gone(reason):
                self._window.postpone(item, now)
                self._settlement.disabled = self._settlement.error = reason
                self._is_disabled = True

    def _note_failure(self, item: Item, failed: Failed, began_at: float, now: float) -> None:
        self._settlement.error = failed.reason
        self._observer.failed(self._terms.name, failed.fault)
        if failed.fault is not Fault.EVENT:
            self._pace.failed(began_at, now, failed.retry_after_seconds)
        has_taken_others = self._pace.accepted > item.accepted_before
        item.accepted_before = self._pace.accepted
        counts = failed.fault is Fault.EVENT or (failed.fault is Fault.UNCLEAR and has_taken_others)
        item.attempts += counts
        if item.attempts >= self._terms.max_attempts:
            self._window.remove(item, now)
            self._park(item.entry, failed.reason, item.attempts)
        else:
            seconds = backoff(max(1, item.attempts), LONGEST_SECONDS, self._draw)
            self._window.postpone(item, now + seconds)

    def _park(self, entry: Entry, reason: str, attempts: int) -> None:
        self._log.error("relay.event_parked", entry=entry.id, reason=reason, attempts=attempts)
        self._settlement.parked.append(Parking(entry, reason, attempts))
        self._settled.set()

    async def _settle_all(self) -> None:
        while not self._has_finished:
            await self._settled.wait()
            self._settled.clear()
            await self._record()
        await self._record()  # what came in while the last one was recorded

    async def _record(self) -> None:
        """Record what became of events; what comes in meanwhile is recorded together, later."""
        settlement, self._settlement = self._settlement, Settlement()
        if not settlement:
            return
        terms = self._terms
        while True:
            try:
                dropped = await self._store.settle(terms.name, settlement, terms.most_parked)
                break
            except StoreUnavailableError as error:
                self._log.warning("relay.store_failed", error=str(error))
                await asyncio.sleep(OUTAGE_SECONDS)
        if dropped:
            self._log.error("relay.parked_events_dropped", events=dropped)
        settled = [*settlement.delivered, *(each.entry for each in settlement.parked)]
        self._resending.difference_update(entry.id for entry in settled if entry.was_parked)
        self._observer.settled(terms.name, settlement)
