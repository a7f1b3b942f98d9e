"""Ends the Celery task of an import natively: here, without a message and without the pool.

Celery itself does the work: its tracer runs the task with the request that the producer's message
would have had. Result, links, chains, groups, chords and error callbacks are therefore Celery's
own.
"""

import json
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from celery import Celery, Task, states
from celery.app.trace import TraceInfo, build_tracer
from celery.canvas import Signature
from celery.exceptions import BackendError, Ignore
from celery.worker.request import Request
from kombu.exceptions import OperationalError
from kombu.message import Message
from kombu.utils.functional import maybe_list
from redis.exceptions import RedisError

from worker.domain.imports import Import, ImportResult

UNAVAILABLE: Final = (OSError, OperationalError, RedisError, BackendError)
"""What the result backend and the broker raise if they can't be reached or refuse."""

_completed: ContextVar[Import | None] = ContextVar("completed", default=None)
import_in_completion: Final = _completed.get
"""Returns the import whose task is being completed in this context; None in any other."""

_backend: ContextVar[Any] = ContextVar("backend", default=None)
backend_in_completion: Final = _backend.get
"""Returns the backend for the result of that task; None in any other context."""


def outcome_of(task: "Task[..., Any]", item: Import) -> ImportResult:
    """Return what the running task of an ended import returns.

    Raises:
        ImportEndedError: one of its subclasses, if the import did not succeed.
        Ignore: if the import has expired; the task is then marked as revoked.

    """
    if item.has_expired:
        request = task.request
        task.backend.mark_as_revoked(
            str(request.id), item.error, request=request, store_result=not request.ignore_result
        )
        raise Ignore
    if error := item.ended_error():
        raise error
    return item.result()


class Completion:
    """Completes tasks on the thread that calls it."""

    def __init__(self, app: "Celery", hostname: str | None = None) -> None:
        self._app = app
        self._hostname = hostname
        self._tracers: dict[str, Callable[..., Any]] = {}

    def complete(self, item: Import, text: str, backend: Any) -> tuple[Exception | None, str]:
        """Complete the task with this signature (JSON). Safe to repeat.

        The task's result is stored in `backend`. Returns the error of a task that failed, and the
        task's final state in Celery.

        Raises:
            Exception: one of UNAVAILABLE, if the result backend or the broker failed. Whatever
                has been stored and sent by then remains.

        """
        request = self._request_of(Signature.from_dict(json.loads(text), app=self._app))
        if request.revoked():
            return None, states.REVOKED
        args, kwargs, embedded = request.body
        tokens = (_completed.set(item), _backend.set(backend))
        try:
            traced = self._tracer_of(request.task)(
                request.id, args, kwargs, {**request.request_dict, "is_eager": False, **embedded}
            )
        finally:
            _completed.reset(tokens[0])
            _backend.reset(tokens[1])
        if traced.info is None:
            return None, states.SUCCESS
        if traced.info.state == states.FAILURE:
            return traced.info.retval, states.FAILURE
        return None, states.REVOKED

    def _request_of(self, signature: Signature) -> Any:
        """Return the request that a worker would make of the signature's message."""
        options = dict(signature.options)
        queue, priority = options.pop("queue", None), options.pop("priority", None)
        own_headers = options.pop("headers", None) or {}
        prepared = self._app.amqp.as_task_v2(
            options.pop("task_id"),
            str(signature.task),
            signature.args,
            signature.kwargs,
            callbacks=maybe_list(options.pop("link", None)),
            errbacks=maybe_list(options.pop("link_error", None)),
            **options,
        )
        properties = {**prepared.properties, "priority": priority}
        headers = {**prepared.headers, **own_headers}
        message: Any = Message(
            properties=properties,
            headers=headers,
            delivery_info={"exchange": "", "routing_key": queue},
        )
        return Request(
            message, app=self._app, hostname=self._hostname, body=prepared.body, decoded=True
        )

    def _tracer_of(self, task: "Task[..., Any]") -> Callable[..., Any]:
        if task.name not in self._tracers:
            self._tracers[task.name] = build_tracer(
                task.name, task, app=self._app, hostname=self._hostname, Info=_Repeatable
            )
        return self._tracers[task.name]


class _Repeatable(TraceInfo):
    """A task does not fail because the result backend or the broker does."""

    def handle_error_state(self, *args: Any, **options: Any) -> Any:
        if isinstance(self.retval, UNAVAILABLE):
            raise self.retval
        return super().handle_error_state(*args, **options)
