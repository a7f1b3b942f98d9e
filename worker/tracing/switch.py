"""Whether this process writes spans. OpenTelemetry's own variables decide; no setting repeats them.

Nothing of OpenTelemetry is imported unless spans are wanted.
"""

import os
from importlib import import_module
from typing import Final, Protocol

import structlog

from worker.engine.tracing import Tracer, Untraced

log = structlog.get_logger()

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL: Final = "http/protobuf"


class Tracing(Tracer, Protocol):
    """A tracer of the engine and of the calls to AWS. Its methods never raise."""

    def called(self, account: str, region: str, method: str, status: int, seconds: float) -> None:
        """Note an HTTP request to AWS for the claim in progress; a status of 0: no answer."""
        ...

    def close(self) -> None:
        """Send what is left, within a short time."""
        ...


class _Off(Untraced):
    def called(
        self, account: str, region: str, method: str, status: int, seconds: float
    ) -> None: ...

    def close(self) -> None: ...


OFF: Final[Tracing] = _Off()


def open_tracing(instance: str, event_source: str) -> Tracing:
    """Return what writes the spans of this process, or OFF.

    `instance` names the worker in them, and `event_source` is the source of its events.
    """
    endpoint = _first_of(*ENDPOINTS)
    if not endpoint or not _is_wanted():
        return OFF
    protocol = _first_of(*PROTOCOLS) or PROTOCOL
    if protocol != PROTOCOL:
        log.warning("tracing.unavailable", error=f"{protocol} is not supported, {PROTOCOL} is")
        return OFF
    try:
        export = import_module("worker.tracing.export")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        remedy = "install the extra `otel`, or unset the endpoint"
        log.warning("tracing.unavailable", error=str(error), remedy=remedy)
        return OFF
    try:
        tracing: Tracing = export.OtlpTracing(instance, event_source)
    except Exception as error:  # noqa: BLE001 - no wrong variable of OpenTelemetry's may stop a worker
        log.warning(
            "tracing.unavailable", error=str(error), remedy="correct OpenTelemetry's variables"
        )
        return OFF
    log.info("tracing.opened", endpoint=endpoint)
    return tracing


def _is_wanted() -> bool:
    exporters = _first_of("OTEL_TRACES_EXPORTER") or "otlp"
    is_disabled = _first_of("OTEL_SDK_DISABLED").lower() == "true"
    return not is_disabled and "otlp" in [each.strip() for each in exporters.split(",")]


def _first_of(*names: str) -> str:
    """Return the first of these variables that is not empty; '' if all are."""
    return next(filter(None, (os.environ.get(name, "").strip() for name in names)), "")
