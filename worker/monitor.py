"""What a worker shows of itself by HTTP: metrics, and whether it is live, ready and started."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from config.settings import Settings
from worker.metrics import catalogue as of
from worker.metrics.health import Health
from worker.metrics.registry import open_values, receive_measurements
from worker.metrics.server import Page, PageServer, health_page
from worker.metrics.store_samples import SCRAPE_SECONDS, StoreSamples
from worker.metrics.values import Sample
from worker.runtime import Runtime

TICK_SECONDS: Final = 1.0


class LoopLag:
    """How late an event loop runs its timers."""

    def __init__(self) -> None:
        self._due = time.monotonic()
        self._last = 0.0

    async def start(self) -> None:
        """Begin to measure the running loop."""
        self._arm(asyncio.get_running_loop())

    def seconds(self) -> float:
        """Return how late the last timer was, or how late the next one already is."""
        return max(self._last, time.monotonic() - self._due, 0.0)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = time.monotonic() + TICK_SECONDS
        loop.call_later(TICK_SECONDS, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._last = max(0.0, time.monotonic() - self._due)
        self._arm(loop)


class Monitor:
    """The metrics and the health of one worker. It listens at once, and answers after `start`.

    Create it before the pool forks.

    Raises:
        SystemExit: if it can't listen there, with one sentence that names the setting.

    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lag = LoopLag()
        self._health: Health | None = None
        try:
            self._server = PageServer(settings.metrics_host, settings.metrics_port)
        except OSError as error:
            where = f"{settings.metrics_host}:{settings.metrics_port}"
            raise SystemExit(
                f"amplify-import-worker: IMPORTS_METRICS_PORT: cannot listen on {where}:"
                f" {error.strerror}; each worker of a machine needs a port of its own, or 0 for"
                " none"
            ) from None
        self._values = open_values()

    def start(
        self,
        runtime: Runtime,
        in_flight: Callable[[], int],
        silence: Callable[[], Mapping[str, float]],
        stuck: Callable[[], Mapping[str, float]],
    ) -> None:
        """Begin to answer.

        `in_flight` returns the number of calls in progress, `silence` for how many seconds each
        watched part has made no progress, and `stuck` those of them that are silent for too long.
        """
        measurements = runtime.measurements
        health = Health(
            stuck,
            lambda: measurements.store_answered_at,
            queue_failing_since=lambda: measurements.queue_failing_since,
        )
        self._health = health
        receive_measurements()
        runtime.begin(self._lag.start())

        self._values.read_from(lambda: self._gauges(health, in_flight(), silence()))
        if self._settings.metrics_store:
            self._read_store(runtime)
        self._server.start(
            {
                "/metrics": lambda accept: Page(*self._values.text(accept)),
                "/livez": lambda _: health_page(health.live()),
                "/readyz": lambda _: health_page(health.ready()),
                "/startupz": lambda _: health_page(health.started()),
            }
        )

    def note_stopping(self) -> None:
        """Show from now on that the worker is stopping."""
        if self._health is not None:
            self._health.note_stopping()

    def close(self) -> None:
        """Answer no more."""
        self._server.close()

    def _gauges(
        self, health: Health, in_flight: int, silence: Mapping[str, float]
    ) -> Iterator[Sample]:
        yield (of.IN_FLIGHT, (), in_flight)
        yield (of.IN_FLIGHT_LIMIT, (), self._settings.max_in_flight)
        yield (of.LOOP_LAG, (), self._lag.seconds())
        yield from ((of.SILENCE, (part,), seconds) for part, seconds in silence.items())
        if (seconds := health.store_silent_seconds()) is not None:
            yield (of.CONTACT, (), seconds)
        if self._settings.sqs_requests_url:
            yield (of.SQS_FAILING, (), health.queue_failing_seconds())

    def _read_store(self, runtime: Runtime) -> None:
        samples = StoreSamples(
            lambda: runtime.run_within(runtime.overview(), SCRAPE_SECONDS), self._values.lanes
        )
        self._values.read_from(samples)
