"""The consumer of a worker: a message that Celery can't take hurts nobody, and leaves a trace.

Celery's own lets an exception that a strange header raises climb up, and the worker ends; each
worker that takes the message next ends as well. What it does foresee, it drops with no more than a
line in its log. Here both become a rejected import, under the task's id where that is possible.
A queue that its broker has otherwise ends the worker, in place of being tried for ever.
A message that is good is never refused: should the worker fail on it, it stays unacknowledged.
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
    IMPORT_TASK,
    NOT_BEFORE_HEADER,
)
from worker.compression import MAX_MESSAGE_BYTES, WAYS
from worker.runtime import runtime_of_process
from worker.store.connection import StoreUnavailableError

log = structlog.get_logger()
_logger = get_logger(__name__)

REFUSED_SECONDS: Final = 1.0

_DELAYED_DELIVERY: Final = "celery.worker.consumer.delayed_delivery:DelayedDelivery"
"""Celery's own way with countdowns on quorum queues: 28 more, for producers of other exchanges."""

_STEPS: Final = [step for step in Consumer.Blueprint.default_steps if step != _DELAYED_DELIVERY]

_REMEDY: Final = (
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
    """Celery's consumer, for messages of any kind."""

    connection_errors: tuple[type[Exception], ...]  # Celery's own; its stubs leave them out
    channel_errors: tuple[type[Exception], ...]

    Blueprint = type("Blueprint", (Consumer.Blueprint,), {"default_steps": _STEPS})

    def connect(self) -> Any:
        """Return a new connection, on which every queue is declared.

        The producers' as well where others consume it: messages that come back return to it.
        """
        connection = super().connect()
        try:
            with connection.channel() as channel:
                for queue in self.app.amqp.queues.values():
                    queue(channel).declare()
        except PreconditionFailed as error:
            log.critical("queue.refused", error=error.reply_text, remedy=_REMEDY)
            connection.close()
            raise WorkerShutdown(1) from error
        except BaseException:
            connection.collect()
            raise
        return connection

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Say why the broker was lost; Celery shows the class of the error alone."""
        log.warning("broker.lost", error=str(exc) or type(exc).__name__)
        super().on_connection_error_after_connected(exc)
        self._pause_if_refused(exc)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Wait a little before a broker is asked again that answers, and refuses."""
        super().on_connection_error_before_connected(exc)
        self._pause_if_refused(exc)

    def _pause_if_refused(self, error: Exception) -> None:
        if isinstance(error, self.channel_errors):  # Celery waits for one that is away, not here
            time.sleep(REFUSED_SECONDS)

    def create_task_handler(self, promise: Any = promise) -> Callable[[Any], Any]:
        """Return what is called with each message."""
        handle = super().create_task_handler(promise)

        def on_task_received(message: Any) -> Any:
            try:
                self._check(message)
            except Exception as error:  # noqa: BLE001 - headers of any make fail in any way
                return self._refuse(message, error)
            try:
                _take_times(message)
                return handle(message)
            except self.connection_errors:
                raise
            except Exception:
                # The message is good, so what failed is this worker; another one may do better.
                _logger.exception("message.unhandled: it stays unacknowledged")

        return on_task_received

    def on_invalid_task(self, _body: Any, message: Any, exc: Exception) -> None:
        """Refuse a message of which a member is wrong, or its content type."""
        self._refuse(message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Refuse a message whose body can't be read."""
        self._refuse(message, exc)

    def _check(self, message: Any) -> None:
        """Check what Celery takes for granted of a message of protocol 2, the one that we speak.

        Raises:
            Exception: of any kind, when Celery can't make a request of the message.

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
        )
        try:
            runtime.run(refusing)
        except StoreUnavailableError:
            message.requeue_log_error(_logger, self.connection_errors)
        else:
            message.reject_log_error(_logger, self.connection_errors)


def _take_times(message: Any) -> None:
    """Keep from Celery when the task of an import is to start, and until when.

    Celery would hold it in this worker, unacknowledged; and end it though the import is under way,
    should the message come twice. An end is told at any time, and a batch's task admits at once.
    """
    headers = message.headers
    if headers["task"] not in (IMPORT_TASK, BATCH_TASK) or FINISH_HEADER in headers:
        return
    taken = {"eta": NOT_BEFORE_HEADER}
    if headers["task"] == IMPORT_TASK:
        taken["expires"] = EXPIRES_HEADER
    moved = {ours: headers[theirs] for theirs, ours in taken.items() if headers.get(theirs)}
    message.headers = {**headers, **dict.fromkeys(taken), **moved}


def _task_id_of(message: Any) -> object:
    """Return the id by which the sender knows the task, wherever it stands; None for none."""
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


def _payload_of(message: Any) -> object:
    try:
        return message.payload
    except Exception:  # noqa: BLE001 - that it can't be read may be why it is refused
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
        case KeyError():  # kombu's own, while it reads the body; all else was checked
            return f"its compression is none of {WAYS}"
        case _:
            return f"{type(error).__name__}: {error}"
