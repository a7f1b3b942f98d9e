"""The consumer of a worker. A message that Celery can't handle harms nothing and leaves a trace.

In Celery's own consumer, an exception caused by a malformed header ends the worker, and then every
worker that takes the message next. Celery drops messages with foreseen errors, and only logs that.
Here both become a rejected import, under the task's id if possible.

If a queue exists with other arguments, the worker ends instead of retrying forever. A valid message
is never refused: if the worker fails on it, the message stays unacknowledged.
"""

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import structlog
from amqp.exceptions import PreconditionFailed
from celery.exceptions import InvalidTaskError, WorkerShutdown
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict
from vine import promise

from config.names import (
    BATCH_TASK,
    EXPIRES_HEADER,
    FINISH_HEADER,
    NOT_BEFORE_HEADER,
    TRACEPARENT_HEADER,
    TRACESTATE_HEADER,
)
from worker.domain.traces import TraceContext, read_trace
from worker.doors.compression import MAX_MESSAGE_BYTES, WAYS
from worker.operations.registry import OPERATIONS
from worker.runtime import runtime_of_process
from worker.store.connection import StoreUnavailableError

log = structlog.get_logger()
_logger = get_logger(__name__)

REFUSED_SECONDS: Final = 1.0

_IMPORT_TASKS: Final = frozenset(OPERATIONS.tasks.values())

_DELAYED_DELIVERY: Final = "celery.worker.consumer.delayed_delivery:DelayedDelivery"
"""Celery's own step for countdowns on quorum queues. It declares 28 more queues, which only
producers that use other exchanges need."""

_STEPS: Final = [step for step in Consumer.Blueprint.default_steps if step != _DELAYED_DELIVERY]

QUEUE_REMEDY: Final = (
    "let producers declare the queue as workers do: durable, of the type in IMPORTS_QUEUE_TYPE,"
    " without other arguments; the queue that is there can be deleted once it is empty"
)

Text = Annotated[str, Field(max_length=10_000)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Headers(_Part):
    id: Annotated[str, Field(min_length=1, max_length=255)]
    task: Annotated[str, Field(min_length=1, max_length=255)]
    root_id: Text | None = None
    parent_id: Text | None = None
    group: Text | None = None
    group_index: int | None = None
    eta: Text | None = None
    expires: Text | float | None = None
    retries: Annotated[int, Field(ge=0)] | None = None
    timelimit: tuple[float | None, float | None] | None = Field(default=None, strict=False)
    shadow: Text | None = None
    origin: Text | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: int | None = None
    stamped_headers: list[Text] | None = None
    stamps: dict[Text, Any] | None = None


class _Properties(_Part):
    correlation_id: Text | None = None
    reply_to: Text | None = None
    priority: Annotated[int, Field(ge=0, le=255)] | None = None


class _Signature(TypedDict):
    task: Text
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]


class _Embedded(_Part):
    callbacks: list[_Signature] | None = None
    errbacks: list[_Signature] | None = None
    chain: list[_Signature] | None = None
    chord: _Signature | None = None


_BODY: Final = TypeAdapter(tuple[list[Any], dict[str, Any], _Embedded])


