"""Sends spans to a collector by OTLP over HTTP, as OpenTelemetry's variables say.

Spans are sent on a thread of OpenTelemetry's, from a queue with a bound. If the collector is away,
spans are lost; nothing waits for them.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from config.release import PACKAGE, RELEASE
from worker.tracing.spans import Ids, Spans

log = structlog.get_logger()

CLOSE_SECONDS: Final = 2.0
"""How long a worker that stops waits for a collector."""

SAID_AGAIN_SECONDS: Final = 300.0


class OtlpTracing(Spans):
    """The spans of this process. `instance` names the worker in them. Create it after any fork."""

    def __init__(self, instance: str, event_source: str) -> None:
        ids = Ids()
        _say_seldom()
        provider = TracerProvider(
            resource=_resource(instance), id_generator=ids, shutdown_on_exit=False
        )
        self._exporter = OTLPSpanExporter()
        provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._provider = provider
        super().__init__(provider.get_tracer(PACKAGE, RELEASE), ids, event_source)

    def close(self) -> None:
        """Send what is left; give up after a short time."""
        closing = threading.Thread(target=self._close, name="tracing", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # ends its waits for the next try

    def _close(self) -> None:
        self._provider.force_flush()
        self._provider.shutdown()


def _resource(instance: str) -> Resource:
    """Return what spans say about this process; the environment's words count first."""
    own = {
        SERVICE_NAME: PACKAGE,
        SERVICE_VERSION: RELEASE,
        SERVICE_INSTANCE_ID: instance,
    }
    named = OTELResourceDetector().detect().attributes
    return Resource.create({name: text for name, text in own.items() if name not in named})


class Seldom(logging.Handler):
    """Logs the first of many complaints, and how many others there were before it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._next = -float("inf")
        self._unsaid = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Log a complaint, unless another one was logged a short time ago."""
        if self._clock() < self._next:
            self._unsaid += 1
            return
        log.warning("tracing.failed", error=record.getMessage(), unsaid=self._unsaid)
        self._next, self._unsaid = self._clock() + SAID_AGAIN_SECONDS, 0


def _say_seldom() -> None:
    """Log OpenTelemetry's complaints, such as one for each failed request, now and then only."""
    complaints = logging.getLogger("opentelemetry")
    complaints.propagate = False
    complaints.handlers[:] = [Seldom()]
