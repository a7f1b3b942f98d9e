"""The conductor: claims calls that are due and makes them. Each worker has one; none leads.

It sleeps until the store schedules work or hints at new work. Hints may be lost, so a conductor
never sleeps longer than a second.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from worker.domain.claims import Call, Claim
from worker.domain.decisions import Requeue
from worker.doors.arrivals import Arrivals
from worker.doors.intake import Intake
from worker.engine.log import log_overdue
from worker.engine.tracing import trace_fields
from worker.parameters import limits_of
from worker.runtime import Runtime
from worker.store.cancellation import cancel_all
from worker.store.connection import StoreUnavailableError

log = structlog.get_logger()

IDLE_SECONDS: Final = 1
BLOCK_SECONDS: Final = 5.0
OUTAGE_MAX_SECONDS: Final = 5.0
CLAIMED_AT_ONCE: Final = 100
FINISHED_AT_ONCE: Final = 100
SWEEP_SECONDS: Final = 30.0
OVERDUE_MAX_SECONDS: Final = 5.0
TOGETHER_SECONDS: Final = 0.1
"""Calls that fall due within this time are claimed together."""


class Conductor:
    """Runs the loops of one worker on the event loop of its runtime."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._name = name
        self._runtime = runtime
        self._store = runtime.store
        self._advancer = runtime.advancer
        self._own_clock = runtime.own_clock
        self._announcer = runtime.announcer
        self._settings = runtime.settings
        self._max_in_flight = runtime.settings.max_in_flight
        self._lease_seconds = runtime.settings.lease_seconds
        self._in_flight: set[asyncio.Task[None]] = set()
        self._in_lane: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._rounds = 0
        self._looks_at = math.inf
        self.intake = Intake(runtime, self._sleep)
        self.arrivals = Arrivals(runtime.admitter, runtime.call_soon)

    def progress(self) -> object:
        """Return a value that changes as long as this conductor looks for work."""
        return self._rounds

    @property
    def in_flight(self) -> int:
        """How many calls are in progress."""
        return len(self._in_flight)

    async def start(self) -> None:
        """Start the loops."""
        self._running = asyncio.create_task(self._run(), name="conductor")

    async def stop(self) -> None:
        """Claim nothing more; return when all that was taken is admitted, answered and recorded."""
        self._stopping.set()
        self._changed.set()
        self.arrivals.wake()
        if self._running is not None:
            await self._running

    async def _prepare(self) -> None:
        changed = await self._store.configure(
            limits_of(self._settings.lane_defaults),
            {name: limits_of(limits) for name, limits in self._settings.lanes.items()},
            by=self._name,
        )
        if changed:
            log.info("limits.configured", lanes=[name or "defaults" for name in changed])
        await self.intake.open()
        await self._runtime.prepare()

    async def _run(self) -> None:
        await self._through_outages(self._prepare)
        claiming = asyncio.create_task(self._for_ever(self._claim_work), name="claim_work")
        admitting = asyncio.create_task(self._for_ever(self.arrivals.admit), name="admit_tasks")
        others = [
            asyncio.create_task(self._for_ever(step), name=name)
            for name, step in {
                "listen_for_hints": self._listen_for_hints,
                "finish_overdue": self._finish_overdue,
                "wake_stranded": self._wake_stranded,
                "renew_openings": self._renew_openings,
                **self.intake.loops,
                **self._runtime.duties,
            }.items()
        ]
        await self._stopping.wait()
        # The blocking reads have taken nothing yet, and the claim loop requeues what it took.
        await cancel_all(others)
        await asyncio.gather(claiming, *others, return_exceptions=True)
        await self.intake.close()
        if self._in_flight:
            log.info("conductor.draining", calls=len(self._in_flight))
        await asyncio.wait({admitting, *self._in_flight}, timeout=self._lease_seconds)
        for task in (admitting, *self._in_flight):
            task.cancel()

    async def _for_ever(self, step: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping.is_set():
            await self._through_outages(step)

    async def _through_outages(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take one step; wait and repeat it while the store can't be reached."""
        delay = 0.1
        while not self._stopping.is_set():
            try:
                await step()
            except StoreUnavailableError as error:
                self._rounds += 1  # waiting is all that can be done
                log.warning("store.unreachable", error=str(error), retry_seconds=delay)
            # the outermost loop: a defect must not leave a worker that silently does nothing
            except Exception:
                log.exception("conductor.step_failed", retry_seconds=delay)
            else:
                return
            await self._sleep(delay)
            delay = min(delay * 2, OUTAGE_MAX_SECONDS)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but wake up if the worker stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _claim_work(self) -> None:
        self._rounds += 1
        self._changed.clear()
        self._looks_at = math.inf
        if len(self._in_flight) >= self._max_in_flight:
            await self._changed.wait()
            return
        room = self._room()
        if not room:
            await self._sleep(IDLE_SECONDS)
            return
        claims, wait_seconds = await self._store.claim(
            min(room, CLAIMED_AT_ONCE), slots=room, in_flight=self._in_lane
        )
        for claim in claims:
            await self._begin(claim)
        if wait_seconds == 0 and claims:
            return
        wait = IDLE_SECONDS if wait_seconds is None else min(wait_seconds, IDLE_SECONDS)
        await self._wait_for_change(max(wait, 0.001))

    def _room(self) -> int:
        """Return how many more calls this worker could make now."""
        in_flight = len(self._in_flight)
        return self._own_clock.room(self._max_in_flight - in_flight, in_flight)

    async def _begin(self, claim: Claim) -> None:
        if self._stopping.is_set() or (claim.call is Call.START and not claim.lasting):
            await self._store.record(claim, Requeue())
            return
        lane = claim.item.lane
        task = asyncio.create_task(self._advance(claim), name=f"{claim.call} {claim.item.id}")
        self._in_flight.add(task)
        self._in_lane[lane] += 1
        task.add_done_callback(partial(self._call_done, lane))

    async def _advance(self, claim: Claim) -> None:
        try:
            delay_seconds = await self._advancer.advance(claim)
        except StoreUnavailableError as error:
            # The lease ends, and the store decides what follows.
            known = {"import_id": claim.item.id, **trace_fields(claim.item)}
            log.warning("claim.unrecorded", **known, error=str(error))
        except Exception:
            log.exception("claim.failed", import_id=claim.item.id, **trace_fields(claim.item))
        else:
            self._look_within(delay_seconds)

    def _look_within(self, seconds: float | None) -> None:
        """Look for work when a call falls due that the store did not know of at the last look."""
        if seconds is None:
            return
        loop = asyncio.get_running_loop()
        due_at = loop.time() + seconds
        if due_at < self._looks_at - TOGETHER_SECONDS:
            self._looks_at = due_at
            loop.call_at(due_at, self._changed.set)

    def _call_done(self, lane: str, task: asyncio.Task[None]) -> None:
        full = len(self._in_flight) >= self._max_in_flight
        self._in_flight.discard(task)
        self._in_lane[lane] -= 1
        if not self._in_lane[lane]:
            del self._in_lane[lane]
        if full:
            self._changed.set()

    async def _wait_for_change(self, seconds: float) -> None:
        self._looks_at = min(self._looks_at, asyncio.get_running_loop().time() + seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _listen_for_hints(self) -> None:
        if not self._room():
            await self._sleep(IDLE_SECONDS)  # leave hints to workers that can follow them
        elif await self._store.wait_for_hint(BLOCK_SECONDS):
            self._changed.set()

    async def _finish_overdue(self) -> None:
        overdue = await self._store.overdue(FINISHED_AT_ONCE, self._lease_seconds * 5)
        for ended in overdue:
            log_overdue(ended)
            if ended.is_new:
                self._runtime.tracing.ended(ended.item)
            await self._announcer.ended(ended)
        await self._announcer.settled()
        if not overdue:
            await self._sleep(min(self._lease_seconds / 4, OVERDUE_MAX_SECONDS))

    async def _wake_stranded(self) -> None:
        """Look for lanes with work that are not scheduled; there should be none."""
        await self._sleep(SWEEP_SECONDS)
        if stranded := await self._store.sweep():
            log.warning("lanes.stranded", lanes=stranded)

    async def _renew_openings(self) -> None:
        """Keep known when the windows of batches are open."""
        await self._store.renew_openings()
        await self._sleep(SWEEP_SECONDS)