class ImportsConsumer(Consumer):
    """Celery's consumer, made safe for messages of any kind."""

    # Celery has these attributes, but its stubs leave them out
    connection_errors: tuple[type[Exception], ...]
    channel_errors: tuple[type[Exception], ...]

    Blueprint = type("Blueprint", (Consumer.Blueprint,), {"default_steps": _STEPS})

    def connect(self) -> Any:
        """Return a new connection on which every queue is declared.

        The producers' queue is declared even if this worker does not consume it, because restored
        messages return to it.
        """
        connection = super().connect()
        try:
            with connection.channel() as channel:
                for queue in self.app.amqp.queues.values():
                    queue(channel).declare()
        except PreconditionFailed as error:
            log.critical("queue.refused", error=error.reply_text, remedy=QUEUE_REMEDY)
            connection.close()
            raise WorkerShutdown(1) from error
        except BaseException:
            connection.collect()
            raise
        return connection

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Log why the broker was lost; Celery shows only the class of the error."""
        log.warning("broker.lost", error=str(exc) or type(exc).__name__)
        super().on_connection_error_after_connected(exc)
        self._pause_if_refused(exc)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Wait a little before connecting again to a broker that answers but refuses."""
        super().on_connection_error_before_connected(exc)
        self._pause_if_refused(exc)

    def _pause_if_refused(self, error: Exception) -> None:
        # Celery waits if the broker does not answer, but not in this case
        if isinstance(error, self.channel_errors):
            time.sleep(REFUSED_SECONDS)

    def create_task_handler(self, promise: Any = promise) -> Callable[[Any], Any]:
        """Return the function that is called with each message."""
        handle = super().create_task_handler(promise)

        def on_task_received(message: Any) -> Any:
            try:
                self._check(message)
            except Exception as error:  # noqa: BLE001 - malformed headers may fail in any way
                return self._refuse(message, error)
            try:
                _take_times(message)
                return handle(message)
            except self.connection_errors:
                raise
            except Exception:
                # The message is valid, so this worker is at fault. Another worker may succeed.
                log.exception("message.unhandled", task_id=message.headers.get("id"))

        return on_task_received

    def on_invalid_task(self, _body: Any, message: Any, exc: Exception) -> None:
        """Refuse a message with a wrong member or content type."""
        self._refuse(message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Refuse a message whose body can't be read."""
        self._refuse(message, exc)

    def _check(self, message: Any) -> None:
        """Check what Celery assumes about a message of protocol 2, the one that this project uses.

        Raises:
            Exception: of any kind, if Celery can't create a request from the message.

        """
        if len(message.body or "") > MAX_MESSAGE_BYTES:
            raise InvalidTaskError(f"its body is longer than {MAX_MESSAGE_BYTES} bytes")
        payload = message.payload
        if isinstance(payload, Mapping) and "task" in payload:
            raise InvalidTaskError(
                "it is of Celery's message protocol 1, and 2 is needed (task_protocol = 2)"
            )
        headers = _Headers.model_validate(message.headers)
        _Properties.model_validate(message.properties)
        _BODY.validate_python(payload)
        if task := self.app.tasks.get(headers.task):
            Request(message, app=self.app, task=task)

    def _refuse(self, message: Any, error: Exception) -> None:
        runtime = runtime_of_process(self.app)
        refusing = runtime.admitter.reject_message(
            _task_id_of(message),
            message.delivery_tag,
            _sentence(error),
            ignores_result=_ignores_result(message),
            trace=_trace_of(message),
        )
        try:
            runtime.run(refusing)
        except StoreUnavailableError:
            message.requeue_log_error(_logger, self.connection_errors)
        else:
            message.reject_log_error(_logger, self.connection_errors)


def _take_times(message: Any) -> None:
    """Hide an import task's start time and expiry from Celery.

    Celery would hold the message in this worker, unacknowledged. If the message came twice, Celery
    would end the task although the import is under way. Messages that end an import are not
    delayed, and a batch task admits its requests at once.
    """
    headers = message.headers
    is_import = headers["task"] in _IMPORT_TASKS
    if not (is_import or headers["task"] == BATCH_TASK) or FINISH_HEADER in headers:
        return
    taken = {"eta": NOT_BEFORE_HEADER}
    if is_import:
        taken["expires"] = EXPIRES_HEADER
    moved = {ours: headers[theirs] for theirs, ours in taken.items() if headers.get(theirs)}
    message.headers = {**headers, **dict.fromkeys(taken), **moved}


def _task_id_of(message: Any) -> object:
    """Return the id by which the sender knows the task, from wherever it is; None for none."""
    places = [message.headers, _payload_of(message), message.properties]
    found = (
        place.get(name)
        for place, name in zip(places, ("id", "id", "correlation_id"), strict=True)
        if isinstance(place, Mapping)
    )
    return next((task_id for task_id in found if task_id), None)


def _ignores_result(message: Any) -> bool:
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    return headers.get("ignore_result") is True


def _trace_of(message: Any) -> TraceContext | None:
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    return read_trace(headers.get(TRACEPARENT_HEADER), headers.get(TRACESTATE_HEADER))


def _payload_of(message: Any) -> object:
    try:
        return message.payload
    except Exception:  # noqa: BLE001 - that it can't be read may be the reason for the refusal
        return None


def _sentence(error: Exception) -> str:
    """Return what is wrong with a message, in one sentence."""
    match error:
        case ValidationError():
            detail = error.errors(include_url=False)[0]
            member = ".".join(map(str, detail["loc"])) or error.title
            if detail["type"] == "missing":
                return f"its member {member} is missing"
            return f"its member {member} is wrong: {detail['msg']}"
        case InvalidTaskError():
            return str(error)
        case KeyError():  # from kombu, while it reads the body; everything else has been checked
            return f"its compression is none of {WAYS}"
        case _:
            return f"{type(error).__name__}: {error}"
