"""A relay as a process: connects its store, its sinks, its metrics and its health."""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Final

from redis.asyncio import Redis

from config.settings import Settings
from worker.metrics import relay_catalogue as of
from worker.metrics.catalogue import CONTACT
from worker.metrics.health import Health
from worker.metrics.registry import recorder_of_process
from worker.metrics.server import Page, PageServer, health_page
from worker.metrics.store_samples import SCRAPE_SECONDS, StoreSamples
from worker.metrics.values import Sample, Values
from worker.relay.kinds import served
from worker.relay.measurements import RelayMeasurements
from worker.relay.relay import Relay
from worker.relay.sinksfile import AnySink
from worker.store.overview import Overview, read_overview
from worker.store.relays import RelayStore

LEASE_SECONDS: Final = 10.0
"""After how long another relay takes over from one that died; IMPORTS_LEASE_SECONDS if shorter."""

STUCK_SECONDS: Final = 60.0


def relay_id() -> str:
    """Return an id that no other relay has, and by which people find the process."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class RelayProcess:
    """Serves sinks, and shows its metrics and its health by HTTP if the settings have a port.

    Raises:
        OSError: if it can't listen there.

    """

    def __init__(self, settings: Settings, sinks: Mapping[str, AnySink], redis: "Redis") -> None:
        self._settings = settings
        self._redis = redis
        self._server: PageServer | None = None
        self._values = Values(of.RELAY)
        recorder = recorder_of_process()
        if settings.metrics_port:
            self._server = PageServer(settings.metrics_host, settings.metrics_port)
            recorder = self._values
        self._measurements = RelayMeasurements(recorder)
        lease_seconds = min(LEASE_SECONDS, settings.lease_seconds)
        store = RelayStore(redis, relay_id(), round(lease_seconds * 1000), self._measurements)
        self._relay = Relay(
            {name: served(name, sink, settings.events_max_length) for name, sink in sinks.items()},
            store,
            lease_seconds,
            self._measurements,
        )

    async def run(self, stopped: asyncio.Event) -> None:
        """Serve until `stopped` is set."""
        if self._server:
            self._show(self._server)
        try:
            await self._relay.run(stopped)
        finally:
            if self._server:
                await asyncio.to_thread(self._server.close)

    def _show(self, server: PageServer) -> None:
        measurements = self._measurements
        health = Health(self._stuck, lambda: measurements.store_answered_at)

        def gauges() -> Iterator[Sample]:
            yield from ((of.SERVED, (name,), 1) for name in self._relay.serving)
            if (seconds := health.store_silent_seconds()) is not None:
                yield (CONTACT, (), seconds)

        self._values.read_from(gauges)
        if self._settings.metrics_store:
            loop = asyncio.get_running_loop()

            def read() -> Overview:
                return asyncio.run_coroutine_threadsafe(self._read(), loop).result()

            self._values.read_from(StoreSamples(read, self._values.lanes))
        server.start(
            {
                "/metrics": lambda accept: Page(*self._values.text(accept)),
                "/livez": lambda _: health_page(health.live()),
                "/readyz": lambda _: health_page(health.ready()),
                "/startupz": lambda _: health_page(health.started()),
            }
        )

    def _stuck(self) -> Mapping[str, float]:
        silence = time.monotonic() - self._relay.turned_at
        return {"relay": silence} if silence > STUCK_SECONDS else {}

    async def _read(self) -> Overview:
        async with asyncio.timeout(SCRAPE_SECONDS):
            return await read_overview(self._redis)
