"""The spans of an import: which there are, how they hang together, and what they say.

    import (CONSUMER)                   from its acceptance to its end
    ├── wait                            from its acceptance to its first start
    ├── AmplifyBackend.… (CLIENT)       each HTTP request to AWS
    └── send imports:events (PRODUCER)  each script that accepts, starts or ends it

An import may outlive every process that works on it. So its own span is written when it has ended,
with its true times. Its id follows from the import id, so that all workers know it from the
beginning and can write the spans below it.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from pydantic.alias_generators import to_pascal

from config.text import mask_text
from worker.domain.claims import Claim
from worker.domain.events import EventType
from worker.domain.imports import Import
from worker.domain.states import State
from worker.domain.traces import TraceContext, own_span_id
from worker.engine.tracing import claim_in_progress
from worker.store.keys import EVENTS

SERVICE: Final = "AmplifyBackend"
_FAILURES: Final = frozenset({State.FAILED, State.REJECTED, State.TIMED_OUT})

_given: ContextVar[tuple[int, int] | None] = ContextVar("given", default=None)


class Ids(RandomIdGenerator):
    """Random ids, except for spans whose ids are known."""

    @contextmanager
    def of_span(self, trace_id: int, span_id: int) -> Iterator[None]:
        """Give these ids to the spans that are started in this context."""
        token = _given.set((trace_id, span_id))
        try:
            yield
        finally:
            _given.reset(token)

    def generate_trace_id(self) -> int:
        """Return the id of the next trace."""
        given = _given.get()
        return given[0] if given else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """Return the id of the next span."""
        given = _given.get()
        return given[1] if given else super().generate_span_id()


class Spans:
    """Starts and ends the spans of imports with `tracer`, whose provider uses `ids`.

    `event_source` is the CloudEvents `source` of the events.
    """

    def __init__(self, tracer: Tracer, ids: Ids, event_source: str) -> None:
        self._tracer = tracer
        self._ids = ids
        self._event_source = event_source

    def begin(self, import_id: str, given: TraceContext | None) -> TraceContext:
        """Return the context of a new import; the sampler decides whether it is kept."""
        above = _below(given, given.span_id) if given else Context()
        own = int(own_span_id(import_id), 16)
        with self._ids.of_span(self._ids.generate_trace_id(), own):
            # never ended: `ended` starts it again, perhaps in another process and much later
            span = self._tracer.start_span("import", above, SpanKind.CONSUMER)
        context = span.get_span_context()
        return TraceContext(
            trace_id=format_trace_id(context.trace_id),
            span_id=format_span_id(context.span_id),
            flags=int(context.trace_flags),
            state=context.trace_state.to_header(),
            parent_id=given.span_id if given else "",
        )

    def called(self, account: str, region: str, method: str, status: int, seconds: float) -> None:
        """Write the span of an HTTP request that has just ended."""
        claim = claim_in_progress()
        if claim is None or not (trace := _kept(claim.item.trace)):
            return
        now = time.time_ns()
        began = now - round(seconds * 1e9)
        attributes = _of_call(claim, f"{account}/{region}", to_pascal(method), status)
        name, above = f"{SERVICE}.{attributes['rpc.method']}", _below(trace, _own(claim.item.id))
        failure = "" if 200 <= status < 400 else f"HTTP {status}" if status else "no answer"
        self._write(name, above, SpanKind.CLIENT, (began, now), attributes, failure)

    def appended(
        self, import_id: str, trace: TraceContext | None, event: EventType, began_ns: int
    ) -> None:
        """Write the span of a script that appended an event."""
        if not (trace := _kept(trace)):
            return
        attributes = {
            "messaging.system": "redis",
            "messaging.operation.name": "XADD",
            "messaging.operation.type": "send",
            "messaging.destination.name": EVENTS.name,
            "cloudevents.event_id": f"{import_id}/{event.removeprefix('import.')}",
            "cloudevents.event_source": self._event_source,
            "cloudevents.event_type": event.value,
            "imports.id": import_id,
        }
        above, times = _below(trace, _own(import_id)), (began_ns, time.time_ns())
        self._write(f"send {EVENTS.name}", above, SpanKind.PRODUCER, times, attributes)

    def ended(self, item: Import) -> None:
        """Write the span of the import, and that of its wait. Their times are the store's."""
        if not (trace := _kept(item.trace)):
            return
        own, accepted, finished = _own(item.id), item.accepted_at_ms, item.finished_at_ms
        waited_until = max(accepted, item.first_start_at_ms or finished)
        if waited_until > accepted:
            below, times = _below(trace, own), _nanoseconds(accepted, waited_until)
            attributes = {"imports.id": item.id, "imports.lane": item.lane}
            self._write("wait", below, SpanKind.INTERNAL, times, attributes)
        # a context that names another span came with the request, or from the import it retries
        parent_id = item.parent_span if trace.span_id == own else trace.span_id
        above = _below(trace, parent_id) if parent_id else Context()
        failure = (item.error or item.state.value) if item.state in _FAILURES else ""
        with self._ids.of_span(int(trace.trace_id, 16), int(own, 16)):
            times = _nanoseconds(accepted, max(accepted, finished))
            self._write("import", above, SpanKind.CONSUMER, times, _of_import(item), failure)

    def _write(
        self,
        name: str,
        context: Context,
        kind: SpanKind,
        times: tuple[int, int],
        attributes: Mapping[str, Any],
        failure: str = "",
    ) -> None:
        began, ended = times
        span = self._tracer.start_span(name, context, kind, attributes, start_time=began)
        if failure:
            span.set_status(Status(StatusCode.ERROR, mask_text(failure)))
        span.end(ended)


_own: Final = own_span_id


def _kept(trace: TraceContext | None) -> TraceContext | None:
    return trace if trace and trace.is_sampled else None


def _below(trace: TraceContext, span_id: str) -> Context:
    """Return a context in which spans are children of this span of the trace."""
    span = SpanContext(
        int(trace.trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(trace.flags),
        trace_state=TraceState.from_header([trace.state]) if trace.state else None,
    )
    return set_span_in_context(NonRecordingSpan(span), Context())


def _nanoseconds(*milliseconds: int) -> tuple[int, int]:
    began, ended = milliseconds
    return began * 1_000_000, ended * 1_000_000


def _of_call(claim: Claim, lane: str, method: str, status: int) -> dict[str, Any]:
    """Return the attributes of a call (semantic conventions of AWS SDK client spans)."""
    answered = {"http.response.status_code": status} if status else {}
    failed = {} if 200 <= status < 400 else {"error.type": str(status) if status else "no_answer"}
    return {
        "rpc.system": "aws-api",
        "rpc.service": SERVICE,
        "rpc.method": method,
        "cloud.region": lane.rpartition("/")[2],
        "imports.id": claim.item.id,
        "imports.lane": lane,
        "imports.call": claim.call.value,
        "imports.attempt": claim.item.attempts,
        **answered,
        **failed,
    }


def _of_import(item: Import) -> dict[str, Any]:
    texts = {
        "imports.id": item.id,
        "imports.batch_id": item.batch_id,
        "imports.target": item.target,
        "imports.lane": item.lane,
        "imports.operation": item.requested_operation,
        "imports.priority": item.priority,
        "imports.job_id": item.job_id,
        "imports.outcome": item.state.value,
        "imports.retry_of": item.retry_of,
    }
    counts = {
        "imports.attempts": item.attempts,
        "imports.polls": item.polls,
        "imports.conflicts": item.conflicts,
        "imports.doubts": item.doubts,
        "imports.throttled": item.throttled,
    }
    return {**{name: text for name, text in texts.items() if text}, **counts}
