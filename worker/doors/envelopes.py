"""Reads from a Celery task what its import is to be admitted with."""

from datetime import UTC
from typing import Any

from celery.app.task import Context
from celery.exceptions import InvalidTaskError
from celery.utils.time import maybe_iso8601
from kombu.utils.json import dumps

from config.names import (
    EXPIRES_HEADER,
    FINISH_QUEUE,
    NOT_BEFORE_HEADER,
    TRACEPARENT_HEADER,
    TRACESTATE_HEADER,
)
from worker.domain.outcomes import Envelope
from worker.domain.traces import TraceContext, read_trace


def envelope_of(task: Any, request: Context) -> Envelope:
    """Return the envelope of the import of a task's request. `task` has an `operation`.

    Raises:
        InvalidTaskError: if one of our own headers, which producers don't set, is wrong.

    """
    task_id = str(request.id)
    signature = task.signature_from_request(request, queue=FINISH_QUEUE, expires=None)
    return Envelope(
        import_id=task_id,
        task_id=task_id,
        operation=task.operation,
        signature=dumps(signature),
        not_before_ms=not_before_ms(request),
        expires_at_ms=_time_in(request, EXPIRES_HEADER),
        ignores_result=bool(request.ignore_result),
        trace=trace_of(request),
    )


def members_of(request: Context) -> object:
    """Return the members of a task's request. In a chain, the previous result is none of them."""
    args, members = request.args or (), request.kwargs or {}
    if not args or (len(args) == 1 and _is_import_result(args[0])):
        return members
    return {"arguments": list(args), **members}


def not_before_ms(request: Context) -> int:
    """Return when a task's imports may start, in milliseconds since the epoch; 0 for any time."""
    return _time_in(request, NOT_BEFORE_HEADER)


def trace_of(request: Context) -> TraceContext | None:
    """Return the trace that a message's headers name."""
    headers = request.headers or {}
    return read_trace(headers.get(TRACEPARENT_HEADER), headers.get(TRACESTATE_HEADER))


def _is_import_result(value: object) -> bool:
    return isinstance(value, dict) and {"importId", "outcome", "acceptedAt"} <= value.keys()


def _time_in(request: Context, header: str) -> int:
    text = (request.headers or {}).get(header)
    try:
        moment = maybe_iso8601(text)
    except (TypeError, ValueError) as error:
        raise InvalidTaskError(f"its header {header} is no time") from error
    if moment is None:
        return 0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(1, round(aware.timestamp() * 1000))
