"""A relay: serves the sinks that are leased to it. Any number of relays share the sinks."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from worker.relay.delivery import Delivery, Terms
from worker.relay.observer import NOBODY, RelayObserver
from worker.relay.sink import Sink
from worker.store.cancellation import cancel_all
from worker.store.connection import StoreUnavailableError
from worker.store.relays import LeaseLostError, RelayStore

log = structlog.get_logger()

RENEWALS: Final = 4
"""How many times in a lease it is prolonged."""

BLOCK_MS: Final = 1000
OUTAGE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Served:
    """A sink to serve: on which terms, and how to open it."""

    terms: Terms
    open: Callable[[], Sink]


class Relay:
    """Serves sinks, by name. `lease_seconds` is what the store was opened with."""

    def __init__(
        self,
        sinks: Mapping[str, Served],
        store: RelayStore,
        lease_seconds: float,
        observer: RelayObserver = NOBODY,
    ) -> None:
        self._sinks = sinks
        self._store = store
        self._lease_seconds = lease_seconds
        self._observer = observer
        self._deliveries: dict[str, Delivery] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sure_until = 0.0
        self.turned_at = time.monotonic()
        """When the loop ran last (`time.monotonic`). It also runs while the store is away."""

    @property
    def serving(self) -> list[str]:
        """The sinks that this relay serves now."""
        return sorted(self._tasks)

    async def run(self, stopped: asyncio.Event) -> None:
        """Serve until `stopped` is set; then release the sinks."""
        watching = asyncio.create_task(self._watch())
        try:
            while not stopped.is_set():
                self.turned_at = time.monotonic()
                await self._turn()
                try:
                    await asyncio.wait_for(stopped.wait(), self._lease_seconds / RENEWALS)
                except TimeoutError:
                    continue
        finally:
            await cancel_all([watching])
            await self._leave()

    async def _turn(self) -> None:
        """Prolong the leases, and serve what is leased to this relay."""
        asked_at = time.monotonic()
        try:
            leases = await self._store.hold(sorted(self._sinks))
        except StoreUnavailableError as error:
            log.warning("relay.store_failed", error=str(error))
            return
        self._sure_until = asked_at + self._lease_seconds
        for name in sorted(leases.held - leases.surplus):
            if name not in self._tasks:
                self._start(name)
        self._stop(leases.surplus | (self._tasks.keys() - leases.held))

    def _start(self, name: str) -> None:
        served = self._sinks[name]
        sink = served.open()
        delivery = Delivery(served.terms, sink, self._store, self._is_sure, self._observer)
        self._deliveries[name] = delivery
        self._tasks[name] = asyncio.create_task(self._serve(name, sink, delivery))

    async def _serve(self, name: str, sink: Sink, delivery: Delivery) -> None:
        log.info("relay.sink_taken", sink=name)
        try:
            await delivery.run()
        except LeaseLostError:
            log.warning("relay.lease_lost", sink=name)
        except Exception:  # a defect in the delivery to one sink must not end the others
            log.exception("relay.sink_failed", sink=name)
        finally:
            del self._deliveries[name], self._tasks[name]
            await sink.close()
            await self._release([name])
        log.info("relay.sink_released", sink=name)

    def _is_sure(self) -> bool:
        return time.monotonic() < self._sure_until

    def _stop(self, names: Iterable[str]) -> None:
        """Begin to end the deliveries to these sinks; each releases its sink in the end."""
        for name in names:
            if delivery := self._deliveries.get(name):
                delivery.stop()

    async def _release(self, names: Sequence[str], *, leaves: bool = False) -> None:
        try:
            await self._store.release(names, leaves=leaves)
        except StoreUnavailableError as error:
            log.warning("relay.store_failed", error=str(error))  # the leases end by themselves

    async def _leave(self) -> None:
        self._stop(self._tasks)
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()))
        await self._release([], leaves=True)

    async def _watch(self) -> None:
        """Tell the deliveries when there are new events."""
        newest = "$"
        while True:
            try:
                found = await self._store.wait(newest, BLOCK_MS)
            except StoreUnavailableError:
                await asyncio.sleep(OUTAGE_SECONDS)
                continue
            if found != newest:
                newest = found
                for delivery in self._deliveries.values():
                    delivery.arrived.set()
